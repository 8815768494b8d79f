"""A pause holds for everybody, also for who comes later."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import MakeQueue
from tests.support.builders import events
from tests.support.taking import take_numbers

pytestmark = pytest.mark.integration


async def test_a_consumer_that_comes_during_a_pause_is_handed_nothing(make_redis_queue: MakeQueue) -> None:
    """It does not begin before its first round of housekeeping; when the pause ends, it goes on in order."""
    operator = make_redis_queue()
    await operator.enqueue_many(events(3))
    await operator.pause(intake=False)
    newcomer = make_redis_queue()

    assert await newcomer.receive(timeout=0) == []
    assert await newcomer.receive(timeout=0.05) == []
    stats = await operator.stats()
    assert (stats.waiting, stats.in_flight, stats.totals["released"]) == (3, 0, 0)

    await operator.resume()
    assert await take_numbers(newcomer, 3) == [0, 1, 2]


async def test_a_look_during_a_pause_returns_at_once(make_redis_queue: MakeQueue) -> None:
    """`timeout=0` waited as long as a server may take to answer, for an answer to a question that it did not ask."""
    queue = make_redis_queue()
    await queue.pause(intake=False)
    assert await queue.receive(timeout=0) == []

    async with asyncio.timeout(queue.settings.enqueue_timeout / 10):
        for _ in range(3):
            assert await queue.receive(timeout=0) == []
