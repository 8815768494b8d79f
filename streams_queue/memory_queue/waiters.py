"""Callers that wait for something to happen: first come, first woken; a cancelled one passes its wake-up on."""

from __future__ import annotations

import asyncio
import math


class Waiters:
    """A line of waiting coroutines; needs no task of its own, so that a dropped queue leaves nothing behind."""

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], None] = {}

    def wake(self, count: int) -> None:
        """Wake up to `count` waiters, in the order in which they came."""
        while count > 0 and self._futures:
            future = next(iter(self._futures))
            del self._futures[future]
            if not future.done():
                future.set_result(None)
                count -= 1

    def wake_all(self) -> None:
        """Wake everybody, as when the queue closes."""
        self.wake(len(self._futures))

    async def wait(self, seconds: float) -> None:
        """Return when woken, or after `seconds` (math.inf: never by itself); the caller looks what is true then.

        Cancelled: A wake-up that had come already goes to the next in line.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = None if seconds == math.inf else loop.call_later(max(0.0, seconds), _wake_up, future)
        self._futures[future] = None
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.wake(1)
            raise
        finally:
            self._futures.pop(future, None)
            if timer is not None:
                timer.cancel()


def _wake_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
