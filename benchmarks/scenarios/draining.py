"""How many events a second can one process take, handle and acknowledge?

Bare redis-py reads, acknowledges, deletes and decodes in batches, one round trip each. Ours is a Worker with a handler
that does nothing. The clock stops when XLEN is 0 and nothing is pending.
"""

from __future__ import annotations

from benchmarks import baseline, ours
from benchmarks.counting import Watch, until_empty
from benchmarks.model import Case, Figures, Ratio, Scenario, Side, Target
from benchmarks.payloads import payloads


async def _bare(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    await baseline.stage(client, payloads(case.payload, case.events), case.batch)
    watch = Watch(client)
    await watch.start()
    await baseline.drain(client, case.events, case.batch)
    await until_empty(client, baseline.STREAM, baseline.GROUP)
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
        Case(name="8 KB", payload="8 KB", events=3_000, batch=200, concurrency=100),
        Case(name="1 MB", payload="1 MB", events=40, batch=4, concurrency=100),
    ],
    sides={"bare loop": Side(_bare), "Worker": Side(ours.drained)},
    targets=[
        Target(side="Worker", metric="throughput", against="bare loop", at_least=0.65, case="300 B"),
        Target(side="Worker", metric="throughput", against="bare loop", at_least=0.8, case="8 KB"),
    ],
    ratios=[
        Ratio(side="Worker", metric=metric, against="bare loop", better="less")
        for metric in ("client CPU", "server CPU")
    ],
)
