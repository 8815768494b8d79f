"""Callers that give up waiting."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conftest import MakeQueue
from tests.support.builders import event
from tests.support.stored import StoredQueue
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

EVENTS, CANCELS = 600, 1000


async def test_cancelling_a_waiting_dequeue_a_thousand_times_loses_nothing(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Events arrive while `dequeue` is cancelled again and again: each comes out exactly once."""
    producer, queue = make_redis_queue(), make_redis_queue(lease=30)
    chance, seen, cancelled = random.Random(7), list[int](), 0

    async def produce() -> None:
        for number in range(EVENTS):
            await producer.enqueue(event(number))
            await asyncio.sleep(chance.random() * 0.004)

    producing = asyncio.create_task(produce())
    while cancelled < CANCELS:
        waiting = asyncio.ensure_future(queue.dequeue(5))
        await asyncio.wait([waiting], timeout=chance.random() * 0.003)
        if waiting.cancel():
            cancelled += 1
        (got,) = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(got, dict):
            seen.append(got["n"])
    await producing
    while (got := await queue.dequeue(0.5)) is not None:
        seen.append(got["n"])

    assert sorted(seen) == list(range(EVENTS))
    await wait_until(stored.empty, what="the last events were not acknowledged")


async def test_a_timeout_around_dequeue_loses_nothing(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """`asyncio.wait_for(queue.dequeue(), …)` with hopelessly short times: every event comes out exactly once."""
    producer, queue = make_redis_queue(), make_redis_queue(lease=30)
    seen: list[int] = []

    async def produce() -> None:
        for number in range(200):
            await producer.enqueue(event(number))
            await asyncio.sleep(0.002)

    producing = asyncio.create_task(produce())
    while len(seen) < 200:
        try:
            got = await asyncio.wait_for(queue.dequeue(5), 0.003)
        except TimeoutError:
            assert not (producing.done() and await queue.get_queue_depth() == 0 and await stored.length() > 1)
            continue
        if got is not None:
            seen.append(got["n"])
    await producing

    assert sorted(seen) == list(range(200))


async def test_a_cancelled_enqueue_does_not_cancel_its_neighbours(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Calls that share a batch are independent: with every second one cancelled the others get True, in order."""
    queue = make_redis_queue()
    await queue.enqueue(event(0))
    calls = [asyncio.create_task(queue.enqueue(event(number))) for number in range(1, 101)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()

    results = await asyncio.gather(*calls, return_exceptions=True)

    assert results[1::2] == [True] * 50
    numbers = await stored.numbers()
    assert numbers == sorted(set(numbers))
    assert set(numbers) >= {0, *range(2, 101, 2)}


async def test_a_cancelled_receive_leaves_its_events_to_the_next_caller(make_redis_queue: MakeQueue) -> None:
    """`receive` that is cancelled at the moment the reply comes keeps nothing to itself."""
    producer, queue = make_redis_queue(), make_redis_queue(lease=30)
    for number in range(50):
        waiting = asyncio.create_task(queue.receive(timeout=5))
        await asyncio.sleep(0)
        await producer.enqueue(event(number))
        waiting.cancel()
        (got,) = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(got, list):
            assert [delivery.payload["n"] for delivery in got] == [number]
            await queue.ack(*got)
        else:
            assert await take_numbers(queue, 1, timeout=3.0) == [number]
