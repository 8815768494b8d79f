"""How long does one caller wait, one event at a time?

`enqueue` beside the plan's LLEN and LPUSH; `dequeue`, which acknowledges the event before, with nothing fetched ahead,
beside BLMOVE and LREM. The plan's own BRPOPLPUSH never removes what is done, and stands there for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import baseline, ours
from benchmarks.counting import MiscountError, expect_held, latencies, until_empty
from benchmarks.list_queues import CorrectListQueue, PlanListQueue
from benchmarks.model import Case, Figures, Scenario, Side, Target
from benchmarks.payloads import payloads

_WARM_UP = 50


async def _timed(call: Callable[[Any], Awaitable[object]], over: list[Any]) -> list[float]:
    sample = []
    for each in over:
        began = time.perf_counter()
        await call(each)
        sample.append(time.perf_counter() - began)
    return sample[_WARM_UP:]


async def _plan(case: Case) -> Figures:
    queue = PlanListQueue({"queue": {"redis_url": case.url, "max_size": 10**6, "timeout": 5}})
    enqueued = await _timed(queue.enqueue, payloads(case.payload, case.events))
    _expect(await queue.redis.llen(queue.queue_key), case.events)
    dequeued = await _timed(lambda _: queue.dequeue(), [None] * case.events)
    _expect(await queue.redis.llen(queue.queue_key), 0)
    await queue.redis.aclose()
    return latencies(enqueued, "enqueue") | latencies(dequeued, "dequeue")


async def _correct(case: Case) -> Figures:
    queue = CorrectListQueue(case.url, max_size=10**6, timeout=5)

    async def dequeue(_: None) -> None:
        taken = await queue.dequeue()
        if taken is not None:
            await queue.ack(taken[0])

    enqueued = await _timed(queue.enqueue, payloads(case.payload, case.events))
    _expect(await queue.redis.llen(queue.queue_key), case.events)
    dequeued = await _timed(dequeue, [None] * case.events)
    _expect(await queue.redis.llen(queue.queue_key) + await queue.redis.llen(queue.processing_key), 0)
    await queue.redis.aclose()
    return latencies(enqueued, "enqueue") | latencies(dequeued, "dequeue")


async def _ours(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    async with ours.make_queue(case.url, prefetch=1) as queue:
        enqueued = await _timed(queue.enqueue, payloads(case.payload, case.events))
        await expect_held(client, ours.STREAM, case.events)
        dequeued = await _timed(lambda _: queue.dequeue(), [None] * case.events)
    await until_empty(client, ours.STREAM, ours.GROUP)
    await client.aclose()
    return latencies(enqueued, "enqueue") | latencies(dequeued, "dequeue")


async def _bare(case: Case) -> Figures:
    client = await baseline.connect(case.url)
    sample = await _timed(lambda event: baseline.stage(client, [event], 1), payloads(case.payload, case.events))
    await expect_held(client, baseline.STREAM, case.events)
    await client.aclose()
    return latencies(sample, "enqueue")


def _expect(found: int, wanted: int) -> None:
    if found != wanted:
        raise MiscountError(f"{found} events are left, not {wanted}")


SCENARIO = Scenario(
    units={"enqueue p50": "ms", "enqueue p99": "ms", "dequeue p50": "ms", "dequeue p99": "ms"},
    cases=[Case(name="300 B", events=4_000)],
    quick_cases=[Case(name="300 B", events=1_000)],
    sides={
        "plan's list": Side(_plan),
        "correct list": Side(_correct),
        "bare XADD": Side(_bare),
        "streams_queue": Side(_ours),
    },
    targets=[
        Target(side="streams_queue", metric="enqueue p50", against="plan's list", at_most=0.75),
        Target(side="streams_queue", metric="dequeue p50", against="correct list", at_most=0.75),
    ],
)
