"""Does the throughput depend on how many consumers share a queue?

Consumers are queues of their own in one process: each with its connections, its keeper and a Worker, on one event
loop. More processes than cores would measure the machine. Bare: as many loops, each with a connection. One consumer
and 16 take turns, so that a slow minute of the machine slows down both.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio import Redis

from benchmarks import baseline, ours
from benchmarks.counting import Watch, until_empty
from benchmarks.model import Case, Figures, Ratio, Scenario, Side, Target
from benchmarks.payloads import payloads
from streams_queue.worker import Worker

_COUNTS = (1, 2, 4, 8, 16)


async def _bare(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    await baseline.stage(client, payloads(case.payload, case.events), case.batch)
    watch = Watch(client)
    await watch.start()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Redis.from_url(case.url)) for _ in range(case.consumers)]
        share = case.events // case.consumers
        await asyncio.gather(*(baseline.drain(each, share, case.batch) for each in clients))
        await until_empty(client, baseline.STREAM, baseline.GROUP)
        figures = await watch.stop(case.events)
    await client.aclose()
    return figures


async def _ours(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    handled, all_handled = 0, asyncio.Event()

    async def handle(_event: Any) -> None:
        nonlocal handled
        handled += 1
        if handled == case.events:
            all_handled.set()

    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(ours.make_queue(case.url)) for _ in range(case.consumers)]
        await ours.fill(queues[0], payloads(case.payload, case.events))
        workers = [Worker(queue, handle, concurrency=case.concurrency) for queue in queues]
        watch = Watch(client)
        await watch.start()
        running = [asyncio.create_task(worker.run()) for worker in workers]
        await all_handled.wait()
        await until_empty(client, ours.STREAM, ours.GROUP)
        figures = await watch.stop(case.events)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
    await client.aclose()
    return figures


SCENARIO = Scenario(
    units=Watch.UNITS,
    cases=[Case(name="300 B", events=48_000, batch=200, concurrency=100)],
    quick_cases=[Case(name="300 B", events=16_000, batch=200, concurrency=100)],
    sides={
        **{f"bare, {count}": Side(_bare, changes={"consumers": count}) for count in (1, 16)},
        **{f"Worker, {count}": Side(_ours, changes={"consumers": count}) for count in _COUNTS},
    },
    targets=[Target(side="Worker, 16", metric="throughput", against="Worker, 1", at_least=0.8)],
    ratios=[
        Ratio(side=f"Worker, {count}", metric="throughput", against=f"bare, {count}", better="more")
        for count in (1, 16)
    ],
)
