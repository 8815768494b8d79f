"""URLs without their passwords, for logs, errors and reprs."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_HIDDEN = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = r"(\[[0-9A-Fa-f:.%]*\]|[A-Za-z0-9._-]*)(:[0-9]*)?"
_LOCATION = re.compile(rf"{_HOST}(,{_HOST})*(/[^?#]*)?")
_SECRET_WORDS = ("pass", "pwd", "secret", "token", "auth", "key")


def redact_url(url: str) -> str:
    """Return a URL that may be logged: user and password become `***`, and so does whatever might be a part of one.

    The user goes too, since tokens are often written in its place. Broken URLs are taken as well; if it cannot be told
    what is password and what is host, all behind the scheme is hidden.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return _HIDDEN if url else ""
    main, mark, query = rest.partition("?")
    _, at, location = main.rpartition("@")
    if "@" in query or not _LOCATION.fullmatch(location):
        return f"{scheme}://{_HIDDEN}"
    hidden = f"{_HIDDEN}@" if at else ""
    return f"{scheme}://{hidden}{location}{mark}{_redact_query(query)}"


def _redact_query(query: str) -> str:
    return "".join(part if part in "&;" else _redact_parameter(part) for part in re.split("([&;])", query))


def _redact_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    plain = unquote_plus(name).lower()
    if not equals or "#" in value or any(word in plain for word in _SECRET_WORDS):
        return f"{name}={_HIDDEN}" if equals else _HIDDEN
    return parameter
