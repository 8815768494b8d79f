"""How much memory does a worker's process take after 100,000 events?

Beside it stands a process that imports `redis.asyncio` and does nothing. Another process enqueues meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.model import Case, Figures, Scenario, Side, Target

_PAGE_MIB = 4096 / 1024 / 1024
_MOST_WAITING = 5_000


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_MIB


async def _bare(_case: Case) -> Figures:
    import redis.asyncio  # noqa: F401 - the import is what is measured

    return {"resident": _resident()}


async def _ours(case: Case) -> Figures:
    from benchmarks import ours
    from streams_queue.worker import Worker

    handled = 0

    async def handle(_event: Any) -> None:
        nonlocal handled
        handled += 1
        if handled == case.events:
            worker.stop()

    async with ours.make_queue(case.url) as queue:
        worker = Worker(queue, handle, concurrency=case.concurrency)
        await worker.run()
        return {"resident": _resident()}


async def _our_producer(case: Case) -> Figures:
    from benchmarks import ours
    from benchmarks.counting import wait_for
    from benchmarks.payloads import payloads

    events = payloads(case.payload, case.events)
    async with ours.make_queue(case.url) as queue:

        async def has_room() -> bool:
            return await queue.get_queue_depth() <= _MOST_WAITING

        for start in range(0, case.events, case.batch):
            await wait_for(has_room)
            await ours.fill(queue, events[start : start + case.batch], case.batch)
    return {}


SCENARIO = Scenario(
    units={"resident": "MiB"},
    cases=[Case(name="300 B", events=100_000, batch=500, concurrency=100)],
    quick_cases=[Case(name="300 B", events=20_000, batch=500, concurrency=100)],
    sides={"redis.asyncio, idle": Side(_bare), "Worker": Side(_ours, _our_producer)},
    targets=[Target(side="Worker", metric="resident", against="redis.asyncio, idle", minus=True, at_most=15)],
    fresh=True,
    warm_up=False,
)
