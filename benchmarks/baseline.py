"""The honest denominator: bare redis-py with hiredis, pipelines without transaction, encoding and decoding included."""

from __future__ import annotations

from typing import Any

from msgspec.json import decode, encode
from redis.asyncio import Redis

STREAM, GROUP, CONSUMER = "bare", "group", "consumer"


async def connect(url: str) -> Any:
    client = Redis.from_url(url)
    await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    return client


async def stage(client: Any, payloads: list[Any], batch: int) -> None:
    for start in range(0, len(payloads), batch):
        pipeline = client.pipeline(transaction=False)
        for payload in payloads[start : start + batch]:
            pipeline.xadd(STREAM, {"payload": encode(payload)})
        await pipeline.execute()


async def drain(client: Any, count: int, batch: int) -> None:
    taken: list[bytes] = []
    while count > 0 or taken:
        pipeline = client.pipeline(transaction=False)
        if taken:
            pipeline.xack(STREAM, GROUP, *taken).xdel(STREAM, *taken)
        if count > 0:
            pipeline.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=min(batch, count))
        reply = (await pipeline.execute())[-1]
        entries = reply[0][1] if isinstance(reply, list) else []
        taken = [entry_id for entry_id, fields in entries if decode(fields[b"payload"]) is not None]
        count -= len(taken)
