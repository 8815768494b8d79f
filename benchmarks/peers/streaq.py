"""streaq: `enqueue_many`, and its worker in the running event loop; tasks are silent and keep no results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from benchmarks.peers.contract import Event, Handler, cancelled, undeleted

_QUEUE, _LANE, _GROUP = "bench", "default", "workers"
_BATCH = 500


async def _nothing(_event: Event) -> None:
    """Stand for the handler where events are produced."""


def _worker(url: str, handle: Handler, concurrency: int) -> tuple[Any, Any]:
    worker: Any = Worker(redis_url=url, queue_name=_QUEUE, priorities=[_LANE], concurrency=concurrency)
    return worker, worker.task(name="handle", silent=True, ttl=0)(handle)


class _Producer:
    def __init__(self, worker: Any, task: Any) -> None:
        self._worker, self._task = worker, task

    async def enqueue(self, event: Event) -> object:
        return await self._task.enqueue(event)

    async def stage(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), _BATCH):
            await self._worker.enqueue_many([self._task.enqueue(event) for event in events[start : start + _BATCH]])


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    worker, task = _worker(url, _nothing, 1)
    async with worker:
        yield _Producer(worker, task)


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""
    worker, _ = _worker(url, handle, concurrency)
    running = asyncio.create_task(worker.run_async())
    yield
    await cancelled(running)


async def left(client: Any) -> int:
    """See the contract."""
    return await undeleted(client, f"streaq:{_QUEUE}:queues:{_LANE}", _GROUP)
