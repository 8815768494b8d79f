"""What only the in-process queue has: a clock that tests turn, waiting without tasks, events that move elsewhere."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from streams_queue.clock import ManualClock
from streams_queue.codec import Meta
from streams_queue.memory_queue import EventQueue
from streams_queue.memory_queue.waiters import Waiters
from tests.conformance.whole import state_of, whole
from tests.support.builders import event, events, memory_config
from tests.support.taking import take_numbers


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


def make(clock: ManualClock, **section: Any) -> EventQueue:
    """Return a queue on that clock."""
    return EventQueue(memory_config(**section), clock=clock)


async def numbers_now(queue: EventQueue) -> list[int]:
    """Take what can be had at once, settle nothing."""
    return [delivery.payload["n"] for delivery in await queue.receive(100, timeout=0)]


# --- time ------------------------------------------------------------------------------------------------------------


async def test_delayed_events_are_due_to_the_moment(clock: ManualClock) -> None:
    """Not before, and in the order in which they are due; at the same moment in order of acceptance."""
    queue = make(clock)
    await queue.enqueue(event(3), delay=20)
    await queue.enqueue(event(1), delay=10)
    await queue.enqueue(event(2), delay=10)
    clock.advance(9.999)
    assert await numbers_now(queue) == []
    clock.advance(0.001)
    assert await numbers_now(queue) == [1, 2]
    clock.advance(10)
    assert await numbers_now(queue) == [3]


async def test_a_step_of_the_wall_clock_moves_no_delay(clock: ManualClock) -> None:
    """Delays run on monotonic time; ids keep their order when the wall clock goes back."""
    queue = make(clock)
    (first,) = await queue.enqueue_many([event(1)])
    await queue.enqueue(event(2), delay=10)
    clock.step(-3600)
    (third,) = await queue.enqueue_many([event(3)])
    assert await numbers_now(queue) == [1, 3]
    assert first.entry_id is not None
    assert third.entry_id is not None
    assert _order(first.entry_id) < _order(third.entry_id)
    clock.advance(10)
    assert await numbers_now(queue) == [2]


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


async def test_retries_back_off_as_the_policy_says(clock: ManualClock) -> None:
    """1, 2 and 4 s without jitter, then the dead letters."""
    queue = make(clock, retry_policy={"max_retries": 3, "base_delay": 1, "jitter": 0})
    await queue.enqueue(event(1))
    for backoff in (1, 2, 4):
        (delivery,) = await queue.receive(timeout=0)
        await queue.nack(delivery)
        clock.advance(backoff - 0.001)
        assert await state_of(queue) == whole(delayed=1, enqueued=1, retried=delivery.deliveries)
        clock.advance(0.001)
    (delivery,) = await queue.receive(timeout=0)
    await queue.nack(delivery)
    assert await state_of(queue) == whole(dead=1, enqueued=1, retried=3)


async def test_event_ids_are_forgotten_after_the_window(clock: ManualClock) -> None:
    """Inside dedup_window a second event is a duplicate, afterwards a new one."""
    queue = make(clock, dedup_window=60)
    await queue.enqueue(event(1), event_id="x")
    clock.advance(59.9)
    await queue.enqueue(event(2), event_id="x")
    clock.advance(0.1)
    await queue.enqueue(event(3), event_id="x")
    assert await numbers_now(queue) == [1, 3]


async def test_an_expired_delivery_comes_first_and_keeps_its_order(clock: ManualClock) -> None:
    """What was accepted first is handed out first again; extend starts max_lease anew."""
    queue = make(clock, lease=1, max_lease=10)
    await queue.enqueue_many(events(4))
    held = await queue.receive(3, timeout=0)
    clock.advance(9)
    await queue.extend(held[1])
    clock.advance(1)
    assert await numbers_now(queue) == [0, 2, 3]
    assert [delivery.lease_lost for delivery in held] == [True, False, True]


async def test_a_late_ack_of_an_expired_delivery_counts(clock: ManualClock) -> None:
    """Finished work needs no ownership: it ends the event, whether it waits or is in other hands."""
    queue = make(clock, lease=1, max_lease=10)
    await queue.enqueue_many(events(2))
    late = await queue.receive(2, timeout=0)
    clock.advance(10)
    again = await queue.receive(1, timeout=0)
    await queue.ack(*late)
    assert await state_of(queue) == whole(enqueued=2, acked=2, reclaimed=2)
    await queue.ack(*again)
    assert await state_of(queue) == whole(enqueued=2, acked=2, reclaimed=2)


async def test_an_event_that_always_expires_is_buried_as_crashed(clock: ManualClock) -> None:
    """Lost leases count against the limit."""
    queue = make(clock, lease=1, max_lease=10, retry_policy={"max_retries": 1, "base_delay": 1})
    await queue.enqueue(event(1))
    for _ in range(2):
        assert await numbers_now(queue) == [1]
        clock.advance(10)
    assert await numbers_now(queue) == []
    (letter,) = await queue.dead_letters()
    assert (letter.reason, letter.deliveries) == ("crashed", 2)


async def test_a_refused_dead_letter_is_tried_again_after_max_delay(clock: ManualClock) -> None:
    """While the dead letters are full the event is delayed, again and again, and never handed out past the limit."""
    queue = make(
        clock,
        dead_letter={"max_size": 1, "when_full": "refuse"},
        retry_policy={"max_retries": 0, "base_delay": 1, "max_delay": 60},
    )
    await queue.enqueue_many(events(2))
    for delivery in await queue.receive(2, timeout=0):
        await queue.nack(delivery)
    for _ in range(3):
        assert await state_of(queue) == whole(delayed=1, dead=1, enqueued=2)
        clock.advance(60)
        assert await numbers_now(queue) == []
    await queue.purge_dead()
    clock.advance(60)
    assert await numbers_now(queue) == []
    assert await state_of(queue) == whole(dead=1, died=2, enqueued=2, dead_purged=1)


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_a_cancelled_waiter_passes_its_wake_up_on() -> None:
    """Who was woken and cancelled before it ran does not keep the next one waiting."""
    waiters = Waiters()
    first, second = (asyncio.create_task(waiters.wait(30)) for _ in range(2))
    await asyncio.sleep(0)
    waiters.wake(1)
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled() or first.cancelling()


async def test_waiters_are_woken_in_the_order_in_which_they_came() -> None:
    """First come, first woken."""
    waiters, woken = Waiters(), list[int]()

    async def wait(number: int) -> None:
        await waiters.wait(30)
        woken.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiters.wake(3)
    await asyncio.wait(tasks[:3])
    assert woken == [0, 1, 2]
    waiters.wake_all()
    await asyncio.wait(tasks)
    assert woken == [0, 1, 2, 3, 4]


async def test_a_delayed_event_reaches_a_waiter_that_was_not_the_first_to_hear_of_it() -> None:
    """The first waiter's time is over before the event is due; the second one is there and gets it."""
    queue = EventQueue(memory_config())
    short = asyncio.create_task(queue.receive(timeout=0.1))
    await asyncio.sleep(0)
    long = asyncio.create_task(queue.receive(timeout=30))
    await asyncio.sleep(0)
    await queue.enqueue(event(1), delay=0.2)
    assert await short == []
    (delivery,) = await asyncio.wait_for(long, 5)
    assert delivery.payload == event(1)


async def test_a_dropped_queue_is_gone_at_once() -> None:
    """No task, timer or callback keeps it."""
    queue = EventQueue(memory_config())
    await queue.enqueue(event(1), delay=0.01)
    await queue.enqueue(event(2))
    assert await queue.dequeue() == event(2)
    assert await queue.receive(timeout=0.001) == []
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None


# --- moving events to another queue ----------------------------------------------------------------------------------


async def test_moved_events_are_held_until_the_other_queue_has_them(clock: ManualClock) -> None:
    """Oldest first, delayed ones last; they count against max_size until `moved`."""
    queue = make(clock, max_size=3)
    await queue.enqueue(event(3), delay=60)
    await queue.enqueue(event(1), event_id="x", headers={"h": "1"})
    await queue.enqueue(event(2))
    assert queue.has_events_to_move()
    clock.advance(20)
    entries = queue.take_to_move(10)
    assert [b'"n":%d' % number in entry.payload for number, entry in enumerate(entries, 1)] == [True] * 3
    assert [queue.seconds_left(entry) for entry in entries] == [0, 0, 40]
    assert (entries[0].event_id, entries[0].callers_id, entries[0].meta) == ("x", True, Meta(headers={"h": "1"}))
    assert not entries[1].callers_id
    assert not queue.has_events_to_move()
    assert not await queue.enqueue(event(4))
    assert await state_of(queue) == whole(in_flight=3, enqueued=3, rejected=1)
    queue.moved(entries)
    assert await state_of(queue) == whole(enqueued=3, rejected=1)


async def test_events_that_could_not_be_moved_are_at_the_front_again(clock: ManualClock) -> None:
    """Nothing changed its place, and a delayed event is still delayed."""
    queue = make(clock)
    await queue.enqueue_many(events(3))
    await queue.enqueue(event(9), delay=60)
    first = queue.take_to_move(2)
    await queue.enqueue(event(3))
    queue.put_back(first)
    assert await take_numbers(queue, 4) == [0, 1, 2, 3]
    queue.put_back(queue.take_to_move(10))
    assert await state_of(queue) == whole(delayed=1, enqueued=5, acked=4)
    clock.advance(60)
    assert await numbers_now(queue) == [9]


async def test_putting_back_twice_doubles_nothing(clock: ManualClock) -> None:
    """Only what is being moved can be put back."""
    queue = make(clock)
    await queue.enqueue_many(events(2))
    taken = queue.take_to_move(2)
    queue.moved(taken[:1])
    queue.put_back(taken)
    queue.put_back(taken)
    assert await numbers_now(queue) == [1]


async def test_waiting_for_an_arrival_ends_with_the_next_event() -> None:
    """The call returns when something may be there, and at once if something is."""
    queue = EventQueue(memory_config())
    waiting = asyncio.create_task(queue.wait_for_arrival())
    await asyncio.sleep(0)
    await queue.enqueue(event(1))
    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(queue.wait_for_arrival(), 5)
    assert queue.has_events_to_move()
