"""One look at the queue a second, shared by all browsers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

from streams_queue.clock import Clock, SystemClock
from streams_queue.dashboard.history import History, Point
from streams_queue.errors import StreamsQueueError
from streams_queue.messages import InFlight, QueueStats
from streams_queue.redis_queue import RedisEventQueue

logger = logging.getLogger(__name__)

INTERVAL = 1.0
SHOWN_IN_FLIGHT = 50

_ANSWER_TIMEOUT = 3.0


class Sampler:
    """Looks at a queue, whether somebody watches or not, so that who comes later sees the last minutes.

    Attributes:
        history: The last minutes.
        stats: The figures of the last look; None before the first, and while the server cannot be asked.
        point: What the history makes of them.
        in_flight: Who holds what, as of the last look; asked for only while somebody watches.
        trouble: Why the last look failed, or None.
    """

    def __init__(self, queue: RedisEventQueue, clock: Clock | None = None) -> None:
        self.history = History()
        self.stats: QueueStats | None = None
        self.point: Point | None = None
        self.in_flight: InFlight | None = None
        self.trouble: str | None = None
        self._queue = queue
        self._clock = clock or SystemClock()
        self._looked = asyncio.Event()
        self._watching = 0

    async def run(self) -> None:
        """Look until cancelled. Redis: 1 round trip a second, 2 while somebody watches."""
        loop = asyncio.get_running_loop()
        while True:
            # Not in step with whatever else happens once a second: the mean in flight would be that of such moments.
            ends = loop.time() + INTERVAL * random.uniform(0.8, 1.2)
            await self._look()
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(max(0.0, ends - loop.time()))

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                stats = await self._queue.stats()
                self.in_flight = await self._queue.in_flight(SHOWN_IN_FLIGHT) if self._watching else None
        except (StreamsQueueError, TimeoutError) as error:
            self._failed(str(error) or "the server does not answer")
        except Exception:
            logger.exception("Looking at the queue failed in a way that it should not; going on")
            self._failed("looking at the queue failed; the dashboard's log says how")
        else:
            self.point = self.history.add(stats, at=self._clock.time(), moment=self._clock.monotonic())
            self.stats, self.trouble = stats, None

    def _failed(self, why: str) -> None:
        self.stats = self.point = self.in_flight = None
        self.trouble = why

    async def follow(self) -> AsyncIterator[Any]:
        """Yield after each look; who is slow misses some."""
        self._watching += 1
        try:
            while True:
                await self._looked.wait()
                yield
        finally:
            self._watching -= 1
