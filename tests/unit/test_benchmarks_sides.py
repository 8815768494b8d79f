"""The list queues and the counting that the benchmarks rely on, on a server."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import baseline, ours
from benchmarks.counting import MiscountError, expect_held, until_empty
from benchmarks.list_queues import CorrectListQueue, PlanListQueue
from streams_queue.embedded import EmbeddedServer

pytestmark = pytest.mark.integration
EVENTS = [{"number": number} for number in range(5)]


@pytest.fixture(scope="module")
def url() -> Any:
    """Start a server for this module."""
    with EmbeddedServer() as server:
        yield server.url


async def test_the_plan_s_list_never_removes_what_was_processed(url: str) -> None:
    """It is measured as the plan has it: the processing list grows."""
    queue = PlanListQueue({"queue": {"redis_url": url, "max_size": 2, "timeout": 1}})
    assert [await queue.enqueue(event) for event in EVENTS[:3]] == [True, True, False]
    assert [await queue.dequeue(), await queue.dequeue()] == EVENTS[:2]
    assert await queue.redis.llen(queue.processing_key) == 2
    await queue.redis.aclose()


async def test_the_correct_list_removes_what_is_acknowledged(url: str) -> None:
    """In order, once, and nothing is left."""
    queue = CorrectListQueue(url, max_size=10, timeout=1)
    for event in EVENTS:
        assert await queue.enqueue(event)
    for event in EVENTS:
        taken = await queue.dequeue()
        assert taken is not None
        assert taken[1] == event
        assert await queue.redis.llen(queue.processing_key) == 1
        await queue.ack(taken[0])
    assert await queue.redis.llen(queue.processing_key) == 0
    await queue.redis.aclose()


async def test_the_baseline_takes_exactly_what_it_was_asked_to(url: str) -> None:
    """What it leaves is not even handed out, and what it takes is gone."""
    client = await baseline.connect(url)
    await baseline.stage(client, EVENTS, 2)
    await baseline.drain(client, 3, 2)
    await expect_held(client, baseline.STREAM, 2)
    assert (await client.xpending(baseline.STREAM, baseline.GROUP))["pending"] == 0
    await baseline.drain(client, 2, 2)
    await until_empty(client, baseline.STREAM, baseline.GROUP)
    await client.aclose()


async def test_a_miscount_is_an_error(url: str) -> None:
    """A side that lost an event has no throughput."""
    async with ours.make_queue(url) as queue:
        await ours.fill(queue, EVENTS)
        client = baseline.Redis.from_url(url)
        await expect_held(client, ours.STREAM, len(EVENTS))
        with pytest.raises(MiscountError, match="holds 5 events, not 6"):
            await expect_held(client, ours.STREAM, 6)
        await client.aclose()


async def test_a_queue_that_refuses_stops_the_run(url: str) -> None:
    """Events that were not taken must not be counted as staged."""
    async with ours.make_queue(url, max_size=3, name="small") as queue:
        with pytest.raises(RuntimeError, match="refused"):
            await ours.fill(queue, EVENTS)
