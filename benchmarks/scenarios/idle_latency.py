"""How long does one event take from `enqueue` to the handler, when nothing else is going on?

The producer is a process of its own and sends one event about every 10 ms; the consumer waits in a blocked read. Bare:
XADD to a blocked XREADGROUP, decoded, then XACK and XDEL. The list: LPUSH to a blocked BLMOVE, then LREM. The two
processes read the same monotonic clock. An `asyncio.Queue` inside one process shows what no server can reach.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.json import decode
from redis.asyncio import Redis

from benchmarks import baseline, ours
from benchmarks.counting import latencies, until_empty, wait_for
from benchmarks.list_queues import CorrectListQueue
from benchmarks.model import Case, Figures, Scenario, Side, Taken, Target
from benchmarks.payloads import payloads
from streams_queue.worker import Worker

_READY = "ready"
_WARM_UP = 20
_SPACING = (0.008, 0.012)


async def _send(case: Case, enqueue: Callable[[Any], Awaitable[object]]) -> None:
    """Wait until the consumer says that it reads, then send event after event with its time of departure."""
    async with Redis.from_url(case.url) as client:
        await wait_for(lambda: client.get(_READY))
    source = random.Random(1)
    for event in payloads(case.payload, case.events + _WARM_UP):
        await asyncio.sleep(source.uniform(*_SPACING))
        await enqueue(event | {"sent": time.monotonic()})


async def _say_ready(url: str) -> None:
    async with Redis.from_url(url) as client:
        await client.set(_READY, 1)


def _figures(sample: list[float]) -> Taken:
    taken = sample[_WARM_UP:]
    return Taken(latencies(taken, "latency"), {"latency": [1000 * seconds for seconds in taken]})


async def _bare_producer(case: Case) -> Figures:
    async with Redis.from_url(case.url) as client:
        await _send(case, lambda event: baseline.stage(client, [event], 1))
    return {}


async def _bare(case: Case) -> Taken:
    client = await baseline.connect(case.url)
    await _say_ready(case.url)
    sample: list[float] = []
    while len(sample) < case.events + _WARM_UP:
        stream = {baseline.STREAM: ">"}
        found = await client.xreadgroup(baseline.GROUP, baseline.CONSUMER, stream, count=10, block=4000)
        for entry_id, fields in found[0][1] if found else []:
            sample.append(time.monotonic() - decode(fields[b"payload"])["sent"])
            pipeline = client.pipeline(transaction=False)
            await pipeline.xack(baseline.STREAM, baseline.GROUP, entry_id).xdel(baseline.STREAM, entry_id).execute()
    await until_empty(client, baseline.STREAM, baseline.GROUP)
    await client.aclose()
    return _figures(sample)


async def _list_producer(case: Case) -> Figures:
    queue = CorrectListQueue(case.url, max_size=10**6, timeout=4)
    await _send(case, queue.enqueue)
    await queue.redis.aclose()
    return {}


async def _list(case: Case) -> Taken:
    queue = CorrectListQueue(case.url, max_size=10**6, timeout=4)
    await _say_ready(case.url)
    sample: list[float] = []
    while len(sample) < case.events + _WARM_UP:
        if taken := await queue.dequeue():
            sample.append(time.monotonic() - taken[1]["sent"])
            await queue.ack(taken[0])
    await queue.redis.aclose()
    return _figures(sample)


async def _our_producer(case: Case) -> Figures:
    async with ours.make_queue(case.url) as queue:
        await _send(case, queue.enqueue)
    return {}


async def _ours(case: Case) -> Taken:
    sample: list[float] = []

    async def handle(event: Any) -> None:
        sample.append(time.monotonic() - event["sent"])
        if len(sample) == case.events + _WARM_UP:
            worker.stop()

    async with ours.make_queue(case.url) as queue, Redis.from_url(case.url) as client:
        worker = Worker(queue, handle)
        running = asyncio.create_task(worker.run())
        await _say_ready(case.url)
        await running
        await until_empty(client, ours.STREAM, ours.GROUP)
    return _figures(sample)


async def _in_process(case: Case) -> Taken:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    sample: list[float] = []

    async def consume() -> None:
        while len(sample) < case.events + _WARM_UP:
            event = await queue.get()
            sample.append(time.monotonic() - event["sent"])

    await _say_ready(case.url)
    await asyncio.gather(consume(), _send(case, queue.put))
    return _figures(sample)


SCENARIO = Scenario(
    units={"latency p50": "ms", "latency p99": "ms"},
    cases=[Case(name="300 B", events=500)],
    quick_cases=[Case(name="300 B", events=150)],
    sides={
        "bare": Side(_bare, _bare_producer),
        "correct list": Side(_list, _list_producer),
        "Worker": Side(_ours, _our_producer),
        "asyncio.Queue, no server": Side(_in_process),
    },
    targets=[
        Target(side="Worker", metric="latency p50", against="bare", at_most=1.25),
        Target(side="Worker", metric="latency p99", at_most=5, excuse="bare"),
    ],
)
