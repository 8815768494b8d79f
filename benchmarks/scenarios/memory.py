"""How much of the server's memory does an event take?

Ours has an id, the payload and a small object of its own beside it; bare and the list have the payload alone.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from benchmarks import baseline, ours
from benchmarks.counting import expect_held
from benchmarks.list_queues import CorrectListQueue
from benchmarks.model import Case, Figures, Ratio, Scenario, Side, Target
from benchmarks.payloads import mean_bytes, payloads

_MB = 1_000_000
_AT_ONCE = 500


async def _used(client: Any) -> int:
    """Return what the data take: without clients' buffers and the append-only file's."""
    memory = await client.info("memory")
    return int(memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"])


def _figures(case: Case, before: int, full: int, total: int) -> Figures:
    per_event = (full - before) / case.events
    return {
        "per event": per_event,
        "beside the payload": per_event - mean_bytes(case.payload),
        "server, full": total / _MB,
    }


async def _total(client: Any) -> int:
    return int((await client.info("memory"))["used_memory"])


async def _bare(case: Case) -> Figures:
    async with await baseline.connect(case.url) as client:
        before = await _used(client)
        await baseline.stage(client, payloads(case.payload, case.events), _AT_ONCE)
        await expect_held(client, baseline.STREAM, case.events)
        full, total = await _used(client), await _total(client)
        return _figures(case, before, full, total)


async def _list(case: Case) -> Figures:
    queue = CorrectListQueue(case.url, max_size=10**7, timeout=5)
    before = await _used(queue.redis)
    for event in payloads(case.payload, case.events):
        await queue.enqueue(event)
    full, total = await _used(queue.redis), await _total(queue.redis)
    await queue.redis.aclose()
    return _figures(case, before, full, total)


async def _ours(case: Case) -> Figures:
    async with ours.make_queue(case.url, max_size=case.events) as queue, Redis.from_url(case.url) as client:
        # A first event brings scripts, group and counters into being; they are there once, not per event.
        await queue.enqueue({})
        await queue.ack(*await queue.receive())
        before = await _used(client)
        await ours.fill(queue, payloads(case.payload, case.events))
        await expect_held(client, ours.STREAM, case.events)
        full, total = await _used(client), await _total(client)
        return _figures(case, before, full, total)


SCENARIO = Scenario(
    units={
        "per event": "bytes",
        "beside the payload": "bytes",
        "server, full": "MB",
    },
    cases=[
        Case(name="300 B", events=10_000),
        Case(name="8 KB", payload="8 KB", events=10_000),
        Case(name="10 KB", payload="10 KB", events=10_000),
    ],
    quick_cases=[Case(name="10 KB", payload="10 KB", events=10_000)],
    sides={"bare XADD": Side(_bare), "correct list": Side(_list), "streams_queue": Side(_ours)},
    targets=[Target(side="streams_queue", metric="server, full", at_most=256, case="10 KB")],
    ratios=[Ratio(side="streams_queue", metric="per event", against="bare XADD", better="less")],
    warm_up=False,
)
