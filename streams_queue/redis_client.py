"""Connections to the server: one link per duty, Lua scripts by name, and the one table of the server's errors.

A link speaks redis-py's connection, not its client: every reply is judged alone (one NOSCRIPT must not throw the
events of the read beside it away), and nothing is ever sent a second time behind the caller's back. Whether to send
again is decided per command, by who knows what the command does. See docs/decisions/0003-links-instead-of-clients.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams_queue.errors import (
    BackendError,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    StateError,
)

Argument = str | bytes | int
Command = tuple[Argument, ...]

# --- the server's errors -------------------------------------------------------------------------------------

# Codes of refusals that pass by themselves; those in _RETRIED are worth trying again at once, on a new connection.
_PASSING = frozenset(
    {
        "OOM",
        "MISCONF",
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "UNBLOCKED",
        "NOREPLICAS",
        "BUSY",
        "MAXCLIENTS",
    }
)
_RETRIED = _PASSING - {"OOM", "MISCONF", "NOREPLICAS"}
# redis-py takes the code off the message of those for which it has a class.
_CLASSES = {
    "NoScriptError": "NOSCRIPT",
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "WRONGPASS",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}
_TOO_MANY_CLIENTS = "max number of clients"
# The server is not the one to talk to any more: the next call looks it up again.
_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})
_OURS = frozenset({"SCHEMA", "OTHERGROUP"})
_CODES = re.compile(
    r"\b(NOSCRIPT|NOGROUP|WRONGTYPE|NOPERM|NOAUTH|WRONGPASS|" + "|".join(sorted(_PASSING | _OURS)) + r")\b"
)


def from_reply(error: Exception) -> BackendError:
    """Turn an error reply into one of this package's errors.

    Before Redis 7 an error inside a script keeps its code in the middle of the message, so it is looked for everywhere.
    """
    message = str(error)
    found = _CODES.search(message)
    code = next((code for name, code in _CLASSES.items() if isinstance(error, getattr(redis_errors, name))), "")
    if _TOO_MANY_CLIENTS in message:
        code = "MAXCLIENTS"
    elif not code and found:
        code = found.group(1)
    if code in _OURS:
        return StateError(message.split(code, 1)[-1].strip())
    text = message if not code or code in message else f"{code} {message}"
    return BackendRejected(text, code=code, passing=code in _PASSING)


def _is_refusal(error: Exception) -> bool:
    """Whether the server answered, with a no; redis-py makes connection errors of some such answers."""
    refusals = (redis_errors.ResponseError, redis_errors.AuthenticationError, redis_errors.BusyLoadingError)
    return isinstance(error, refusals) or _TOO_MANY_CLIENTS in str(error)


def worth_retrying(error: BackendError) -> bool:
    """Whether the same command may succeed shortly: a lost connection, a failover, a server that is starting."""
    return error.retryable or (isinstance(error, BackendRejected) and error.code in _RETRIED)


# --- scripts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script with the SHA-1 by which the server caches it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Load `lua/<name>.lua`; its first line may name fragments of `lua/shared/` that go before it."""
    folder = resources.files("streams_queue") / "lua"
    source = (folder / f"{name}.lua").read_text("utf-8")
    first, _, _ = source.partition("\n")
    if first.startswith("--!include "):
        fragments = first.removeprefix("--!include ").split()
        source = "".join((folder / "shared" / f"{each}.lua").read_text("utf-8") for each in fragments) + source
    # The server's cache is keyed by the SHA-1 of the source; nothing here depends on it being collision-free.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def call(wanted: Script, keys: Sequence[str], args: Sequence[Argument] = (), *, by_source: bool = False) -> Command:
    """Return the command that runs a script: EVALSHA, or EVAL where the server does not know it yet."""
    if by_source:
        return ("EVAL", wanted.source, len(keys), *keys, *args)
    return ("EVALSHA", wanted.sha, len(keys), *keys, *args)


def _packed(commands: Sequence[Command]) -> bytes:
    """Return commands as they travel; redis-py's asyncio connections would do this in Python, at 15 times the cost."""
    pack: Callable[[Any], bytes] = hiredis.pack_command
    return b"".join(map(pack, commands))


# --- time limits -----------------------------------------------------------------------------------------------------

_LATE = 0.1
_SECOND_CHANCE = 0.25


class _Patience:
    """Limits how long a block may take, like asyncio.timeout, but not by time in which the event loop did not run.

    A handler that blocks the loop makes timers late: then what has arrived meanwhile is read before giving up.
    """

    __slots__ = ("_scope", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._expire, loop.time() + self._seconds)

    async def __aexit__(self, *raised: Any) -> None:
        self._timer.cancel()
        await self._scope.__aexit__(*raised)

    def _expire(self, deadline: float) -> None:
        now = asyncio.get_running_loop().time()
        self._scope.reschedule(now + (_SECOND_CHANCE if now - deadline > _LATE else 0.0))


# What a write raises on a connection that the other end has reset: uvloop a RuntimeError; the transports of CPython
# 3.12 and of the first 3.13 stumble over their own None.
_WRITE_FAILURES = (OSError, RuntimeError, AttributeError, redis_errors.RedisError)

# --- links ---------------------------------------------------------------------------------------------------


class Link:
    """One connection for one duty, opened when first used and again after it broke.

    Calls take turns. A call that is cancelled, or whose reply does not come in time, closes the connection: its reply
    would otherwise be read as the next call's.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection: Any = None
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the link has a connection, as far as it knows."""
        return self._connection is not None

    async def call(self, *commands: Command, timeout: float) -> list[Any]:
        """Send commands in one go and return their replies, error replies as BackendError objects among them.

        Raises:
            BackendUnavailable: No connection, or no turn, within `timeout` seconds; nothing was sent.
            BackendTimeout: The connection broke, or the replies did not come, after something was sent.
            BackendRejected: The server refused the connection (wrong password, too many clients, still loading).
        """
        sent = False
        try:
            async with _Patience(timeout), self._turn:
                connection = await self._connected()
                sent = True
                await self._write(connection, commands)
                return [await self._reply() for _ in commands]
        except TimeoutError as error:
            if sent:
                raise BackendTimeout(f"no reply within {timeout:g} s") from error
            raise BackendUnavailable(
                f"no connection, or no answer to earlier requests, within {timeout:g} s"
            ) from error

    async def run(self, wanted: Script, keys: Sequence[str], args: Sequence[Argument] = (), *, timeout: float) -> Any:
        """Run a script and return its reply. Raises as `call`, and the script's own error reply."""
        (reply,) = await self.call(call(wanted, keys, args), timeout=timeout)
        if isinstance(reply, BackendRejected) and reply.code == "NOSCRIPT":
            (reply,) = await self.call(call(wanted, keys, args, by_source=True), timeout=timeout)
        if isinstance(reply, BackendError):
            raise reply
        return reply

    async def send(self, *commands: Command, timeout: float) -> None:
        """Send commands without waiting for replies; each one is fetched with `receive`. For a link with one user."""
        sent = False
        try:
            async with _Patience(timeout):
                connection = await self._connected()
                sent = True
                await self._write(connection, commands)
        except TimeoutError as error:
            if sent:
                raise BackendTimeout(f"the server took no command within {timeout:g} s") from error
            raise BackendUnavailable(f"no connection within {timeout:g} s") from error

    async def receive(self, *, timeout: float) -> Any:
        """Return the next reply; an error reply is returned as a BackendError, not raised."""
        try:
            async with _Patience(timeout):
                return await self._reply()
        except TimeoutError as error:
            raise BackendTimeout(f"no reply within {timeout:g} s") from error

    async def _write(self, connection: Any, commands: Sequence[Command]) -> None:
        packed = _packed(commands)
        try:
            await connection.send_packed_command(packed, check_health=False)
        except _WRITE_FAILURES as error:
            await self.close()
            raise BackendTimeout(f"the connection broke while a command was sent: {type(error).__name__}") from error
        except BaseException:
            await self.close()
            raise

    async def _reply(self) -> Any:
        if self._connection is None:
            raise BackendTimeout("the connection was closed before the reply came")
        try:
            return await self._connection.read_response()
        except redis_errors.ResponseError as error:
            refusal = from_reply(error)
            if isinstance(refusal, BackendRejected) and refusal.code in _ELSEWHERE:
                await self.close()
            return refusal
        except (OSError, redis_errors.RedisError) as error:
            await self.close()
            if _is_refusal(error):
                return from_reply(error)
            raise BackendTimeout(f"the connection broke before the reply came: {type(error).__name__}") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Drop the connection without waiting; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _connected(self) -> Any:
        if self._connection is None:
            connection = self._endpoint.new_connection()
            try:
                await connection.connect()
            except (OSError, redis_errors.RedisError) as error:
                if _is_refusal(error):
                    raise from_reply(error) from error
                raise BackendUnavailable(f"cannot connect to {self._endpoint.name}: {type(error).__name__}") from error
            finally:
                if not connection.is_connected:
                    await connection.disconnect(nowait=True)
            self._connection = connection
        return self._connection


class Endpoint:
    """Where the server is, and how to connect to it."""

    def __init__(self, connection_class: Any, connection_kwargs: Mapping[str, Any], *, keep: object = None) -> None:
        self._class = connection_class
        self._kwargs = dict(connection_kwargs) | {
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "retry_on_error": [],
            "health_check_interval": 0,
            "socket_timeout": None,
            "decode_responses": False,
            "protocol": 2,
        }
        self._keep = keep

    @classmethod
    def from_url(cls, url: str, *, connect_timeout: float) -> Endpoint:
        """Make an endpoint from a redis://, rediss:// or unix:// URL.

        Raises:
            ConfigError: The URL cannot be used; the message does not repeat it, because it may hold a password.
        """
        try:
            pool = ConnectionPool.from_url(url)
        except (ValueError, TypeError) as error:
            raise ConfigError("queue.redis_url: cannot be used as a redis://, rediss:// or unix:// URL") from error
        kwargs = dict(pool.connection_kwargs)
        kwargs.setdefault("socket_connect_timeout", connect_timeout)
        if "path" not in kwargs:
            kwargs.setdefault("socket_keepalive", True)
        return cls(pool.connection_class, kwargs)

    @classmethod
    def from_client(cls, client: Any) -> Endpoint:
        """Make an endpoint that connects as a redis-py asyncio client made elsewhere does.

        Every link opens a connection of its own with the client's class and settings, without its retries and with
        timeouts of ours; the client itself is not used.

        Raises:
            ConfigError: That is impossible with this client; the message says why.
        """
        pool = getattr(client, "connection_pool", None)
        connection_class = getattr(pool, "connection_class", None)
        if pool is None or connection_class is None:
            raise ConfigError(f"client: {type(client).__name__} has no connection pool to take its settings from")
        if not inspect.iscoroutinefunction(getattr(connection_class, "connect", None)):
            raise ConfigError(f"client: {type(client).__name__} is not an asyncio client (use redis.asyncio)")
        kwargs = dict(pool.connection_kwargs)
        if kwargs.get("decode_responses"):
            raise ConfigError("client: decode_responses must be off, payloads are bytes")
        return cls(connection_class, kwargs, keep=client)

    @property
    def name(self) -> str:
        """The server's address for messages: host and port, or the socket's path; never a password."""
        if "path" in self._kwargs:
            return str(self._kwargs["path"])
        return f"{self._kwargs.get('host', 'localhost')}:{self._kwargs.get('port', 6379)}"

    def new_connection(self) -> Any:
        """Return a connection that is not connected yet."""
        return self._class(**self._kwargs)
