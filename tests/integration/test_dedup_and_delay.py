"""Events that come twice, and events that come later."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conftest import MakeQueue
from tests.support.builders import event
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take_numbers

pytestmark = pytest.mark.integration


async def test_an_event_id_is_taken_once_whoever_sends_it(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Ten producers race with the same event_id: all are told that it is held, and it is there once."""
    producers = [make_redis_queue() for _ in range(10)]

    accepted = await asyncio.gather(*(producer.enqueue(event(0), event_id="delivery-7") for producer in producers))

    assert accepted == [True] * 10
    assert await stored.numbers() == [0]
    totals = (await producers[0].stats()).totals
    assert (totals["enqueued"], totals["duplicates"]) == (1, 9)


async def test_an_event_id_stays_known_after_the_event_is_done(make_redis_queue: MakeQueue) -> None:
    """A second delivery of the same webhook after the first was processed is still a duplicate."""
    queue = make_redis_queue()
    await queue.enqueue(event(0), event_id="delivery-7")
    assert await take_numbers(queue, 1) == [0]

    (receipt,) = await queue.enqueue_many([event(0)], event_ids=["delivery-7"])

    assert (receipt.status, receipt.held) == ("duplicate", True)
    assert await queue.receive(timeout=0.2) == []


async def test_an_event_id_is_forgotten_after_its_window(make_redis_queue: MakeQueue) -> None:
    """When the window is over the id may be used again: its bookkeeping does not grow for ever."""
    queue = make_redis_queue(dedup_window=1.0)
    await queue.enqueue(event(0), event_id="delivery-7")
    begun = time.monotonic()
    while (await queue.enqueue_many([event(1)], event_ids=["delivery-7"]))[0].status == "duplicate":
        assert time.monotonic() - begun < 4.0
        await asyncio.sleep(0.05)

    assert time.monotonic() - begun >= 0.95


async def test_a_delayed_event_comes_when_it_is_due_and_not_before(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Delayed events wait in the sorted set, count towards max_size, and come in order of their due time."""
    queue = make_redis_queue(max_size=3)
    begun = time.monotonic()
    await queue.enqueue(event(2), delay=1.0)
    await queue.enqueue(event(1), delay=0.5)
    await queue.enqueue(event(0))
    assert await queue.enqueue(event(9)) is False
    assert await stored.raw.zcard(stored.keys.delayed) == 2

    got = [await take_numbers(queue, 1) for _ in range(3)]

    assert got == [[0], [1], [2]]
    assert 1.0 <= time.monotonic() - begun <= 2.2


async def test_a_delayed_event_wakes_a_consumer_that_already_waits(make_redis_queue: MakeQueue) -> None:
    """No new traffic is needed: the waiting consumer promotes what is due by its own timer."""
    producer, consumer = make_redis_queue(), make_redis_queue(lease=15)
    waiting = asyncio.create_task(receive_exactly(consumer, 1))
    await producer.get_queue_depth()
    begun = time.monotonic()

    await producer.enqueue(event(0), delay=0.6)

    (delivery,) = await waiting
    assert delivery.payload == event(0)
    assert 0.55 <= time.monotonic() - begun <= 2.0


async def test_two_equal_delayed_events_are_two(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Equal payloads with an equal due time are not merged into one member of the set."""
    queue = make_redis_queue()
    await queue.enqueue_many([event(0), event(0), event(0)], delay=0.3)
    assert await stored.raw.zcard(stored.keys.delayed) == 3

    assert await take_numbers(queue, 3) == [0, 0, 0]


async def test_a_retry_keeps_the_payload_as_it_was(make_redis_queue: MakeQueue) -> None:
    """Empty lists, big integers and odd strings survive the way through the delayed set and the dead letters."""
    payload = {"empty": [], "none": {}, "big": 2**63 + 1, "huge": 10**40, "float": 0.1, "text": "ü\x00\n\"'%", "n": 1}
    queue = make_redis_queue(retry_policy={"max_retries": 1, "base_delay": 0.05})
    await queue.enqueue(payload, headers={"trace": "abc"})
    for deliveries in (1, 2):
        (delivery,) = await receive_exactly(queue, 1)
        assert (delivery.payload, delivery.deliveries) == (payload, deliveries)
        assert delivery.headers == {"trace": "abc"}
        await queue.nack(delivery, error="no luck")

    (letter,) = await queue.dead_letters()
    assert (letter.payload, letter.reason, letter.deliveries) == (payload, "max_retries", 2)
    assert await queue.redrive() == 1
    (delivery,) = await receive_exactly(queue, 1)
    assert (delivery.payload, delivery.deliveries, delivery.event_id) == (payload, 1, letter.event_id)
