"""The figures of a whole queue, asked for when metrics are exported, and reported by one process of all that share it.

Exporting happens in a thread; the queue is asked in its own event loop. See docs/decisions/0080-telemetry.md.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
import weakref
from typing import Any

from streams_queue.config import Settings
from streams_queue.errors import StreamsQueueError
from streams_queue.messages import QueueStats
from streams_queue.queue import Queue
from streams_queue.telemetry.names import DEPTH

logger = logging.getLogger(__name__)

# How long an export may wait for the figures; a queue that cannot say them in this time is left out of it.
_PATIENCE = 2.0
# All figures of one export come from one look.
_SAME_LOOK = 0.5
_GIVE_UP_TIMEOUT = 1.0


class Reporter:
    """Looks at one queue.

    Args:
        settings: Of the queue.
        interval: Seconds between two exports.
    """

    def __init__(self, settings: Settings, interval: float) -> None:
        bounds = settings.telemetry.bounds.get(DEPTH.name)
        self._threshold = bounds.threshold if bounds is not None else None
        self._office = 2 * interval + 5
        self._is_beyond = False
        self._queue: weakref.ref[Queue] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._holds_office = False
        self._last: tuple[float, QueueStats | None] = (-_SAME_LOOK, None)

    def watch(self, queue: Queue, loop: asyncio.AbstractEventLoop) -> None:
        """Look at this queue from now on, in this event loop."""
        self._queue, self._loop = weakref.ref(queue), loop

    def held_locally(self) -> int | None:
        """Return how many events this process holds until the server takes them; None if it never does that."""
        return getattr(self._queue(), "held_locally", None) if self._queue is not None else None

    def fallback_active(self) -> int | None:
        """Return 1 while this process works with its local fallback, 0 while it does not; None if it has none."""
        queue = self._queue() if self._queue is not None else None
        using_redis: bool | None = getattr(queue, "using_redis", None)
        return None if using_redis is None else int(not using_redis)

    def figures(self) -> QueueStats | None:
        """Return the queue's figures if it falls to this process to report them; called from an exporting thread."""
        at, figures = self._last
        if time.monotonic() - at >= _SAME_LOOK:
            figures = self._look()
            self._last = (time.monotonic(), figures)
            if figures is not None:
                self._compare(figures.waiting)
        return figures

    def _look(self) -> QueueStats | None:
        queue, loop = self._queue() if self._queue is not None else None, self._loop
        if queue is None or loop is None or not queue.is_running() or not loop.is_running() or _runs_here(loop):
            return None
        looking = asyncio.run_coroutine_threadsafe(self._ask(queue), loop)
        try:
            return looking.result(_PATIENCE)
        except (StreamsQueueError, TimeoutError, concurrent.futures.CancelledError, RuntimeError) as error:
            # It is not cancelled from here: where the loop has closed meanwhile, that would log a traceback.
            logger.debug("The figures of a queue are left out (%s)", error or type(error).__name__)
            return None

    async def _ask(self, queue: Queue) -> QueueStats | None:
        # What a resilient queue holds locally is a metric of its own; the queue that is shared is the server's.
        shared = _shared(queue)
        async with asyncio.timeout(_PATIENCE):
            if hasattr(shared, "may_report"):
                self._holds_office = await shared.may_report(self._office)
                if not self._holds_office:
                    return None
            figures: QueueStats = await shared.stats()
            return figures

    async def give_up(self) -> None:
        """Let another process report from now on."""
        queue = self._queue() if self._queue is not None else None
        if self._holds_office and queue is not None and queue.is_running():
            self._holds_office = False
            try:
                async with asyncio.timeout(_GIVE_UP_TIMEOUT):
                    await _shared(queue).may_report(0)
            except (StreamsQueueError, TimeoutError) as error:
                logger.debug("Reporting was not handed over (%s)", error or "no answer")

    def _compare(self, waiting: int) -> None:
        """Say once that more events wait than the configuration finds right, and once that they do not any more."""
        if self._threshold is None or (waiting > self._threshold) is self._is_beyond:
            return
        self._is_beyond = not self._is_beyond
        if self._is_beyond:
            logger.warning(
                "%d events wait; the threshold of %s is %g",
                waiting,
                DEPTH.name,
                self._threshold,
                extra={"events": waiting, "threshold": self._threshold},
            )
        else:
            logger.info(
                "%d events wait; that is below the threshold of %s again",
                waiting,
                DEPTH.name,
                extra={"events": waiting, "threshold": self._threshold},
            )


def _shared(queue: Queue) -> Any:
    """Return the queue that other processes have as well, where there is one."""
    return getattr(queue, "redis_queue", queue)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the loop's own thread, in which nothing may wait for it."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
