"""How many events a second can one process put into the queue?

Bare redis-py pipelines one XADD per event, in batches of 200 (of 4 where an event has 1 MB). Ours does the same through
`enqueue_many`, batch after batch and all in one call, and as 100 tasks that each enqueue one event after the other. The
clock stops when XLEN says that all have arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import baseline, ours
from benchmarks.counting import Watch, expect_held
from benchmarks.model import Case, Figures, Ratio, Scenario, Side, Target
from benchmarks.payloads import payloads


async def _bare(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    events = payloads(case.payload, case.events)
    watch = Watch(client)
    await watch.start()
    await baseline.stage(client, events, case.batch)
    await expect_held(client, baseline.STREAM, case.events)
    figures = await watch.stop(case.events)
    await client.aclose()
    return figures


def _ours(produce: Callable[[Any, list[Any], Case], Awaitable[None]]) -> Callable[[Case], Awaitable[Figures]]:
    async def measure(case: Case) -> Figures:
        client = await baseline.connect(case.url)
        events = payloads(case.payload, case.events)
        async with ours.make_queue(case.url) as queue:
            await queue.stats()  # as the other side, it is connected when the clock starts
            watch = Watch(client)
            await watch.start()
            await produce(queue, events, case)
            await expect_held(client, ours.STREAM, case.events)
            figures = await watch.stop(case.events)
        await client.aclose()
        return figures

    return measure


async def _batches(queue: Any, events: list[Any], case: Case) -> None:
    await ours.fill(queue, events, case.batch)


async def _one_call(queue: Any, events: list[Any], _case: Case) -> None:
    await queue.enqueue_many(events)


async def _tasks(queue: Any, events: list[Any], case: Case) -> None:
    remaining = iter(events)

    async def one_after_the_other() -> None:
        for event in remaining:
            await queue.enqueue(event)

    await asyncio.gather(*(one_after_the_other() for _ in range(case.concurrency)))


SCENARIO = Scenario(
    units=Watch.UNITS,
    cases=[
        Case(name="300 B", events=50_000, batch=200, concurrency=100),
        Case(name="8 KB", payload="8 KB", events=10_000, batch=200, concurrency=100),
        Case(name="1 MB", payload="1 MB", events=200, batch=4, concurrency=100),
    ],
    quick_cases=[
        Case(name="300 B", events=10_000, batch=200, concurrency=100),
        Case(name="1 MB", payload="1 MB", events=40, batch=4, concurrency=100),
    ],
    sides={
        "bare XADD": Side(_bare),
        "enqueue_many": Side(_ours(_batches)),
        "enqueue_many, one call": Side(_ours(_one_call)),
        "enqueue, 100 tasks": Side(_ours(_tasks)),
    },
    targets=[
        Target(side="enqueue_many", metric="throughput", against="bare XADD", at_least=2.0, case="300 B"),
        Target(side="enqueue, 100 tasks", metric="throughput", against="bare XADD", at_least=1.5, case="300 B"),
    ],
    ratios=[
        Ratio(side=side, metric=metric, against="bare XADD", better="less")
        for side in ("enqueue_many", "enqueue, 100 tasks")
        for metric in ("client CPU", "server CPU")
    ],
)
