"""How many bytes and commands does an event cost on the wire, from `enqueue` to its acknowledgement?

One event at a time from one caller, and 100 callers and handlers at once, beside bare redis-py in batches of 100.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from benchmarks import baseline, ours
from benchmarks.counting import commands_sent, until_empty
from benchmarks.model import Case, Figures, Ratio, Scenario, Side
from benchmarks.payloads import payloads


class _Meter:
    """What went over all connections but its own since it was started."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def start(self) -> None:
        self._own = await self._client.client_id()
        self._before = await self._totals()

    async def figures(self, events: int) -> Figures:
        now = await self._totals()
        received, sent, commands = (after - before for after, before in zip(now, self._before, strict=True))
        return {"bytes": (received + sent) / events, "commands": commands / events}

    async def _totals(self) -> tuple[int, int, int]:
        listed = [each for each in await self._client.client_list() if int(each["id"]) != self._own]
        received, sent = (sum(int(each[key]) for each in listed) for key in ("tot-net-in", "tot-net-out"))
        return received, sent, await commands_sent(self._client)


async def _bare(case: Case) -> Figures:
    async with await baseline.connect(case.url) as client, Redis.from_url(case.url) as watching:
        meter = _Meter(watching)
        await meter.start()
        events = payloads(case.payload, case.events)
        for start in range(0, case.events, case.concurrency):
            await baseline.stage(client, events[start : start + case.concurrency], case.concurrency)
            await baseline.drain(client, case.concurrency, case.concurrency)
        return await meter.figures(case.events)


async def _ours(case: Case) -> Figures:
    async with ours.make_queue(case.url) as queue, Redis.from_url(case.url) as watching:
        await queue.enqueue({})
        await queue.ack(*await queue.receive())
        meter = _Meter(watching)
        await meter.start()
        remaining = iter(payloads(case.payload, case.events))

        async def there_and_back() -> None:
            for event in remaining:
                await queue.enqueue(event)
                queue.ack_soon(*await queue.receive())

        await asyncio.gather(*(there_and_back() for _ in range(case.concurrency)))
        await until_empty(watching, ours.STREAM, ours.GROUP)
        return await meter.figures(case.events)


SCENARIO = Scenario(
    units={"bytes": "bytes/event", "commands": "commands/event"},
    cases=[
        Case(name="300 B, one at a time", events=2_000, concurrency=1),
        Case(name="300 B, 100 at once", events=10_000, concurrency=100),
        Case(name="8 KB, 100 at once", payload="8 KB", events=5_000, concurrency=100),
    ],
    quick_cases=[Case(name="300 B, 100 at once", events=3_000, concurrency=100)],
    sides={"bare": Side(_bare), "streams_queue": Side(_ours)},
    ratios=[
        Ratio(side="streams_queue", metric=metric, against="bare", better="less") for metric in ("bytes", "commands")
    ],
)
