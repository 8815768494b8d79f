"""How many events a second can one process put into the queue?

Bare redis-py pipelines one XADD per event, in batches of 200 (of 4 where an event has 1 MB). Ours does the same through
`enqueue_many`, batch after batch and all in one call, and as 100 tasks that each enqueue one event after the other. The
clock stops when XLEN says that all have arrived.
"""

from __future__ import annotations

from functools import partial

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
        "enqueue_many": Side(ours.staged),
        "enqueue_many, one call": Side(partial(ours.staged, produce=ours.in_one_call)),
        "enqueue, 100 tasks": Side(partial(ours.staged, produce=ours.in_tasks)),
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
