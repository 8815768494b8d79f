"""Are the plan's targets met at its load: 100 events a second of 10 KB?

A producer process sends one event every 10 ms, whether or not the one before has been answered; the handlers of another
process wait 261 ms, as GitBridge's tasks do. Queue latency is the time from the call of `enqueue` to the start of the
handler; 7.2 ms are 20 % below the 5.2 ms and 3.8 ms that GitBridge's own queue takes for the two halves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from redis.asyncio import Redis

from benchmarks import ours
from benchmarks.counting import expect_held, latencies, until_empty, wait_for
from benchmarks.model import Case, Figures, Scenario, Side, Target
from benchmarks.payloads import payloads
from streams_queue.messages import Delivery

_PER_SECOND = 100
_TASK = 0.261
_READY = "ready"
_MIB = 1024 * 1024


async def _timed(call: Awaitable[object], sample: list[float]) -> None:
    began = time.monotonic()
    await call
    sample.append(time.monotonic() - began)


async def _producer(case: Case) -> Figures:
    enqueued: list[float] = []
    depths: list[float] = []
    async with ours.make_queue(case.url) as queue, Redis.from_url(case.url) as client, asyncio.TaskGroup() as sending:
        await wait_for(lambda: client.get(_READY))
        began = time.monotonic()
        for number, event in enumerate(payloads(case.payload, case.events)):
            await asyncio.sleep(began + number / _PER_SECOND - time.monotonic())
            sent = event | {"sent": time.monotonic()}
            sending.create_task(_timed(queue.enqueue(sent), enqueued))
            if number % 10 == 0:
                sending.create_task(_timed(queue.get_queue_depth(), depths))
    return latencies(enqueued, "enqueue") | latencies(depths, "get_queue_depth")


async def _consumer(case: Case) -> Figures:
    """Settle by hand, so that each ack is measured to the server's reply."""
    latency: list[float] = []
    end_to_end: list[float] = []
    acked: list[float] = []

    async def handle(delivery: Delivery) -> None:
        latency.append(time.monotonic() - delivery.payload["sent"])
        await asyncio.sleep(_TASK)
        end_to_end.append(time.monotonic() - delivery.payload["sent"])
        await _timed(queue.ack(delivery), acked)

    async with ours.make_queue(case.url, max_size=10_000) as queue, Redis.from_url(case.url) as client:
        await queue.stats()
        before = await _server(client)
        await client.set(_READY, 1)
        async with asyncio.TaskGroup() as handling:
            taken = 0
            while taken < case.events:
                for delivery in await queue.receive(case.concurrency):
                    taken += 1
                    handling.create_task(handle(delivery))
        server = _between(before, await _server(client))
        await until_empty(client, ours.STREAM, ours.GROUP)
        memory = await _memory_when_full(queue, client, case)
    figures = latencies(latency, "queue latency") | latencies(end_to_end, "end to end") | latencies(acked, "ack")
    return figures | server | memory


async def _server(client: Any) -> tuple[float, float, float]:
    cpu, stats = await client.info("cpu"), await client.info("stats")
    busy = float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
    return time.monotonic(), busy, stats["total_net_input_bytes"] + stats["total_net_output_bytes"]


def _between(before: tuple[float, float, float], after: tuple[float, float, float]) -> Figures:
    seconds, busy, wire = (now - then for now, then in zip(after, before, strict=True))
    return {"server CPU": 100 * busy / seconds, "on the wire": wire / _MIB / seconds}


async def _memory_when_full(queue: Any, client: Any, case: Case) -> Figures:
    await ours.fill(queue, payloads(case.payload, queue.max_size))
    await expect_held(client, ours.STREAM, queue.max_size)
    return {"memory, full": (await client.info("memory"))["used_memory"] / _MIB}


SCENARIO = Scenario(
    units={
        "queue latency p50": "ms",
        "queue latency p99": "ms",
        "end to end p50": "ms",
        "end to end p99": "ms",
        "enqueue p50": "ms",
        "enqueue p99": "ms",
        "ack p50": "ms",
        "ack p99": "ms",
        "get_queue_depth p50": "ms",
        "get_queue_depth p99": "ms",
        "server CPU": "% of a core",
        "on the wire": "MiB/s",
        "memory, full": "MiB",
    },
    cases=[Case(name="100/s of 10 KB", payload="mixed", events=1_000, concurrency=100)],
    quick_cases=[Case(name="100/s of 10 KB", payload="mixed", events=300, concurrency=100)],
    sides={"streams_queue": Side(_consumer, _producer)},
    targets=[
        Target(side="streams_queue", metric="enqueue p99", at_most=5),
        Target(side="streams_queue", metric="queue latency p99", at_most=5),
        Target(side="streams_queue", metric="ack p99", at_most=5),
        Target(side="streams_queue", metric="get_queue_depth p99", at_most=5),
        Target(side="streams_queue", metric="queue latency p50", at_most=7.2),
        Target(side="streams_queue", metric="end to end p99", at_most=300),
        Target(side="streams_queue", metric="memory, full", at_most=256),
        Target(side="streams_queue", metric="server CPU", at_most=10),
        Target(side="streams_queue", metric="on the wire", at_most=5),
    ],
    warm_up=False,
)
