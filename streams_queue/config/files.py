"""Reading a YAML file, with every way in which that fails told by file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streams_queue.config.values import kind
from streams_queue.errors import ConfigError


def read_file(path: str | os.PathLike[str]) -> Mapping[Any, Any]:
    """Return what a YAML file holds; an empty one is an empty mapping. Raises ConfigError."""
    import yaml

    shown = os.fspath(path)
    if "://" in shown or "\n" in shown:
        raise ConfigError(["the configuration must be the path of a YAML file, not a URL and not the text itself"])
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise ConfigError([f"{shown}: cannot be read: {problem.strerror}"]) from None
    except yaml.MarkedYAMLError as problem:
        raise ConfigError([_yaml_problem(shown, problem)]) from None
    except Exception as problem:  # noqa: BLE001 - PyYAML lets KeyError, AttributeError and others through for odd tags
        raise ConfigError([f"{shown}: is not valid YAML ({type(problem).__name__})"]) from None
    if not isinstance(document, Mapping | None):
        raise ConfigError([f"{shown}:1: must hold a mapping, not {kind(document)}"])
    return document or {}


def _yaml_problem(path: str, error: Any) -> str:
    """Tell where a file is no YAML and why, without what PyYAML quotes from it."""
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    problem = re.sub("'.*'", "…", error.problem or error.context or "unreadable")
    return f"{path}{line}: is not valid YAML: {problem}"
