"""Who may see the page and who may change something: addresses, names, origins, the token, sessions.

Nothing here does I/O. See docs/decisions/0091-who-may-use-the-dashboard.md.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from streams_queue.clock import Clock, SystemClock
from streams_queue.errors import UsageError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_SESSION_SECONDS = 12 * 3600.0
_MOST_SESSIONS = 1000
_TOKEN = re.compile(r"[\x21-\x7e]{16,512}")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/?#@]+)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Access:
    """Under which names the page may be reached, and with which token.

    Attributes:
        hosts: Names and addresses in small letters, without ports.
        token: What a browser has to show first; None where everybody who reaches the page may use it.
    """

    hosts: frozenset[str]
    token: str | None = field(repr=False)

    def knows_host(self, header: str | None) -> bool:
        """Whether a `Host` header has one of our names, so that no other name has been pointed at this address."""
        named = _HOST.fullmatch(header or "")
        return named is not None and (named[1] or named[2]).lower() in self.hosts

    def admits_token(self, token: str) -> bool:
        """Whether this is the token; takes as long whatever part of it is right."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())


def allow(address: str, names: Iterable[str], token: str | None) -> Access:
    """Decide who may use a page that listens at `address`.

    Args:
        address: To listen at; a name, or an IP address.
        names: Further names under which browsers reach it, such as a proxy's.
        token: Wanted from everybody; None for nobody.

    Raises:
        UsageError: The token is none, or one is missing, or there is no name under which to reach the page.
    """
    named = {name.lower().strip("[]") for name in names}
    for name in named:
        if not _HOST.fullmatch(f"[{name}]" if ":" in name else name):
            raise UsageError(f"{name!r} is no host name; give it without scheme, port and path")
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError("The dashboard's token must be 16 to 512 printable ASCII characters, without spaces")
    elsewhere = [name for name in (address, *sorted(named)) if not _is_loopback(name)]
    if elsewhere and token is None:
        raise UsageError(
            f"The dashboard is to be reached at {elsewhere[0]}, not only on this machine: give it a token, "
            "in STREAMS_QUEUE_DASHBOARD_TOKEN or with --token-file"
        )
    if _is_unspecified(address):
        if not named:
            raise UsageError(f"{address} is no name: say with --allowed-host under which ones browsers reach the page")
    else:
        named.add(address.lower())
    return Access(frozenset(named | LOOPBACK_NAMES), token)


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return name.lower() in LOOPBACK_NAMES if address is None else address.is_loopback


def _is_unspecified(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_unspecified


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_own_origin(origin: str, host: str) -> bool:
    """Whether an `Origin` header names the same host and port as the `Host` header of the same request.

    The scheme is left out: behind a proxy that ends TLS, this side of it does not know it.
    """
    given = _ORIGIN.fullmatch(origin)
    if given is None:
        return False
    default = _DEFAULT_PORTS[given[1]]
    return _with_port(given[2], default) == _with_port(host, default) is not None


def _with_port(host: str, default: str) -> tuple[str, str] | None:
    named = _HOST.fullmatch(host)
    return None if named is None else ((named[1] or named[2]).lower(), named[3] or default)


class Sessions:
    """Browsers that have shown the token. Kept in memory: after a restart they show it again."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._until: dict[str, float] = {}

    def begin(self) -> str:
        """Return the secret of a new session; where there are too many, the oldest ends."""
        secret = secrets.token_urlsafe(32)
        self._until[secret] = self._clock.monotonic() + _SESSION_SECONDS
        if len(self._until) > _MOST_SESSIONS:
            del self._until[next(iter(self._until))]
        return secret

    def holds(self, secret: str) -> bool:
        """Whether this is the secret of a session that has not ended."""
        until = self._until.get(secret)
        if until is not None and until <= self._clock.monotonic():
            self.end(secret)
            return False
        return until is not None

    def end(self, secret: str) -> None:
        """End a session; harmless if there is none."""
        self._until.pop(secret, None)
