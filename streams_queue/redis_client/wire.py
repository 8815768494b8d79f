"""Commands as plain words, how they travel, how replies come back, and how a connection ends.

A connection is made by redis-py, which knows TLS, sockets and logins. From then on a wire carries it: commands are
packed and replies are read by hiredis in C, with neither a stream nor a task between the socket and who waits.
See docs/decisions/0013-wires.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio import SSLConnection

from streams_queue.errors import BackendError, BackendTimeout
from streams_queue.redis_client.refusals import from_reply, is_refusal

Argument = str | bytes | int
Command = tuple[Argument, ...]

# What a write raises on a connection that the other end has reset: uvloop a RuntimeError; the transports of CPython
# 3.12 and of the first 3.13 stumble over their own None.
WRITE_FAILURES = (OSError, RuntimeError, AttributeError, redis_errors.RedisError)
_INCOMPLETE = object()


def packed(commands: Sequence[Command]) -> bytes:
    """Return commands as they travel; redis-py's asyncio connections would do this in Python, at 15 times the cost."""
    pack: Callable[[Any], bytes] = hiredis.pack_command
    return pack(commands[0]) if len(commands) == 1 else b"".join(map(pack, commands))


async def drop(connection: Any) -> None:
    """Close a connection of redis-py without waiting for anybody.

    TLS has a farewell that the other side is to return; a frozen one would keep the socket open for half a minute.
    """
    writer = connection._writer if isinstance(connection, SSLConnection) else None
    await connection.disconnect(nowait=True)
    if writer is not None:
        writer.transport.abort()


class Sink(Protocol):
    """Takes the reply to one command: a future, or an `OnReply`."""

    def done(self) -> bool:
        """Whether it has what it waits for; then nothing more is given to it."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Take the reply, also if that is an error."""
        ...

    def set_exception(self, error: BackendError, /) -> None:
        """Take the news that no reply will come."""
        ...

    def exception(self) -> object:
        """Note that the error is known, in case that nobody waits any more."""
        ...


class OnReply:
    """Passes a reply, or the error that stands for it, on within the same turn of the event loop.

    Args:
        heard: Called once.
    """

    __slots__ = ("_heard", "_is_done")

    def __init__(self, heard: Callable[[Any], None]) -> None:
        self._heard = heard
        self._is_done = False

    def done(self) -> bool:
        """Whether it was called."""
        return self._is_done

    def set_result(self, result: Any, /) -> None:
        """Pass a reply on."""
        self._is_done = True
        self._heard(result)

    set_exception = set_result

    def exception(self) -> None:
        """Whoever was called knows."""


class Wire(Protocol):
    """One connection: what is written is answered in the same order.

    Attributes:
        is_broken: Whether nothing more can be sent.
    """

    is_broken: bool

    def write(self, data: bytes, sinks: Sequence[Sink]) -> None:
        """Send commands without waiting; each reply goes to one of the sinks, or a BackendTimeout if none can come.

        A future that nobody waits for any more may be cancelled: its reply is dropped when it comes.

        Raises:
            BackendTimeout: The connection broke; part of it may have been sent.
        """
        ...

    async def close(self) -> None:
        """Close it without waiting for anybody."""
        ...


def wire_over(connection: Any) -> Wire:
    """Return what carries a connection of redis-py; one that has no transport, as an emulator's, stays as it is."""
    transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
    return _Direct(connection, transport) if hasattr(transport, "set_protocol") else _Emulated(connection)


class _Direct(asyncio.Protocol):
    """Takes the place of redis-py's stream under a connection that is logged in and has had all its replies."""

    def __init__(self, connection: Any, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._waiting: deque[Sink] = deque()
        self._replies = hiredis.Reader(replyError=_refused, notEnoughData=_INCOMPLETE)
        self.is_broken = transport.is_closing()
        transport.set_protocol(self)

    def write(self, data: bytes, sinks: Sequence[Sink]) -> None:
        try:
            self._transport.write(data)
        except WRITE_FAILURES as error:
            self._fail(error)
            raise BackendTimeout(f"the connection broke while a command was sent: {type(error).__name__}") from error
        self._waiting.extend(sinks)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        replies, waiting = self._replies, self._waiting
        replies.feed(data)
        try:
            while (reply := replies.gets()) is not _INCOMPLETE:
                sink = waiting.popleft()
                if not sink.done():
                    sink.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            # Not Redis, or an answer to nothing: from here on no reply could be told from another.
            self._fail(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait."""
        self._fail(exc or ConnectionResetError())

    def _fail(self, error: BaseException) -> None:
        self.is_broken = True
        _fail(self._waiting, f"the connection broke before the reply came: {type(error).__name__}")

    async def close(self) -> None:
        self.is_broken = True
        _fail(self._waiting, "the connection was closed before the reply came")
        await drop(self._connection)


class _Emulated:
    """Reads replies through redis-py, by a task that takes one after the other."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sent: deque[bytes] = deque()
        self._waiting: deque[Sink] = deque()
        self._task: asyncio.Task[None] | None = None
        self.is_broken = False

    def write(self, data: bytes, sinks: Sequence[Sink]) -> None:
        self._sent.append(data)
        self._waiting.extend(sinks)
        if self._task is None:
            self._task = asyncio.create_task(self._exchange(), name="streams_queue.wire")

    async def _exchange(self) -> None:
        try:
            while self._waiting:
                if self._sent:
                    await self._connection.send_packed_command(self._sent.popleft(), check_health=False)
                reply = await self._reply()
                sink = self._waiting.popleft()
                if not sink.done():
                    sink.set_result(reply)
        except WRITE_FAILURES as error:
            self.is_broken = True
            _fail(self._waiting, f"the connection broke before the reply came: {type(error).__name__}")
        finally:
            self._task = None

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except redis_errors.RedisError as error:
            if is_refusal(error):
                return from_reply(error)
            raise

    async def close(self) -> None:
        self.is_broken = True
        _fail(self._waiting, "the connection was closed before the reply came")
        if self._task is not None:
            self._task.cancel()
        await drop(self._connection)


def _refused(message: str) -> BackendError:
    return from_reply(redis_errors.ResponseError(message))


def _fail(waiting: deque[Sink], message: str) -> None:
    while waiting:
        sink = waiting.popleft()
        if not sink.done():
            sink.set_exception(BackendTimeout(message))
            # Looked at here, in case that nobody waits any more.
            sink.exception()
