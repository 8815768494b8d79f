"""A process that tells Prometheus what queues are as a whole, and takes no event from any of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError

from streams_queue.errors import StreamsQueueError, UsageError
from streams_queue.messages import QueueStats
from streams_queue.monitoring.page import MetricsPage
from streams_queue.monitoring.readiness import why_queue_does_not_answer
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.telemetry.names import DESTINATION
from streams_queue.telemetry.prometheus import Looks, QueueMetrics
from streams_queue.telemetry.sources import labels_of
from streams_queue.worker.signals import on_stop_signals

logger = logging.getLogger(__name__)

# Prometheus waits 10 s for a scrape unless told otherwise.
_LOOK_TIMEOUT = 3.0


class Exporter:
    """Serves the figures of queues until the process is told to stop.

    Args:
        queues: To be looked at; cleaned up at the end.
        listening: Where their figures are served; closed at the end.

    Raises:
        UsageError: Two of the queues have the same name.
    """

    def __init__(self, queues: Sequence[RedisEventQueue], listening: socket.socket) -> None:
        self._queues = queues
        self._labels = [labels_of(queue.settings) for queue in queues]
        if twice := [labels for labels, count in Counter(self._labels).items() if count > 1]:
            name = dict(twice[0])[DESTINATION]
            raise UsageError(
                f"Two configurations are of a queue {name}; in metrics, one could not be told from the other"
            )
        self._page = MetricsPage(listening)
        self._page.registry.register(QueueMetrics(self._look))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Redis: 1 round trip per queue and scrape."""
        self._loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        with on_stop_signals(lambda _: stopped.set()):  # before the log says that it is there
            async with contextlib.AsyncExitStack() as stack:
                for queue in self._queues:
                    await stack.enter_async_context(queue)
                await stack.enter_async_context(self._page.served(self._why_not_ready))
                await stopped.wait()

    def _look(self) -> Looks:
        """Ask all queues at once; called from the thread of a scrape."""
        looking = asyncio.run_coroutine_threadsafe(self._ask_all(), self._loop)
        try:
            stats = looking.result(2 * _LOOK_TIMEOUT)
        except (CancelledError, TimeoutError):  # the process is ending
            stats = [None for _ in self._queues]
        return list(zip(self._labels, stats, strict=True))

    async def _ask_all(self) -> list[QueueStats | None]:
        return await asyncio.gather(*map(_ask, self._queues))

    async def _why_not_ready(self) -> str | None:
        answers = await asyncio.gather(*map(why_queue_does_not_answer, self._queues))
        return next(filter(None, answers), None)


async def _ask(queue: RedisEventQueue) -> QueueStats | None:
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT):
            return await queue.stats()
    except (StreamsQueueError, TimeoutError) as error:
        logger.debug("The figures of a queue are left out (%s)", error or "no answer")
        return None
