"""Reading a YAML file, with every way in which that fails told by file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from streams_queue.config.values import kind
from streams_queue.errors import ConfigError


def read_file(path: str | os.PathLike[str]) -> Mapping[Any, Any]:
    """Return what a YAML file holds; an empty one is an empty mapping. Raises ConfigError."""
    shown = os.fspath(path)
    if "://" in shown or "\n" in shown:
        raise ConfigError(["the configuration must be the path of a YAML file, not a URL and not the text itself"])
    document, problem = _parse(path, shown)
    if problem:
        # Raised out here, so that what was read does not hang on the error as its context: PyYAML quotes from it.
        raise ConfigError([problem])
    if not isinstance(document, Mapping | None):
        raise ConfigError([f"{shown}:1: must hold a mapping, not {kind(document)}"])
    return document or {}


def _parse(path: str | os.PathLike[str], shown: str) -> tuple[Any, str]:
    """Return what a file holds, or what is wrong with it."""
    import yaml

    try:
        # A subclass of the safe loader.
        return yaml.load(Path(path).read_text(encoding="utf-8"), _loader()), ""  # noqa: S506
    except OSError as error:
        return None, f"{shown}: cannot be read: {error.strerror}"
    except yaml.MarkedYAMLError as error:
        return None, _yaml_problem(shown, error)
    except Exception as error:  # noqa: BLE001 - PyYAML lets KeyError, AttributeError and others through for odd tags
        return None, f"{shown}: is not valid YAML ({type(error).__name__})"


@cache
def _loader() -> Any:
    """Return PyYAML's safe loader, except that a few lines of nested merges do not keep it busy for ever."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > _MOST_KEYS:
                problem = f"merging makes more than {_MOST_KEYS} keys"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    return Loader


_MOST_KEYS = 10_000


def _yaml_problem(path: str, error: Any) -> str:
    """Tell where a file is no YAML and why, without what PyYAML quotes from it."""
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    problem = re.sub("'.*'", "…", error.problem or error.context or "unreadable")
    return f"{path}{line}: is not valid YAML: {problem}"
