"""Our queue as the scenarios use it: everything at its default but what the question is about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import baseline
from benchmarks.counting import Watch, expect_held, until_empty
from benchmarks.model import Case, Figures
from benchmarks.payloads import payloads
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.worker import Worker

NAMESPACE, NAME, GROUP = "bench", "events", "processors"
STREAM = f"{NAMESPACE}:{{{NAME}}}"
_FILL_AT_ONCE = 500

Produce = Callable[[RedisEventQueue, list[Any], Case], Awaitable[object]]


def make_queue(url: str, **settings: Any) -> RedisEventQueue:
    """Make the queue; nothing connects before its first use."""
    config = {"redis_url": url, "max_size": 3_000_000, "timeout": 30, "namespace": NAMESPACE, "name": NAME}
    return RedisEventQueue({"queue": config | settings})


async def fill(queue: RedisEventQueue, payloads: list[Any], batch: int = _FILL_AT_ONCE) -> None:
    """Enqueue payloads, batch after batch; one that is refused is an error."""
    for start in range(0, len(payloads), batch):
        receipts = await queue.enqueue_many(payloads[start : start + batch])
        if not all(receipt.held for receipt in receipts):
            raise RuntimeError("the queue refused an event")


async def in_batches(queue: RedisEventQueue, events: list[Any], case: Case) -> None:
    """Produce with `enqueue_many`, as many at once as the case says."""
    await fill(queue, events, case.batch)


async def in_one_call(queue: RedisEventQueue, events: list[Any], _case: Case) -> None:
    """Produce with a single `enqueue_many`."""
    await queue.enqueue_many(events)


async def in_tasks(queue: RedisEventQueue, events: list[Any], case: Case) -> None:
    """Produce with `enqueue`, from many tasks that each have one event after the other."""
    remaining = iter(events)

    async def one_after_the_other() -> None:
        for event in remaining:
            await queue.enqueue(event)

    await asyncio.gather(*(one_after_the_other() for _ in range(case.concurrency)))


async def staged(case: Case, produce: Produce = in_batches, **settings: Any) -> Figures:
    """Measure how events get into a queue with these settings; the clock stops when XLEN counts all."""
    client = await baseline.connect(case.url)
    events = payloads(case.payload, case.events)
    async with make_queue(case.url, **settings) as queue:
        await queue.stats()  # as the other sides, it is connected when the clock starts
        watch = Watch(client)
        await watch.start()
        await produce(queue, events, case)
        await expect_held(client, STREAM, case.events)
        figures = await watch.stop(case.events)
    await client.aclose()
    return figures


async def drained(case: Case, **settings: Any) -> Figures:
    """Measure how a Worker gets events out of a queue with these settings, until XLEN is 0 and nothing is pending."""
    client = await baseline.connect(case.url)
    async with make_queue(case.url, **settings) as queue:
        await fill(queue, payloads(case.payload, case.events))
        handled, all_handled = 0, asyncio.Event()

        async def handle(_event: Any) -> None:
            nonlocal handled
            handled += 1
            if handled == case.events:
                all_handled.set()

        worker = Worker(queue, handle, concurrency=case.concurrency)
        watch = Watch(client)
        await watch.start()
        running = asyncio.create_task(worker.run())
        await all_handled.wait()
        await until_empty(client, STREAM, GROUP)
        figures = await watch.stop(case.events)
        worker.stop()
        await running
    await client.aclose()
    return figures
