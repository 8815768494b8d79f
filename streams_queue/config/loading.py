"""Reading a whole configuration: where it comes from, what it must hold, and all that is wrong with it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from streams_queue.config.files import read_file
from streams_queue.config.schema import METRIC, QUEUE, VARIABLE_PREFIX, Section, variables
from streams_queue.config.settings import MEMORY_REQUIRES, MetricBounds, RolloutSettings, Settings
from streams_queue.config.values import FromVariable, Read, ValueProblemError, kind, suggestion
from streams_queue.errors import ConfigError

_ENVIRONMENT_DEFAULTS: Mapping[str, Any] = {"type": "redis", "max_size": 10_000, "timeout": 30.0, "retry_policy": {}}
_SIDES = ("old", "new")
_SECTION_LEVELS = 3  # queue.rollout.old.retry_policy; no cycle leads further
_MISSING_URL = "queue.redis_url: Missing redis_url"
_UNREADABLE = object()  # stands for a value whose variable is not set, which has been reported
_DEFAULTS: Mapping[str, Any] = {item.name: item.default for item in fields(Settings)}
# Words in small letters, or words in CamelCase; whatever else stands for a key may be a value that slipped.
_NAME = re.compile(r"(?=.{1,64}$)([a-z][a-z0-9]*([_.-][a-z0-9]+)*|[A-Za-z][a-z]*([A-Z][a-z]+)*)")
# A default ends before another variable, so that a long value full of beginnings is not read to its end from each.
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-((?:[^}$]|\$(?!\{))*))?\}")


def load_config(
    source: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    environment: str | None = None,
    environ: Mapping[str, str] | None = None,
    require: Iterable[str] = MEMORY_REQUIRES,
) -> Settings:
    """Read and validate the configuration of a queue.

    Args:
        source: The mapping of a `webhook_config.yaml` (its `queue` section counts, and its `metrics` list), the path of
            such a file, or Settings, which are returned as they are. None reads the environment: STREAMS_QUEUE_CONFIG
            names a file, and STREAMS_QUEUE_MAX_SIZE, STREAMS_QUEUE_RETRY_POLICY__MAX_RETRIES … set single keys.
        environment: Its section `environments.<name>.queue` overrides `queue`, key by key. Default for files and
            the environment: STREAMS_QUEUE_ENVIRONMENT.
        environ: Used in place of os.environ.
        require: Which keys must be given; see the constants above.

    Raises:
        ConfigError: Something is missing or wrong; `problems` lists all of it, each with its path.
    """
    required = tuple(dict.fromkeys((*require, *MEMORY_REQUIRES)))  # without these two there are no Settings
    if isinstance(source, Settings):
        if source.redis_url is None and _needs_url(required, source.type):
            raise ConfigError([_MISSING_URL])
        if source.rollout is None and _needs_rollout(required, source.type):
            raise ConfigError(["queue: Missing required fields: rollout"])
        return source
    reading = _Reading(os.environ if environ is None else environ)
    if environment is None and not isinstance(source, Mapping):
        environment = reading.environ.get(f"{VARIABLE_PREFIX}ENVIRONMENT") or None
    document = reading.document(source)
    section = reading.queue_section(document, environment)
    if section is None:
        raise ConfigError([*reading.problems, "queue: Missing queue configuration"])
    section = reading.expand(section, "queue")
    if _needs_rollout(required, section.get("type")):
        required = (*required, "rollout")
    reading.demand(required, section, "queue")
    values = reading.values(_with_whole_sides(section), QUEUE, "queue")
    metrics = reading.metrics(document.get("metrics"))
    reading.compare(values, "queue")
    reading.check_rollout(values, section.get("rollout"))
    if reading.problems:
        raise ConfigError(reading.problems)
    if "rollout" in values:
        values["rollout"] = _rollout(values)
    if metrics:
        values["telemetry"] = replace(values.get("telemetry", _DEFAULTS["telemetry"]), bounds=metrics)
    return Settings(**values)


def _needs_url(required: Iterable[str], queue_type: Any) -> bool:
    """Whether `redis_url` must be there: where `type` must be, too, it decides; a class built directly ignores it."""
    return "redis_url" in required and ("type" not in required or queue_type not in ("asyncio", "rollout"))


def _needs_rollout(required: Iterable[str], queue_type: Any) -> bool:
    return "rollout" in required or ("type" in required and queue_type == "rollout")


def _with_whole_sides(section: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Complete each section that a queue of the rollout has for itself with what `queue` says there."""
    rollout = section.get("rollout")
    if not isinstance(rollout, Mapping):
        return section
    given = {side: rollout[side] for side in _SIDES if isinstance(rollout.get(side), Mapping)}
    shared = {key: value for key, value in section.items() if isinstance(value, Mapping) and key != "rollout"}
    whole = {side: _merge({key: shared[key] for key in own if key in shared}, own) for side, own in given.items()}
    return {**section, "rollout": {**rollout, **whole}}


def _side(values: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return the values of one queue of a rollout: its own, and those of `queue` for the rest."""
    return {**values, "type": "redis", "rollout": None, **values["rollout"].get(side, {})}


def _rollout(values: Mapping[str, Any]) -> RolloutSettings:
    sides = {side: Settings(**_side(values, side)) for side in _SIDES}
    return RolloutSettings(**{**values["rollout"], **sides})


class _Reading:
    """One pass over a configuration that collects problems instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def document(self, source: Any) -> Mapping[Any, Any]:
        """Return the whole configuration as a mapping; raises ConfigError if there is none to be had."""
        if source is None:
            return self._environment_document()
        if isinstance(source, Mapping):
            return source
        if isinstance(source, str | os.PathLike):
            return read_file(source)
        raise ConfigError([f"the configuration must be a mapping or the path of a YAML file, not {kind(source)}"])

    def _environment_document(self) -> Mapping[Any, Any]:
        path = self.environ.get(f"{VARIABLE_PREFIX}CONFIG")
        document = dict(read_file(path)) if path else {"queue": _ENVIRONMENT_DEFAULTS}
        overrides = self._environment_overrides()
        if overrides and isinstance(document.get("queue"), Mapping | None):
            document["queue"] = _merge(document.get("queue") or {}, overrides)
        return document

    def _environment_overrides(self) -> dict[str, Any]:
        known = variables(QUEUE)
        overrides: dict[str, Any] = {}
        for name, text in self.environ.items():
            if name in known:
                *sections, key = known[name]
                target = overrides
                for section in sections:
                    target = target.setdefault(section, {})
                target[key] = FromVariable.named(name, text)
            elif name.startswith(VARIABLE_PREFIX):
                # Only what looks like a slip: Kubernetes sets STREAMS_QUEUE_PORT for a service of that name.
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
                self.problems += [f"{name}: unknown variable; did you mean {known_name}?" for known_name in close]
        return overrides

    def queue_section(self, document: Mapping[Any, Any], environment: str | None) -> Mapping[Any, Any] | None:
        """Return the `queue` section as it counts in this environment; None if there is none."""
        section = document.get("queue")
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError([f"queue: must be a mapping, not {kind(section)}"])
        if environment is None:
            return section
        environments = document.get("environments")
        if not isinstance(environments, Mapping) or environment not in environments:
            known = ", ".join(map(_key_text, environments)) if isinstance(environments, Mapping) else ""
            raise ConfigError(
                [f"environments: unknown environment {_key_text(environment)!r}; known: {known or 'none'}"]
            )
        chosen = environments[environment]
        override = chosen.get("queue") if isinstance(chosen, Mapping) else None
        if not isinstance(override, Mapping | None) or not isinstance(chosen, Mapping | None):
            raise ConfigError([f"environments.{_key_text(environment)}.queue: must be a mapping"])
        return _merge(section or {}, override) if override else section

    def expand(self, given: Mapping[Any, Any], path: str, section: Section = QUEUE) -> dict[Any, Any]:
        """Put the environment's values in place of `${NAME}` and `${NAME:-default}` in all strings of a section."""
        return {
            key: self._expand_value(value, f"{path}.{_key_text(key)}", section.reads.get(key))
            for key, value in given.items()
        }

    def _expand_value(self, value: Any, path: str, known: Read | Section | None) -> Any:
        if isinstance(value, Mapping) and isinstance(known, Section):  # what is no section holds nothing to expand
            return self.expand(value, path, known)
        if not isinstance(value, str) or isinstance(value, FromVariable):
            return value
        variables = list(_VARIABLE.finditer(value))
        unset = [match[1] for match in variables if match[2] is None and match[1] not in self.environ]
        if unset:
            self.problems += [f"{path}: environment variable {name} is not set" for name in unset]
            return _UNREADABLE
        whole = _VARIABLE.fullmatch(value)
        # As in a shell, `:-` also stands in for a variable that is set to nothing.
        text = _VARIABLE.sub(lambda match: self.environ.get(match[1]) or match[2] or "", value)
        return FromVariable.named(whole[1], text) if whole else text

    def demand(self, required: tuple[str, ...], section: Mapping[Any, Any], path: str) -> None:
        """Report what is required and not given."""
        missing = [key for key in required if _is_blank(section.get(key))]
        if "redis_url" in missing:
            missing.remove("redis_url")
            if _needs_url(required, section.get("type")):
                self.problems.append(_MISSING_URL)
        if missing:
            self.problems.append(f"{path}: Missing required fields: {', '.join(missing)}")

    def values(self, given: Mapping[Any, Any], section: Section, path: str) -> dict[str, Any]:
        """Read the keys of one section; what is wrong is reported and left out."""
        values: dict[str, Any] = {}
        for key, value in given.items():
            read = section.reads.get(key) if isinstance(key, str) else None
            if read is None:
                self.problems.append(f"{path}.{_key_text(key)}: unknown key{suggestion(key, section.reads)}")
            elif value is not _UNREADABLE and not _is_blank(value):
                try:
                    values[key] = self._value(value, read, f"{path}.{key}")
                except ValueProblemError as problem:
                    origin = f" (from {value.variable})" if isinstance(value, FromVariable) else ""
                    self.problems.append(f"{path}.{key}: {key} {problem}{origin}")
        return values

    def _value(self, value: Any, read: Read | Section, path: str) -> Any:
        if not isinstance(read, Section):
            return read(value)
        if not isinstance(value, Mapping):
            raise ValueProblemError(f"must be a mapping, not {kind(value)}")
        return read.make(**self.values(value, read, path))

    def metrics(self, given: Any) -> dict[str, MetricBounds]:
        """Read the top-level `metrics` list; a mapping of that name is somebody else's."""
        bounds: dict[str, MetricBounds] = {}
        for index, entry in enumerate(given if isinstance(given, list | tuple) else ()):
            path = f"metrics[{index}]"
            if not isinstance(entry, Mapping):
                self.problems.append(f"{path}: must be a mapping, not {kind(entry)}")
                continue
            self.demand(("name", "type"), entry, path)
            values = self.values(entry, METRIC, path)
            name = values.pop("name", None)
            if name in bounds:
                self.problems.append(f"{path}.name: name is used by an earlier entry")
            elif name is not None and "type" in values:
                bounds[name] = MetricBounds(**values)
        return bounds

    def compare(self, values: Mapping[str, Any], path: str) -> None:
        """Report values that are right each by itself and wrong together."""
        if values.get("max_lease", _DEFAULTS["max_lease"]) < values.get("lease", _DEFAULTS["lease"]):
            self.problems.append(f"{path}.max_lease: max_lease must be at least lease")
        if values.get("type") == "asyncio" and values.get("durability", "accepted") != "accepted":
            self.problems.append(f"{path}.durability: durability needs a server, and an asyncio queue has none")
        policy = values.get("retry_policy")
        if policy and policy.max_delay < policy.base_delay:
            self.problems.append(f"{path}.retry_policy.max_delay: max_delay must be at least base_delay")

    def check_rollout(self, values: Mapping[str, Any], given: Any) -> None:
        """Report what is missing from a rollout or makes no two queues of it."""
        if "rollout" not in values:
            return
        self.demand(("old", "new", "percentage"), given, "queue.rollout")
        sides = {side: _side(values, side) for side in _SIDES if side in values["rollout"]}
        for side, whole in sides.items():
            self._check_side(whole, f"queue.rollout.{side}")
        if len(sides) == len(_SIDES) and _where(sides["old"]) == _where(sides["new"]):
            self.problems.append("queue.rollout.new: new must not be the queue that old is")

    def _check_side(self, values: Mapping[str, Any], path: str) -> None:
        if values["type"] != "asyncio" and values.get("redis_url") is None:
            self.problems.append(f"{path}.redis_url: Missing redis_url")
        self.compare(values, path)


def _where(values: Mapping[str, Any]) -> object:
    """Return what tells one queue from another; one inside the process is like no other."""
    if values["type"] == "asyncio":
        return object()
    return tuple(values.get(key, _DEFAULTS[key]) for key in ("redis_url", "namespace", "name"))


def _is_blank(value: Any) -> bool:
    """Whether a value counts as not given: null, or a variable that is set to nothing."""
    return value is None or (isinstance(value, FromVariable) and not value)


def _merge(base: Mapping[Any, Any], override: Mapping[Any, Any]) -> dict[Any, Any]:
    """Put the keys of `override` over those of `base`; sections are merged key by key."""
    return _merged(base, override, levels=_SECTION_LEVELS)


def _merged(base: Mapping[Any, Any], override: Mapping[Any, Any], levels: int) -> dict[Any, Any]:
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        if levels and isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(below, value, levels - 1)
        else:
            merged[key] = value
    return merged


def _key_text(key: Any) -> str:
    """Return a key as it may stand in a path; what is no name may be a value that slipped, with a password in it."""
    if not isinstance(key, str):
        return str(key) if isinstance(key, bool | float | None) or _is_short(key) else f"({kind(key)})"
    return key if _NAME.fullmatch(key) else "(not a name)"


def _is_short(key: Any) -> bool:
    """Whether a key is an int that Python can print: one of a million digits it refuses."""
    return isinstance(key, int) and abs(key) < 10**18
