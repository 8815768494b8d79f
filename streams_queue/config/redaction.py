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
    """Return a URL that may be logged: the password becomes `***`, and so does whatever might be a part of one.

    Takes broken URLs too, with unescaped characters in the password: then all behind the scheme is hidden.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return _HIDDEN if url else ""
    main, mark, query = rest.partition("?")
    userinfo, at, location = main.rpartition("@")
    if "@" in query or not _LOCATION.fullmatch(location):
        return f"{scheme}://{_HIDDEN}"
    if at:
        user, colon, _ = userinfo.partition(":")
        userinfo = f"{user}:{_HIDDEN}" if colon else _HIDDEN
    return f"{scheme}://{userinfo}{at}{location}{mark}{_redact_query(query)}"


def _redact_query(query: str) -> str:
    return "".join(part if part in "&;" else _redact_parameter(part) for part in re.split("([&;])", query))


def _redact_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    plain = unquote_plus(name).lower()
    if not equals or "#" in value or any(word in plain for word in _SECRET_WORDS):
        return f"{name}={_HIDDEN}" if equals else _HIDDEN
    return parameter
