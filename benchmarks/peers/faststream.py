"""FastStream on Redis Streams: published through a pipeline, which is its batch; a subscriber with 100 workers.

Logging and the validation of handlers' arguments are off. A handler gets one event, as everywhere here; its batch
subscribers, which hand a list to one handler, would be faster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from benchmarks.peers.contract import Event, Handler, unacknowledged

_STREAM, _GROUP = "faststream", "bench"
_BATCH = 500


def _broker(url: str) -> Any:
    return RedisBroker(url, logger=None, apply_types=False)


class _Producer:
    def __init__(self, broker: Any, client: Any) -> None:
        self._broker, self._client = broker, client

    async def enqueue(self, event: Event) -> object:
        return await self._broker.publish(event, stream=_STREAM)

    async def stage(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), _BATCH):
            async with self._client.pipeline(transaction=False) as pipeline:
                for event in events[start : start + _BATCH]:
                    await self._broker.publish(event, stream=_STREAM, pipeline=pipeline)
                await pipeline.execute()


@asynccontextmanager
async def produce(url: str) -> AsyncIterator[_Producer]:
    """See the contract."""
    async with _broker(url) as broker, Redis.from_url(url) as client:
        await client.ping()
        yield _Producer(broker, client)


@asynccontextmanager
async def work(url: str, handle: Handler, concurrency: int) -> AsyncIterator[None]:
    """See the contract."""
    broker = _broker(url)
    # From the beginning: it would otherwise not see what was enqueued before its first worker.
    stream = StreamSub(_STREAM, group=_GROUP, consumer="one", last_id="0")
    broker.subscriber(stream=stream, max_workers=concurrency)(handle)
    await broker.start()
    yield
    await broker.stop()


async def left(client: Any) -> int:
    """See the contract."""
    return await unacknowledged(client, _STREAM, _GROUP)
