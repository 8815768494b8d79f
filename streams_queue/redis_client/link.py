"""Links: one connection for one duty, every reply judged alone, nothing sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from streams_queue.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from streams_queue.redis_client.endpoint import Endpoint
from streams_queue.redis_client.patience import Patience, expire_in
from streams_queue.redis_client.refusals import is_elsewhere
from streams_queue.redis_client.scripts import Script, call, with_source
from streams_queue.redis_client.wire import Argument, Command, Sink, Wire, packed, wire_over


class Link:
    """One connection for one duty, opened when first used and again after it broke.

    Calls do not wait for each other: the server answers in the order in which it was asked. A call that is cancelled
    leaves its reply to be dropped; one whose reply does not come in time closes the connection, for all.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._wire: Wire | None = None
        self._epoch = -1
        self._connecting = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the link has a connection that the next call uses, as far as it knows."""
        return self._wire is not None and not self._wire.is_broken and self._epoch == self._endpoint.epoch

    @property
    def is_broken(self) -> bool:
        """Whether the other end has closed the connection, and no call has noticed yet."""
        return self._wire is not None and self._wire.is_broken

    async def call(self, *commands: Command, timeout: float) -> list[Any]:
        """Send commands in one go and return their replies, error replies as BackendError objects among them.

        Raises:
            BackendUnavailable: No connection within `timeout` seconds; nothing was sent.
            BackendTimeout: The connection broke, or the replies did not come, after something was sent.
            BackendRejected: The server refused the connection (wrong password, too many clients, still loading).
        """
        loop = asyncio.get_running_loop()
        replies = [loop.create_future() for _ in commands]
        await self.send(*commands, to=replies, timeout=timeout)
        return [await self.reply(each, timeout=timeout) for each in replies]

    async def run(self, wanted: Script, keys: Sequence[str], args: Sequence[Argument] = (), *, timeout: float) -> Any:
        """Run a script and return its reply. Raises as `call`, and the script's own error reply."""
        return await self.run_command(wanted, call(wanted, keys, args), timeout=timeout)

    async def run_command(self, wanted: Script, command: Command, *, timeout: float) -> Any:
        """Send what `call` made of a script, again with its source if the server does not know it; as `run`."""
        (reply,) = await self.call(command, timeout=timeout)
        if isinstance(reply, BackendRejected) and reply.code == "NOSCRIPT":
            (reply,) = await self.call(with_source(wanted, command), timeout=timeout)
        if isinstance(reply, BackendError):
            raise reply
        return reply

    async def send(self, *commands: Command, to: Sequence[Sink], timeout: float) -> None:
        """Send commands without waiting for their replies, each of which goes to one of the sinks. Raises as `call`."""
        if self.is_open:
            self.post(*commands, to=to)
            return
        data = packed(commands)
        try:
            async with Patience(timeout):
                wire = await self._connected()
        except TimeoutError as error:
            raise BackendUnavailable(
                f"cannot connect to {self._endpoint.name}: no answer within {timeout:g} s"
            ) from error
        wire.write(data, to)

    def post(self, *commands: Command, to: Sequence[Sink]) -> None:
        """Send commands on the open connection, as `send`.

        Raises:
            BackendUnavailable: There is no open connection; nothing was sent.
            BackendTimeout: It broke meanwhile; part of it may have been sent.
        """
        if self._wire is None:
            raise BackendUnavailable
        self._wire.write(packed(commands), to)

    async def reply(self, reply: asyncio.Future[Any], *, timeout: float) -> Any:
        """Wait for a future to which the reply to a command goes; an error reply is returned, not raised.

        Raises:
            BackendTimeout: The connection broke, or the reply did not come within `timeout` seconds; all who wait for
                one on this connection are told, since the server is not there.
        """
        wire = self._wire
        if not reply.done():
            timer = expire_in(timeout, reply)
            try:
                await reply
            except BackendTimeout:
                await self._leave(wire)
                raise
            finally:
                timer.cancel()
        answer = reply.result()
        if isinstance(answer, BackendRejected) and is_elsewhere(answer):
            self._endpoint.doubt(self._epoch)
            await self._leave(wire)
        return answer

    async def _connected(self) -> Wire:
        async with self._connecting:
            if self._wire is None or not self.is_open:
                await self.close()
                connection, self._epoch = await self._endpoint.connect()
                self._wire = wire_over(connection)
            return self._wire

    async def close(self) -> None:
        """Drop the connection without waiting; the next call opens a new one."""
        await self._leave(self._wire)

    async def _leave(self, wire: Wire | None) -> None:
        if wire is not None and wire is self._wire:
            self._wire = None
        if wire is not None:
            await wire.close()
