"""Does the throughput depend on how many events wait?

Each event that is handled enqueues its successor, so that the backlog stays what it is while a Worker runs. Bare: the
same with batches. Both stand beside themselves with 1,000 events waiting, in turn, so that a slow minute of the machine
slows down both.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import baseline, ours
from benchmarks.counting import expect_held
from benchmarks.model import Case, Figures, Scenario, Side, Target
from benchmarks.payloads import payloads
from streams_queue.worker import Worker

_FEW = {"backlog": 1_000}


async def _bare(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    await baseline.stage(client, payloads(case.payload, case.backlog), 1000)
    batch, handled = min(case.batch, case.backlog), 0
    events = payloads(case.payload, batch)
    began = time.perf_counter()
    while handled < case.events:
        await baseline.drain(client, batch, batch)
        await baseline.stage(client, events, batch)
        handled += batch
    seconds = time.perf_counter() - began
    await client.aclose()
    return {"throughput": handled / seconds}


async def _ours(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    async with ours.make_queue(case.url) as queue:
        await ours.fill(queue, payloads(case.payload, case.backlog))
        handled = 0

        async def handle(event: Any) -> None:
            nonlocal handled
            if not await queue.enqueue(event):
                raise RuntimeError("the queue refused an event")
            handled += 1
            if handled == case.events:
                worker.stop()

        worker = Worker(queue, handle, concurrency=case.concurrency)
        began = time.perf_counter()
        await worker.run()
        seconds = time.perf_counter() - began
    await expect_held(client, ours.STREAM, case.backlog)
    await client.aclose()
    return {"throughput": handled / seconds}


def _case(name: str, backlog: int, events: int) -> Case:
    return Case(name=name, events=events, backlog=backlog, batch=100, concurrency=100)


SCENARIO = Scenario(
    units={"throughput": "events/s"},
    cases=[
        _case("10 waiting", 10, 20_000),
        _case("100,000 waiting", 100_000, 20_000),
        _case("1,000,000 waiting", 1_000_000, 20_000),
    ],
    quick_cases=[
        _case("10 waiting", 10, 5_000),
        _case("100,000 waiting", 100_000, 5_000),
    ],
    sides={
        "bare, 1,000 waiting": Side(_bare, changes=_FEW),
        "bare": Side(_bare),
        "Worker, 1,000 waiting": Side(_ours, changes=_FEW),
        "Worker": Side(_ours),
    },
    targets=[
        Target(
            side="Worker",
            metric="throughput",
            against="Worker, 1,000 waiting",
            at_least=0.8,
            case=case,
        )
        for case in ("100,000 waiting", "1,000,000 waiting")
    ],
)
