"""From a URL to an endpoint, with every mistake in it told before anything is connected."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, SSLConnection

from streams_queue.config import SentinelUrl, parse_sentinel_url
from streams_queue.errors import ConfigError
from streams_queue.redis_client.endpoint import Endpoint, Server
from streams_queue.redis_client.sentinel import SentinelService

_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")
# An option of the sentinels' own begins with this.
_SENTINEL = "sentinel_"
# What sentinels share with the primary unless they have their own.
_SHARED = re.compile(r"ssl_\w+|socket_(connect_timeout|keepalive)")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def endpoint_from_url(url: str, *, connect_timeout: float) -> Endpoint:
    """Make an endpoint from a URL: one server, its socket, or the primary behind sentinels.

    Args:
        url: redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://, with redis-py's options.
        connect_timeout: Seconds that connecting may take, where the URL does not say.

    Raises:
        ConfigError: The URL cannot be used; the message does not repeat it, because it may hold a password.
    """
    _, _, query = url.partition("?")
    if "@" in query:
        raise _problem("must not hold an @ in its options, nor a ? in its password; write them as %40 and %3F")
    if url.partition("://")[0].endswith("+sentinel"):
        return _sentinel_service(parse_sentinel_url(url), connect_timeout)
    return _server(url, connect_timeout)


def _sentinel_service(parsed: SentinelUrl, connect_timeout: float) -> SentinelService:
    options = dict(parse_qsl(parsed.query, keep_blank_values=True))
    own = {name.removeprefix(_SENTINEL): options.pop(name) for name in list(options) if name.startswith(_SENTINEL)}
    tls = _truth(_SENTINEL + "ssl", own.pop("ssl", str(parsed.tls)))
    shared = {name: value for name, value in options.items() if _SHARED.fullmatch(name)}
    if not tls:
        shared = {name: value for name, value in shared.items() if not name.startswith("ssl_")}
    for_sentinels = urlencode(shared | own)
    return SentinelService(
        [
            _server(f"{_scheme(tls)}://{_host(host)}:{port}?{for_sentinels}", connect_timeout)
            for host, port in parsed.sentinels
        ],
        parsed.service,
        _server(
            f"{_scheme(parsed.tls)}://{_credentials(parsed)}localhost/{parsed.db}?{urlencode(options)}", connect_timeout
        ),
    )


def _scheme(tls: bool) -> str:
    return "rediss" if tls else "redis"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _credentials(parsed: SentinelUrl) -> str:
    if parsed.username is None and parsed.password is None:
        return ""
    return f"{quote(parsed.username or '', safe='')}:{quote(parsed.password or '', safe='')}@"


def _server(url: str, connect_timeout: float) -> Server:
    options = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    try:
        pool = ConnectionPool.from_url(url)
    except (ValueError, TypeError):
        pool = None
    if pool is None:
        # Raised out here, so that redis-py's error, which may quote the password, does not hang on this one.
        raise _problem("cannot be used as a redis://, rediss:// or unix:// URL")
    kwargs = dict(pool.connection_kwargs)
    kwargs.setdefault("socket_connect_timeout", connect_timeout)
    if "path" not in kwargs:
        kwargs.setdefault("socket_keepalive", True)
    if issubclass(pool.connection_class, SSLConnection):
        kwargs |= _tls_options(options)
    server = Server(pool.connection_class, kwargs)
    _try_out(server, kwargs)
    return server


def _tls_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of TLS as they count: absolute paths, and the host name checked unless told otherwise."""
    files: dict[str, Any] = {name: str(_readable(name, options[name])) for name in _TLS_FILES if options.get(name)}
    # Older releases of redis-py do not check it by themselves; all of them take some misspelling of false for true.
    checked = _truth("ssl_check_hostname", options.get("ssl_check_hostname", "true"))
    return files | {"ssl_check_hostname": checked and options.get("ssl_cert_reqs") != "none"}


def _readable(name: str, given: str) -> Path:
    """Return the absolute path of a file or folder that can be read; relative ones begin where the process does."""
    path = Path(given).absolute()
    try:
        if name == "ssl_ca_path":
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except OSError as error:
        raise _problem(f"{name}: {path} cannot be read: {error.strerror}") from None
    return path


def _truth(name: str, given: str) -> bool:
    if given.lower() not in _WORDS:
        raise _problem(f"{name} must be true or false")
    return _WORDS[given.lower()]


def _try_out(server: Server, kwargs: Mapping[str, Any]) -> None:
    """Make a connection without connecting, so that options that nobody knows are told now and not at each attempt."""
    try:
        connection = server.new_connection()
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except TypeError as error:
        unknown = next((name for name in kwargs if f"'{name}'" in str(error)), "one of them")
        hint = "; options of TLS need rediss://" if unknown.startswith("ssl_") else ""
        raise _problem(f"has an option that redis-py does not know: {unknown}{hint}") from None
    except ssl.SSLError as error:
        if not hasattr(error, "reason"):  # raised by Python itself, about unknown ciphers for instance
            raise _problem("has an option with a value that cannot be used (SSLError)") from None
        raise _problem(f"the certificates cannot be loaded: {error.reason or type(error).__name__}") from None
    except (ValueError, OSError, redis_errors.RedisError) as error:
        raise _problem(f"has an option with a value that cannot be used ({type(error).__name__})") from None


def _problem(problem: str) -> ConfigError:
    return ConfigError(f"queue.redis_url: {problem}")
