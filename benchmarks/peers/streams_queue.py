"""Ours, measured as the others are: `enqueue_many` in one call, a Worker at its defaults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks import ours
from benchmarks.peers.contract import Event, Handler, undeleted
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.worker import Worker


class _Producer:
    def __init__(self, queue: RedisEventQueue) -> None:
        self._queue = queue

    async def enqueue(self, event: Event) -> object:
        return await self._queue.enqueue(event)

    async def stage(self, events: Sequence[Event]) -> None:
        await self._queue.enqueue_many(list(events))


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    async with ours.make_queue(url) as queue:
        await queue.stats()
        yield _Producer(queue)


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""
    async with ours.make_queue(url) as queue:
        worker = Worker(queue, handle, concurrency=concurrency)
        running = asyncio.create_task(worker.run())
        yield
        worker.stop()
        await running


async def left(client: Any) -> int:
    """See the contract."""
    return await undeleted(client, ours.STREAM, ours.GROUP)
