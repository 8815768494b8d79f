"""SAQ: it has no batch, so 100 tasks enqueue at once; a worker with 100 processors, and jobs that keep no results.

As many operations at once as processors help the worker; the producer is faster with the 20 that are its default.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue, Worker

from benchmarks.peers.contract import Event, Handler, in_tasks

_FORGET = -1

# It warns of being stopped while its processors wait for jobs.
logging.getLogger("saq").setLevel(logging.ERROR)


def _queue(url: str, **settings: Any) -> Any:
    return Queue.from_url(url, name="bench", **settings)


class _Producer:
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def enqueue(self, event: Event) -> object:
        return await self._queue.enqueue("handle", event=event, ttl=_FORGET)

    async def stage(self, events: Sequence[Event]) -> None:
        await in_tasks(self.enqueue, events)


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    queue = _queue(url)
    await queue.connect()
    yield _Producer(queue)
    await queue.disconnect()


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""

    async def run(_context: object, *, event: Event) -> None:
        await handle(event)

    queue = _queue(url, max_concurrent_ops=concurrency)
    await queue.connect()
    worker: Any = Worker(queue, functions=[("handle", run)], concurrency=concurrency)
    running = asyncio.create_task(worker.start())
    yield
    await worker.stop()
    await running
    await queue.disconnect()


async def left(client: Any) -> int:
    """See the contract."""
    return int(await client.zcard("saq:bench:incomplete"))
