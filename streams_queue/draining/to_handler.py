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
    """

    stats: QueueStats
    died: int

    @property
    def is_empty(self) -> bool:
        """Whether every event was worked through, and none died of it."""
        return not (self.stats.waiting or self.stats.in_flight or self.stats.delayed or self.died)


async def work_off(queue: Queue, worker: Worker, stock: Stock, *, wait: float, dead: bool) -> WorkedOff:
    """Run the worker until the queue holds nothing, or until nothing has happened in it for `wait` seconds.

    Delays end at once; retries come when they are due, as ever.

    Args:
        queue: The worker's, on the server.
        worker: Runs the handler.
        stock: The same queue's events.
        wait: Seconds; also for what other workers have in hand.
        dead: Whether to redrive the dead letters first.

    Raises:
        UsageError: Handing out is paused.
    """
    before = await stock.figures()
    if "delivery" in before.totals.get("paused", ""):
        raise UsageError("Handing out is paused, so that no handler would get anything; resume it first")
    while dead and await queue.redrive(count=500):
        pass
    await stock.end_delays()
    died = (await queue.stats()).totals["dead"]
    ending = asyncio.create_task(_end_when_empty(worker, stock, wait), name="streams_queue.drain")
    try:
        await worker.run()
    finally:
        ending.cancel()
        await asyncio.wait([ending])
    stats = await queue.stats()
    return WorkedOff(stats, stats.totals["dead"] - died)


async def _end_when_empty(worker: Worker, stock: Stock, wait: float) -> None:
    seen, since = None, time.monotonic()
    while True:
        figures = await stock.figures()
        now = (_counted(figures), worker.counts)
        if now != seen or worker.running_handlers:
            seen, since = now, time.monotonic()
        if figures.entries + figures.delayed == 0 or time.monotonic() - since >= wait:
            worker.stop()
            return
        if not figures.entries:
            await stock.end_delays()
        await asyncio.sleep(_POLL)


def _counted(figures: Figures) -> tuple[str, ...]:
    return tuple(figures.totals.get(name, "0") for name in ("acked", "dead", "retried", "enqueued"))
