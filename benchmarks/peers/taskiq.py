"""taskiq-redis: its stream broker, the one that acknowledges; it has no batch, so 100 tasks enqueue at once.

`run_receiver_task` is what its documentation names for a worker inside a program. Parameters are not parsed into
types, as with its worker's `--no-parse`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.peers.contract import Event, Handler, cancelled, in_tasks, unacknowledged

_STREAM, _GROUP = "taskiq", "taskiq"

# It warns of being stopped, and knows no other way.
logging.getLogger("taskiq").setLevel(logging.ERROR)


async def _nothing(_event: Event) -> None:
    """Stand for the handler where events are produced."""


def _broker(url: str, handle: Handler) -> tuple[Any, Any]:
    # From the beginning: it would otherwise not see what was enqueued before its first worker.
    broker = RedisStreamBroker(url, queue_name=_STREAM, consumer_group_name=_GROUP, consumer_id="0")
    return broker, broker.register_task(handle, task_name="handle")


class _Producer:
    def __init__(self, task: Any) -> None:
        self._task = task

    async def enqueue(self, event: Event) -> object:
        return await self._task.kiq(event)

    async def stage(self, events: Sequence[Event]) -> None:
        await in_tasks(self._task.kiq, events)


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    broker, task = _broker(url, _nothing)
    await broker.startup()
    yield _Producer(task)
    await broker.shutdown()


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""
    broker, _ = _broker(url, handle)
    await broker.startup()
    receiving = run_receiver_task(broker, max_async_tasks=concurrency, validate_params=False)
    running = asyncio.create_task(receiving)
    yield
    await cancelled(running)
    await broker.shutdown()


async def left(client: Any) -> int:
    """See the contract."""
    return await unacknowledged(client, _STREAM, _GROUP)
