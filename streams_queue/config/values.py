"""Reading one value: each function returned here takes what was written and gives what it means, or says the rule."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

from streams_queue.config.urls import SCHEMES, UrlProblemError, check_server_url


class ValueProblemError(Exception):
    """What is wrong with one value; reads on from the key's name and never holds the value."""


class FromVariable(str):
    """A whole value that came from an environment variable: text that may mean a number."""

    __slots__ = ("variable",)
    variable: str

    @classmethod
    def named(cls, variable: str, text: str) -> Self:
        """Return `text` as the value of `variable`."""
        value = cls(text)
        value.variable = variable
        return value


Read: TypeAlias = Callable[[Any], Any]

LARGEST_COUNT = 2**53 - 1  # Lua numbers are doubles: beyond this, the scripts could not count
_LONGEST_SECONDS = 100 * 365.25 * 86_400
LARGEST_BYTES = 512 * 1024 * 1024  # the longest string that a Redis server takes (proto-max-bulk-len)


def _number(value: Any) -> Any:
    """Turn text from a variable into the number it stands for; everything else stays as it is."""
    if isinstance(value, FromVariable):
        for convert in (int, float):
            try:
                return convert(value)
            except ValueError:
                continue
    return value


def integer(at_least: int, at_most: int = LARGEST_COUNT) -> Read:
    """Take whole numbers within bounds; a bool is none."""

    def read(value: Any) -> int:
        number = _number(value)
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueProblemError("must be an integer")
        if number < at_least:
            raise ValueProblemError("must be non-negative" if at_least == 0 else f"must be at least {at_least}")
        if number > at_most:
            raise ValueProblemError(f"must be at most {at_most}")
        return number

    return read


def real(*, above: float = -math.inf, at_least: float = -math.inf, at_most: float = _LONGEST_SECONDS) -> Read:
    """Take finite numbers within bounds, as floats."""

    def read(value: Any) -> float:
        number = _number(value)
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise ValueProblemError("must be a number")
        if not isinstance(number, int) and not math.isfinite(number):
            raise ValueProblemError("must be finite")
        if number <= above:
            raise ValueProblemError(f"must be greater than {above:g}")
        if number < at_least:
            raise ValueProblemError(f"must be at least {at_least:g}")
        if number > at_most:
            raise ValueProblemError(f"must be at most {at_most:.0f}")
        return float(number)

    return read


def flag(value: Any) -> bool:
    """Take true or false; from a variable also the words."""
    if isinstance(value, FromVariable) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueProblemError("must be true or false")
    return value


def choice(*choices: str) -> Read:
    """Take one of a few words."""

    def read(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return str(value)
        raise ValueProblemError(f"must be one of {', '.join(choices)}{suggestion(value, choices)}")

    return read


def string(pattern: str, rule: str) -> Read:
    """Take text that matches `pattern`; `rule` says it in words."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueProblemError("must be a string")
        _check_text(value)
        if not re.fullmatch(pattern, value):
            raise ValueProblemError(rule)
        return str(value)

    return read


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueProblemError("must be text that UTF-8 can carry") from None


def prefetch(value: Any) -> int | str:
    """Take `auto` or a number of events."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    try:
        return int(integer(at_least=0)(value))
    except ValueProblemError:
        raise ValueProblemError("must be auto or an integer of at least 0") from None


def payload_paths(value: Any) -> tuple[str, ...]:
    """Take where in a payload something is: names with dots between, or a list of them."""
    read = string(r"[^\s.\x00-\x1f\x7f]+(\.[^\s.\x00-\x1f\x7f]+)*", "")
    try:
        paths = tuple(map(read, value if isinstance(value, list | tuple) else (value,)))
    except ValueProblemError:
        paths = ()
    if not paths:
        raise ValueProblemError("must be a path such as repository.full_name, or a list of them")
    return paths


def redis_url(value: Any) -> str:
    """Take the URL of a server; which one it is, and whether it answers, shows when a client connects."""
    if not isinstance(value, str):
        raise ValueProblemError("must be a string")
    _check_text(value)
    scheme, separator, rest = value.partition("://")
    if "cluster" in scheme:
        raise ValueProblemError(
            "names a cluster, which is not supported yet; use redis://, rediss:// or redis+sentinel://"
        )
    if not separator or scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueProblemError(f"must begin with one of {allowed}{suggestion(scheme if separator else None, SCHEMES)}")
    if re.search(r"[\s\x00-\x1f\x7f]", value):
        raise ValueProblemError("must not hold spaces or control characters; write them as %20 and so on")
    if not rest:
        raise ValueProblemError("must say where the server is")
    try:
        check_server_url(value)
    except UrlProblemError as problem:
        raise ValueProblemError(str(problem)) from None
    return str(value)


def http_url(value: Any) -> str:
    """Take the address of something that speaks HTTP or gRPC, which is given as a URL as well."""
    rule = "must be a URL such as http://localhost:4317"
    url = string(r"(?i:https?)://\S+", rule)(value)
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueProblemError(rule)
    except ValueError:
        raise ValueProblemError(rule) from None
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueProblemError("must hold nothing but scheme, host, port and path; see OTEL_EXPORTER_OTLP_HEADERS")
    return str(url)


def share(value: Any) -> float:
    """Read `1%` or 0.01 as 0.01."""
    percent = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", value) if isinstance(value, str) else None
    try:
        return float(real(at_least=0, at_most=1)(float(percent[1]) / 100 if percent else value))
    except ValueProblemError:
        raise ValueProblemError("must be a percentage such as 1%, or a number from 0 to 1") from None


def buckets(value: Any) -> tuple[float, ...]:
    """Take the upper bounds of a histogram."""
    read = real(at_least=0)
    try:
        bounds = tuple(read(bound) for bound in value) if isinstance(value, list | tuple) else ()
    except ValueProblemError:
        bounds = ()
    if not bounds or any(low >= high for low, high in itertools.pairwise(bounds)):
        raise ValueProblemError("must be a list of ascending numbers of at least 0")
    return bounds


def suggestion(word: Any, known: Iterable[str]) -> str:
    """Return the end of a message that names the known word closest to `word`; empty if none is close."""
    close = difflib.get_close_matches(word, tuple(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def kind(value: Any) -> str:
    """Name a value's kind for a message, in place of the value."""
    return {"NoneType": "null", "dict": "a mapping", "str": "a string", "list": "a list"}.get(
        type(value).__name__, type(value).__name__
    )
