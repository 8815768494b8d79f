"""Links: one connection for one duty, every reply judged alone, nothing sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

from streams_queue.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from streams_queue.redis_client.endpoint import Endpoint
from streams_queue.redis_client.patience import Patience
from streams_queue.redis_client.refusals import from_reply, is_elsewhere, is_refusal
from streams_queue.redis_client.scripts import Script, call
from streams_queue.redis_client.wire import Argument, Command, drop, packed

# What a write raises on a connection that the other end has reset: uvloop a RuntimeError; the transports of CPython
# 3.12 and of the first 3.13 stumble over their own None.
_WRITE_FAILURES = (OSError, RuntimeError, AttributeError, redis_errors.RedisError)


class Link:
    """One connection for one duty, opened when first used and again after it broke.

    Calls take turns. A call that is cancelled, or whose reply does not come in time, closes the connection: its reply
    would otherwise be read as the next call's.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection: Any = None
        self._epoch = -1
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the link has a connection that the next call uses, as far as it knows."""
        return self._connection is not None and self._epoch == self._endpoint.epoch

    async def call(self, *commands: Command, timeout: float) -> list[Any]:
        """Send commands in one go and return their replies, error replies as BackendError objects among them.

        Raises:
            BackendUnavailable: No connection, or no turn, within `timeout` seconds; nothing was sent.
            BackendTimeout: The connection broke, or the replies did not come, after something was sent.
            BackendRejected: The server refused the connection (wrong password, too many clients, still loading).
        """
        has_turn = sent = False
        try:
            async with Patience(timeout), self._turn:
                has_turn = True
                connection = await self._connected()
                sent = True
                await self._write(connection, commands)
                return [await self._reply() for _ in commands]
        except TimeoutError as error:
            if sent:
                raise BackendTimeout(f"no reply within {timeout:g} s") from error
            if has_turn:
                raise self._too_slow(timeout) from error
            raise BackendUnavailable(f"no answer to earlier requests within {timeout:g} s") from error

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
            async with Patience(timeout):
                connection = await self._connected()
                sent = True
                await self._write(connection, commands)
        except TimeoutError as error:
            if sent:
                raise BackendTimeout(f"the server took no command within {timeout:g} s") from error
            raise self._too_slow(timeout) from error

    async def receive(self, *, timeout: float) -> Any:
        """Return the next reply; an error reply is returned as a BackendError, not raised."""
        try:
            async with Patience(timeout):
                return await self._reply()
        except TimeoutError as error:
            raise BackendTimeout(f"no reply within {timeout:g} s") from error

    def _too_slow(self, timeout: float) -> BackendUnavailable:
        return BackendUnavailable(f"cannot connect to {self._endpoint.name}: no answer within {timeout:g} s")

    async def _write(self, connection: Any, commands: Sequence[Command]) -> None:
        data = packed(commands)
        try:
            await connection.send_packed_command(data, check_health=False)
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
            if is_elsewhere(refusal):
                self._endpoint.doubt(self._epoch)
                await self.close()
            return refusal
        except (OSError, redis_errors.RedisError) as error:
            await self.close()
            if is_refusal(error):
                return from_reply(error)
            raise BackendTimeout(f"the connection broke before the reply came: {type(error).__name__}") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Drop the connection without waiting; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await drop(connection)

    async def _connected(self) -> Any:
        if not self.is_open:
            await self.close()
            self._connection, self._epoch = await self._endpoint.connect()
        return self._connection
