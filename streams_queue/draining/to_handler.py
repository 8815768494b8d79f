"""Through a handler in this process: a worker that ends when nothing is left to do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from streams_queue.draining.stock import Stock
from streams_queue.errors import UsageError
from streams_queue.messages import QueueStats
from streams_queue.queue import Queue
from streams_queue.redis_queue.commands import Figures
from streams_queue.worker import Worker

_POLL = 0.1


@dataclass(frozen=True, slots=True)
class WorkedOff:
    """What is left after it.

    Attributes:
        stats: The queue, after the worker's end.
        died: How many events have become dead letters meanwhile, here or in other workers.
        takes_dead: Whether the dead letters were to be worked through.
    """

    stats: QueueStats
    died: int
    takes_dead: bool

    @property
    def is_empty(self) -> bool:
        """Whether every event was worked through, and none died of it."""
        left = self.stats.waiting + self.stats.in_flight + self.stats.delayed
        return not (left or self.died or (self.takes_dead and self.stats.dead))


async def work_off(queue: Queue, worker: Worker, stock: Stock, *, wait: float, dead: bool) -> WorkedOff:
    """Run the worker until the queue holds nothing; or for `wait` seconds more, in which nothing but new events comes.

    Delays end at once; retries come when they are due, as ever.

    Args:
        queue: The worker's, on the server.
        worker: Runs the handler.
        stock: The same queue's events.
        wait: Seconds; also for what other workers have in hand.
        dead: Whether to redrive the dead letters that are there, first and as there is room.

    Raises:
        UsageError: Handing out is paused.
    """
    before = await stock.figures()
    if "delivery" in before.totals.get("paused", ""):
        raise UsageError("Handing out is paused, so that no handler would get anything; resume it first")
    letters = DeadLetters(queue, before.dead if dead else 0)
    await letters.redrive()
    await stock.end_delays()
    died = (await queue.stats()).totals["dead"]
    watch = Watch(before, wait)
    ending = asyncio.create_task(_end_when_done(worker, stock, watch, letters), name="streams_queue.drain")
    try:
        await worker.run()
    finally:
        ending.cancel()
        await asyncio.wait([ending])
    if not ending.cancelled():
        ending.result()
    stats = await queue.stats()
    return WorkedOff(stats, stats.totals["dead"] - died, dead)


class DeadLetters:
    """Those that are to get another run, each once.

    Args:
        queue: That has them.
        count: How many, the oldest; those that die meanwhile come behind them.
    """

    def __init__(self, queue: Queue, count: int) -> None:
        self._queue = queue
        self._left = count

    async def redrive(self) -> int:
        """Put back as many as there is room for; return how many that were."""
        redriven = await self._queue.redrive(count=self._left) if self._left else 0
        self._left -= redriven
        return redriven


async def _end_when_done(worker: Worker, stock: Stock, watch: Watch, letters: DeadLetters) -> None:
    try:
        while True:
            is_over = watch.is_over(await stock.figures(), busy=worker.running_handlers > 0)
            # After the look: a queue that was seen empty has room for those that are left.
            if not await letters.redrive() and is_over:
                return
            await stock.end_delays()
            await asyncio.sleep(_POLL)
    finally:
        worker.stop()


class Watch:
    """Tells when to end: at once when the queue is empty, else when only what is new has happened for a while.

    Args:
        before: The queue as it was at the beginning.
        wait: Seconds.
    """

    def __init__(self, before: Figures, wait: float) -> None:
        self._before = before
        self._wait = wait
        self._seen = _done(before)
        self._since = time.monotonic()

    def is_over(self, figures: Figures, *, busy: bool) -> bool:
        """Look at the queue as it is now, while handlers are `busy` or not."""
        if figures.entries + figures.delayed == 0:
            return True
        done = _done(figures)
        if (busy or done != self._seen) and not self._is_all_new(figures):
            self._since = time.monotonic()
        self._seen = done
        return time.monotonic() - self._since >= self._wait

    def _is_all_new(self, figures: Figures) -> bool:
        """Whether events come in, and what waits now did not at the beginning."""
        comes_in = figures.totals.get("enqueued") != self._before.totals.get("enqueued")
        oldest = int(figures.oldest_waiting.partition("-")[0] or figures.now_ms)
        return comes_in and oldest > self._before.now_ms


def _done(figures: Figures) -> tuple[str, ...]:
    return tuple(figures.totals.get(name, "0") for name in ("acked", "dead", "retried"))
