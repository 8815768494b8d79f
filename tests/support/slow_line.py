"""A line between a replica and its primary that takes its time, and loses what is on it when it is cut."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable

CHUNK = 1 << 16


class SlowLine:
    """Forwards bytes to `upstream_port`; what comes back arrives `delay` seconds later, as much of it as there is.

    All public methods may be called from any thread and have taken effect when they return.
    """

    def __init__(self, upstream_port: int, delay: float) -> None:
        self._upstream_port = upstream_port
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flaky-proxy-slow", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    def start(self) -> None:
        """Start the thread and listen."""
        self._thread.start()
        self._call(self._listen())

    def cut(self) -> None:
        """Lose what is on the line, close its ends and take no new connection."""
        self._call(self._end())

    def stop(self) -> None:
        """Cut, and end the thread."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, awaitable: Awaitable[None]) -> None:
        async def run() -> None:
            await awaitable

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends, pumps = [writer], list[asyncio.Task[None]]()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                back, forth = await asyncio.open_connection("127.0.0.1", self._upstream_port)
                ends.append(forth)
                pumps = [asyncio.create_task(_pump(reader, forth)), asyncio.create_task(self._pump_late(back, writer))]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                for end in ends:
                    end.transport.abort()

    async def _pump_late(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await reader.read(CHUNK):
            loop.call_later(self._delay, _write, writer, chunk)
        await asyncio.sleep(self._delay)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)


def _write(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    if not writer.is_closing():
        writer.write(chunk)
