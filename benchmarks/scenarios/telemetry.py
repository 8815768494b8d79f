"""What does OpenTelemetry cost: all metrics, and 1 % of the calls traced, against none?

One process enqueues with many callers at once and then handles with a Worker that does nothing, which is where any cost
shows most. The collector is another process; metrics go there every ten seconds, and spans by the hundred: some of
those that one half has made are sent in the other.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack
from typing import Any

from benchmarks import baseline, ours
from benchmarks.collector import Collector
from benchmarks.counting import MiscountError, Watch, expect_held, until_empty
from benchmarks.model import Case, Figures, Scenario, Side, Target
from benchmarks.payloads import payloads
from streams_queue.factory import QueueFactory
from streams_queue.queue import Queue
from streams_queue.worker import Worker

_SAMPLED = 0.01


def _make_queue(url: str, telemetry: dict[str, Any]) -> Queue:
    config = {"type": "redis", "redis_url": url, "max_size": 3_000_000, "timeout": 30, "retry_policy": {}}
    names = {"namespace": ours.NAMESPACE, "name": ours.NAME}
    return QueueFactory.create_queue({"queue": config | names | {"telemetry": telemetry}})


async def _off(case: Case) -> Figures:
    return await _measure(case, {"enabled": False})


async def _on(case: Case) -> Figures:
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        settings = {"endpoint": collector.endpoint, "protocol": "http", "interval": 10, "sampling_ratio": _SAMPLED}
        figures = await _measure(case, settings)
        if not (collector.requests("metrics") and collector.requests("traces")):
            raise MiscountError("no metrics or no traces have arrived at the collector")
    return figures


async def _measure(case: Case, telemetry: dict[str, Any]) -> Figures:
    client = await baseline.connect(case.url)
    async with _make_queue(case.url, telemetry) as queue:
        # Connections, and what the SDK sets up once in a process, are not what is asked about.
        await queue.enqueue({})
        await queue.ack(*await queue.receive())
        watch = Watch(client)
        await watch.start()
        await _enqueue(queue, case)
        await expect_held(client, ours.STREAM, case.events)
        enqueued = await watch.stop(case.events)
        await watch.start()
        await _handle(queue, case)
        await until_empty(client, ours.STREAM, ours.GROUP)
        handled = await watch.stop(case.events)
    await client.aclose()
    return {f"enqueue {name}": value for name, value in enqueued.items()} | {
        f"Worker {name}": value for name, value in handled.items()
    }


async def _enqueue(queue: Queue, case: Case) -> None:
    """Enqueue one event a call, from many callers that wait for their answers."""
    events = iter(payloads(case.payload, case.events))

    async def call() -> None:
        for event in events:
            if not await queue.enqueue(event):
                raise MiscountError("the queue refused an event")

    await asyncio.gather(*itertools.starmap(call, [()] * case.concurrency))


async def _handle(queue: Queue, case: Case) -> None:
    handled, all_handled = 0, asyncio.Event()

    async def handle(_event: Any) -> None:
        nonlocal handled
        handled += 1
        if handled == case.events:
            all_handled.set()

    worker = Worker(queue, handle, concurrency=case.concurrency)
    running = asyncio.create_task(worker.run())
    await all_handled.wait()
    worker.stop()
    await running


SCENARIO = Scenario(
    units={f"{what} {name}": unit for what in ("enqueue", "Worker") for name, unit in Watch.UNITS.items()},
    cases=[Case(name="300 B", events=100_000, concurrency=100)],
    quick_cases=[Case(name="300 B", events=10_000, concurrency=100)],
    sides={"off": Side(_off), "on": Side(_on)},
    targets=[
        Target(side="on", metric="enqueue throughput", against="off", at_least=0.85),
        Target(side="on", metric="Worker throughput", against="off", at_least=0.85),
    ],
)
