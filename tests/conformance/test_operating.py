"""What every queue promises to operators."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from streams_queue.errors import UsageError
from streams_queue.queue import Queue
from tests.conformance.whole import assert_state, state_of, whole
from tests.support.builders import event, events
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until

MakeQueue = Callable[..., Queue]


async def bury(queue: Queue, *numbers: int) -> None:
    """Turn events into dead letters, one after the other."""
    for number in numbers:
        await queue.enqueue(event(number), event_id=f"event {number}")
        (delivery,) = await receive_exactly(queue, 1)
        await queue.dead_letter(delivery, "rejected")


async def test_peek_shows_the_line_without_taking_from_it(queue: Queue) -> None:
    """Waiting events first, then delayed ones by due time; nothing changes by looking."""
    await queue.enqueue(event(3), delay=120)
    await queue.enqueue(event(2), delay=60, event_id="two")
    await queue.enqueue(event(1), event_id="one")
    before = await state_of(queue)
    seen = await queue.peek()
    assert [(each.payload["n"], each.state, each.deliveries) for each in seen] == [
        (1, "waiting", 0),
        (2, "delayed", 0),
        (3, "delayed", 0),
    ]
    assert [each.event_id for each in seen[:2]] == ["one", "two"]
    assert [each.entry_id is not None for each in seen] == [True, False, False]
    assert seen[0].due_at is None
    assert seen[1].due_at == pytest.approx(time.time() + 60, abs=5)
    assert await state_of(queue) == before
    assert len(await queue.peek(2)) == 2


async def test_peek_shows_how_often_an_event_was_handed_out(queue: Queue) -> None:
    """A retry that waits carries its count."""
    await queue.enqueue(event(1))
    await queue.nack((await receive_exactly(queue, 1))[0], delay=60)
    (seen,) = await queue.peek()
    assert (seen.state, seen.deliveries) == ("delayed", 1)


async def test_dead_letters_are_listed_oldest_first_and_page_by_page(queue: Queue) -> None:
    """`after` continues where the last page ended."""
    await bury(queue, 1, 2, 3)
    first = await queue.dead_letters(2)
    assert [letter.payload["n"] for letter in first] == [1, 2]
    second = await queue.dead_letters(2, after=first[-1].dead_id)
    assert [letter.payload["n"] for letter in second] == [3]
    assert await queue.dead_letters(2, after=second[-1].dead_id) == []
    assert second[0].raw["id"] == b"event 3"


async def test_a_redriven_event_starts_afresh(make_queue: MakeQueue) -> None:
    """It is waiting again with a count of 0, and has all its retries before it."""
    queue = make_queue(retry_policy={"max_retries": 1, "base_delay": 0.01})
    await queue.enqueue(event(1), event_id="x", headers={"h": "1"})
    for _ in range(2):
        await queue.nack((await receive_exactly(queue, 1))[0])
    assert await state_of(queue) == whole(dead=1, enqueued=1, retried=1)
    assert await queue.redrive() == 1
    assert await state_of(queue) == whole(waiting=1, died=1, enqueued=1, retried=1, redriven=1)
    for deliveries in (1, 2):
        (delivery,) = await receive_exactly(queue, 1)
        assert (delivery.event_id, delivery.deliveries, dict(delivery.headers)) == ("x", deliveries, {"h": "1"})
        await queue.nack(delivery)
    assert await state_of(queue) == whole(dead=1, died=2, enqueued=1, retried=2, redriven=1)


async def test_redrive_takes_ids_or_a_count(queue: Queue) -> None:
    """Ids name which ones, unknown ids are passed over; a count takes the oldest."""
    await bury(queue, 1, 2, 3, 4)
    ids = [letter.dead_id for letter in await queue.dead_letters()]
    assert await queue.redrive(ids[2], "1-1") == 1
    assert await queue.redrive(ids[2]) == 0
    assert await queue.redrive(count=2) == 2
    assert await take_numbers(queue, 3) == [3, 1, 2]
    assert [letter.payload["n"] for letter in await queue.dead_letters()] == [4]


async def test_redrive_needs_room(make_queue: MakeQueue) -> None:
    """A full queue takes no more; what stays dead is not lost."""
    queue = make_queue(max_size=2)
    await bury(queue, 1, 2)
    await queue.enqueue(event(3))
    assert await queue.redrive() == 1
    assert await state_of(queue) == whole(waiting=2, dead=1, died=2, enqueued=3, redriven=1)


async def test_redrive_wakes_a_waiting_receiver(queue: Queue) -> None:
    """What an operator puts back is handed out at once."""
    await bury(queue, 1)
    waiting = asyncio.create_task(queue.receive(timeout=30))
    await asyncio.wait({waiting}, timeout=0.1)
    await queue.redrive()
    (delivery,) = await asyncio.wait_for(waiting, 5)
    assert delivery.payload == event(1)


async def test_purge_moves_everything_that_is_not_in_flight_to_the_dead_letters(queue: Queue) -> None:
    """Nothing is deleted, and a redrive brings all of it back."""
    await queue.enqueue(event(0))
    (held,) = await receive_exactly(queue, 1)
    await queue.enqueue_many(events(2, start=1))
    await queue.enqueue(event(3), delay=60)
    assert await queue.purge() == 3
    assert await state_of(queue) == whole(in_flight=1, dead=3, enqueued=4, purged=3)
    letters = await queue.dead_letters()
    assert [(letter.payload["n"], letter.reason) for letter in letters] == [
        (1, "purged"),
        (2, "purged"),
        (3, "purged"),
    ]
    await queue.ack(held)
    assert await queue.redrive() == 3
    assert await take_numbers(queue, 3) == [1, 2, 3]


async def test_purge_only_moves_to_the_dead_letters(queue: Queue) -> None:
    """Another target is a mistake, not a way to delete."""
    await queue.enqueue(event(1))
    with pytest.raises(UsageError, match="dead"):
        await queue.purge(to="nowhere")
    assert await state_of(queue) == whole(waiting=1, enqueued=1)


async def test_purge_dead_deletes_counts_and_says_who_asked(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """The only verb that deletes leaves its trace in the figures and in the log."""
    await bury(queue, 1, 2, 3)
    ids = [letter.dead_id for letter in await queue.dead_letters()]
    with caplog.at_level(logging.INFO):
        assert await queue.purge_dead(ids[1], "1-1", who="octocat") == 1
    assert "octocat" in caplog.text
    assert [letter.payload["n"] for letter in await queue.dead_letters()] == [1, 3]
    assert await queue.purge_dead() == 2
    assert await state_of(queue) == whole(died=3, enqueued=3, dead_purged=3)


async def test_full_dead_letters_refuse_and_the_event_stays(make_queue: MakeQueue) -> None:
    """With `refuse` the event is delayed by max_delay and health says so; room ends that."""
    queue = make_queue(
        dead_letter={"max_size": 1, "when_full": "refuse"},
        retry_policy={"max_retries": 0, "base_delay": 0.01, "max_delay": 60},
    )
    await bury(queue, 1)
    await queue.enqueue(event(2))
    await queue.nack((await receive_exactly(queue, 1))[0])
    state = await state_of(queue)
    assert (state.waiting, state.in_flight, state.delayed, state.dead) == (0, 0, 1, 1)
    assert [letter.payload["n"] for letter in await queue.dead_letters()] == [1]
    health = await queue.check_health()
    assert health["status"] == "unhealthy"
    assert "dead letter" in health["error"]
    await queue.purge_dead()
    await wait_until(lambda: _is_healthy(queue))


async def _is_healthy(queue: Queue) -> bool:
    return bool((await queue.check_health())["status"] == "healthy")


async def test_full_dead_letters_drop_the_oldest_if_asked(make_queue: MakeQueue) -> None:
    """With `drop` the oldest dead letter ends, counted."""
    queue = make_queue(dead_letter={"max_size": 2, "when_full": "drop"})
    await bury(queue, 1, 2, 3)
    assert [letter.payload["n"] for letter in await queue.dead_letters()] == [2, 3]
    assert await state_of(queue) == whole(dead=2, died=3, enqueued=3, dropped=1)


async def test_stats_are_one_look_at_everything(make_queue: MakeQueue) -> None:
    """Each state is counted where it is; the oldest waiting event has an age."""
    queue = make_queue(max_size=7)
    assert (await queue.stats()).oldest_waiting_age is None
    await bury(queue, 1)
    await queue.enqueue_many(events(3, start=2))
    (held,) = await receive_exactly(queue, 1)
    await queue.enqueue(event(5), delay=60)
    stats = await queue.stats()
    assert (stats.waiting, stats.in_flight, stats.delayed, stats.dead) == (2, 1, 1, 1)
    assert (stats.max_size, stats.consumers, stats.paused) == (7, 1, False)
    assert stats.oldest_waiting_age is not None
    assert 0 <= stats.oldest_waiting_age < 30
    await queue.ack(held)
    await assert_state(queue, whole(waiting=2, delayed=1, dead=1, enqueued=5, acked=1))


async def test_health_names_the_plans_keys(queue: Queue) -> None:
    """A healthy queue says so, with the figures that a dashboard shows."""
    await queue.enqueue_many(events(3))
    await receive_exactly(queue, 1)
    health = await queue.check_health()
    assert health["status"] == "healthy"
    assert (health["queue_depth"], health["queue_size"], health["processing"]) == (2, 2, 1)
    assert health["running"] is True
    assert isinstance(health["redis_connected"], bool)
    assert health["redis_connected"] == health["using_redis"]
    assert "error" not in health


async def test_health_of_a_closed_queue(queue: Queue) -> None:
    """A closed queue is unhealthy, and asking does not raise."""
    await queue.cleanup()
    health = await queue.check_health()
    assert (health["status"], health["running"]) == ("unhealthy", False)
    assert health["error"]


async def test_the_last_pause_says_what_is_paused(queue: Queue) -> None:
    """A pause replaces the one before, and one resume ends it."""
    await queue.pause()
    await queue.pause(intake=False, delivery=True)
    assert (await queue.stats()).paused
    assert await queue.enqueue(event(1))
    await queue.pause(intake=True, delivery=False)
    assert not await queue.enqueue(event(2))
    assert await take_numbers(queue, 1) == [1]
    await queue.resume()
    assert not (await queue.stats()).paused
    assert await queue.enqueue(event(3))
    assert await take_numbers(queue, 1) == [3]
