"""The parts of a URL that names a server through its sentinels, and the rules that every server URL keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379
# What a sentinel takes for a name; whatever else stands there is likely a part of a password.
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")
_SENTINEL = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9]+)?\])(?::(?P<port>[0-9]{1,5}))?")


class UrlProblemError(Exception):
    """What is wrong with a URL; reads on from the key's name and never holds a part of the URL."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a redis+sentinel:// URL says.

    Attributes:
        sentinels: Host and port of each.
        service: The name by which they know the primary.
        db: The database on it.
        username: For the primary.
        password: For the primary.
        tls: Whether the connections are encrypted.
        query: The options, still as text.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int
    username: str | None
    password: str | None
    tls: bool
    query: str

    def __repr__(self) -> str:
        """Show no credentials: options may hold some, too."""
        return f"SentinelUrl(sentinels={self.sentinels}, service={self.service!r}, db={self.db})"


def check_server_url(url: str) -> None:
    """Raise UrlProblemError if a URL of one of the known schemes cannot say where the server is."""
    scheme = url.partition("://")[0]
    if scheme.endswith("+sentinel"):
        parse_sentinel_url(url)
    elif scheme == "unix":
        _check_socket(url)
    else:
        _check_address(url)


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Take a redis+sentinel:// or rediss+sentinel:// URL apart. Raises UrlProblemError."""
    parts = _split(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":") if at else ("", "", "")
    service, _, db = parts.path.removeprefix("/").partition("/")
    if not _SERVICE.fullmatch(service):
        raise UrlProblemError(
            "must name the service behind the sentinels, as in redis+sentinel://host:26379/mymaster/0"
        )
    if not re.fullmatch(r"[0-9]*", db):
        raise UrlProblemError("must end in the number of a database, such as /mymaster/0")
    return SentinelUrl(
        sentinels=tuple(_sentinel(host) for host in hosts.split(",")),
        service=service,
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=parts.scheme == "rediss+sentinel",
        query=parts.query,
    )


def _sentinel(address: str) -> tuple[str, int]:
    found = _SENTINEL.fullmatch(address)
    port = int(found["port"] or _SENTINEL_PORT) if found else 0
    if not found or not 0 < port < 65536:
        raise UrlProblemError(
            "must list the sentinels as host:port,host:port; escape special characters in the password"
        )
    return unquote(found["host"].strip("[]")), port


def _check_socket(url: str) -> None:
    parts = _split(url)
    if not parts.path.startswith("/") or parts.path == "/" or parts.netloc.rpartition("@")[2]:
        raise UrlProblemError("must hold the absolute path of a socket, as in unix:///run/redis.sock?db=0")


def _check_address(url: str) -> None:
    parts = _split(url)
    if not re.fullmatch(r"/?[0-9]*", parts.path):
        raise UrlProblemError("must end in the number of a database, such as /0")
    if "," in parts.netloc.rpartition("@")[2]:
        raise UrlProblemError("must name one server; several sentinels are listed behind redis+sentinel://")
    try:
        _ = parts.port
    except ValueError:
        raise UrlProblemError("must hold a valid host and port; escape special characters in the password") from None


def _split(url: str) -> SplitResult:
    """Split a URL. Raises UrlProblemError where that is impossible."""
    try:
        return urlsplit(url)
    except ValueError:
        raise UrlProblemError("must hold a valid host and port; escape special characters in the password") from None
