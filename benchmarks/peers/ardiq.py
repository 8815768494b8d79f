"""ArdiQ: `enqueue_many` with prepared tasks, and its worker, whose loop and connections are Rust."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ardiq import Ardiq

from benchmarks.peers.contract import Event, Handler, undeleted

_BATCH = 300
_PREFETCH = 500


async def _nothing(_event: Event) -> None:
    """Stand for the handler where events are produced."""


def _app(url: str, handle: Handler, concurrency: int) -> tuple[Any, Any]:
    settings = {"concurrency": concurrency, "prefetch": max(_PREFETCH, concurrency), "result_ttl_ms": 0}
    app = Ardiq(url, "bench", priorities=["default"], **settings)
    return app, app.task(name="handle")(handle)


class _Producer:
    def __init__(self, app: Any, task: Any) -> None:
        self._app, self._task = app, task

    async def enqueue(self, event: Event) -> object:
        return await self._task.enqueue(event)

    async def stage(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), _BATCH):
            await self._app.enqueue_many([self._task.prepare(event) for event in events[start : start + _BATCH]])


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    app, task = _app(url, _nothing, 1)
    await app.queue_size()
    yield _Producer(app, task)


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""
    app, _ = _app(url, handle, concurrency)
    running = asyncio.create_task(app.run())
    yield
    app.stop()
    await running


async def left(client: Any) -> int:
    """See the contract."""
    return await undeleted(client, "ardiq:bench:queues:default", "workers")
