"""Time limits that do not count time in which the event loop did not run."""

from __future__ import annotations

import asyncio
from typing import Any

from streams_queue.errors import BackendTimeout
from streams_queue.redis_client.wire import Sink

_LATE = 0.1
_SECOND_CHANCE = 0.25


class Patience:
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
        self._scope.reschedule(now + _more_time(deadline, now))


def expire_in(seconds: float, reply: Sink) -> asyncio.TimerHandle:
    """Let a reply that has not come after so many seconds raise BackendTimeout; as patient as Patience, and cheaper."""
    loop = asyncio.get_running_loop()
    return loop.call_later(seconds, _expire, loop, reply, loop.time() + seconds, seconds)


def _expire(loop: asyncio.AbstractEventLoop, reply: Sink, deadline: float, seconds: float) -> None:
    if reply.done():
        return
    now = loop.time()
    if more := _more_time(deadline, now):
        loop.call_later(more, _expire, loop, reply, now + more, seconds)
    else:
        reply.set_exception(BackendTimeout(f"no reply within {seconds:g} s"))


def _more_time(deadline: float, now: float) -> float:
    return _SECOND_CHANCE if now - deadline > _LATE else 0.0
