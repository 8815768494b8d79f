"""arq: it has no batch, so 100 tasks enqueue at once; its worker polls, and here as often as helps it most.

By default it polls twice a second: half the throughput, and a quarter of a second for an idle event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.peers.contract import Event, Handler, cancelled, in_tasks

_POLL_DELAY = 0.002


class _Producer:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def enqueue(self, event: Event) -> object:
        return await self._pool.enqueue_job("handle", event)

    async def stage(self, events: Sequence[Event]) -> None:
        await in_tasks(self.enqueue, events)


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    pool = await create_pool(RedisSettings.from_dsn(url))
    yield _Producer(pool)
    await pool.aclose()


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""

    async def run(_context: object, event: Event) -> None:
        await handle(event)

    worker = Worker(
        [func(run, name="handle")],
        redis_settings=RedisSettings.from_dsn(url),
        max_jobs=concurrency,
        poll_delay=_POLL_DELAY,
        keep_result=0,
        log_results=False,
        handle_signals=False,
    )
    running = asyncio.create_task(worker.async_run())
    yield
    await cancelled(running)
    await worker.close()


async def left(client: Any) -> int:
    """See the contract."""
    return int(await client.zcard("arq:queue"))
