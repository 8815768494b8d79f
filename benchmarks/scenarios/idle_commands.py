"""What does a worker cost that has nothing to do, and what does sweeping cost beside 100,000 pending entries?

Counted is what clients send, not what scripts run on the server. In the second case another consumer holds 100,000
entries whose leases have not run out.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from redis.asyncio import Redis

from benchmarks import ours
from benchmarks.counting import commands_sent, server_cpu
from benchmarks.model import Case, Figures, Scenario, Side, Target
from benchmarks.payloads import payloads
from streams_queue.worker import Worker

_AT_ONCE = 1000


async def _hold(client: Any, events: int) -> None:
    """Hand so many entries to a consumer that neither runs nor has crashed."""
    for _ in range(0, events, _AT_ONCE):
        await client.xreadgroup(ours.GROUP, "somebody-else", {ours.STREAM: ">"}, count=_AT_ONCE)


async def _ours(case: Case) -> Figures:
    async def handle(_event: Any) -> None:
        raise RuntimeError("there is nothing to handle")

    settings = {"lease": 300} if case.backlog else {}
    async with ours.make_queue(case.url, **settings) as queue, Redis.from_url(case.url) as client:
        await ours.fill(queue, payloads(case.payload, case.backlog))
        await queue.stats()
        await _hold(client, case.backlog)
        worker = Worker(queue, handle)
        running = asyncio.create_task(worker.run())
        # Connections are opened and the first sweep is over.
        await asyncio.sleep(2)
        sent, cpu, began = await commands_sent(client), await server_cpu(client), time.perf_counter()
        await asyncio.sleep(case.seconds)
        sent, cpu = await commands_sent(client) - sent, await server_cpu(client) - cpu
        seconds = time.perf_counter() - began
        worker.stop()
        await running
    return {"commands": sent / seconds, "server CPU": 100 * cpu / seconds}


async def _nothing(case: Case) -> Figures:
    async with Redis.from_url(case.url) as client:
        cpu, began = await server_cpu(client), time.perf_counter()
        await asyncio.sleep(case.seconds)
        return {"commands": 0.0, "server CPU": 100 * (await server_cpu(client) - cpu) / (time.perf_counter() - began)}


SCENARIO = Scenario(
    units={"commands": "commands/s", "server CPU": "% of a core"},
    cases=[
        Case(name="empty queue", seconds=10),
        Case(name="100,000 pending", seconds=5, backlog=100_000),
    ],
    quick_cases=[
        Case(name="empty queue", seconds=5),
        Case(name="100,000 pending", seconds=3, backlog=100_000),
    ],
    sides={"nobody": Side(_nothing), "idle Worker": Side(_ours)},
    targets=[
        Target(side="idle Worker", metric="commands", at_most=2, case="empty queue"),
        Target(
            side="idle Worker", metric="server CPU", against="nobody", minus=True, at_most=2, case="100,000 pending"
        ),
    ],
    warm_up=False,
)
