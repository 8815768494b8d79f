"""Station 5: write a handler; the worker receives, runs, retries and settles."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from streams_queue import Queue, QueueFactory, Reject, RetryLater, Worker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


async def test_a_handler_returns_fails_rejects_or_asks_for_time(config: dict[str, Any]) -> None:
    """What becomes of an event follows from how its handler ends."""
    runs: Counter[str] = Counter()
    all_done = asyncio.Event()

    async def handle(event: dict[str, Any]) -> None:
        kind = event["event_type"]
        runs[kind] += 1
        if runs.total() == 6:
            all_done.set()
        if kind == "unknown":
            raise Reject("nobody handles this kind")
        if kind == "flaky" and runs[kind] == 1:
            raise ConnectionError("no route to host")
        if kind == "early" and runs[kind] == 1:
            raise RetryLater(0.1)

    async with QueueFactory.create_queue(config) as queue:
        await queue.enqueue_many([{"event_type": kind} for kind in ("push", "unknown", "flaky", "early")])
        worker = Worker(queue, handle, concurrency=4)
        running = asyncio.create_task(worker.run())
        await all_done.wait()
        worker.stop()
        await running

        assert runs == {"push": 1, "unknown": 1, "flaky": 2, "early": 2}
        (letter,) = await queue.dead_letters()
        assert (letter.payload, letter.reason) == ({"event_type": "unknown"}, "nobody handles this kind")
        # Acknowledged with the next read, or within milliseconds.
        await wait_until(lambda: _acked(queue, 3))


async def _acked(queue: Queue, count: int) -> bool:
    return (await queue.stats()).totals["acked"] == count
