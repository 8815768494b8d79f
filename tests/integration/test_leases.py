"""Who holds an event, for how long, and what follows when somebody else takes it."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from dataclasses import dataclass
from functools import partial

import pytest

from streams_queue.errors import LeaseLost
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.redis_queue.prefetch import Prefetch
from tests.conftest import MakeConfig, MakeQueue
from tests.support.builders import event, events
from tests.support.recording import Recorder
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("verb", ["nack", "extend", "dead_letter"])
async def test_what_needs_ownership_is_fenced_after_a_reclaim(
    verb: str, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A consumer whose event was claimed by another cannot settle or renew it; the other one's work is undisturbed."""
    slow, quick = make_redis_queue(lease=30), make_redis_queue(lease=30)
    await slow.enqueue(event(0))
    (lost,) = await slow.receive()
    await stored.age(lost.entry_id, 60)
    (held,) = await receive_exactly(quick, 1)
    assert (held.payload, held.deliveries, held.event_id) == (event(0), 2, lost.event_id)

    settle = {"nack": slow.nack, "extend": slow.extend, "dead_letter": partial(slow.dead_letter, reason="rejected")}
    with pytest.raises(LeaseLost):
        await settle[verb](lost)

    assert lost.lease_lost
    (pending,) = await stored.pending()
    assert pending["times_delivered"] == 2
    await quick.ack(held)
    assert await stored.empty()
    assert await slow.dead_letters() == []


async def test_a_release_by_who_lost_the_lease_is_passed_over(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Giving back what somebody else runs by now neither raises nor doubles the event."""
    slow, quick = make_redis_queue(lease=30), make_redis_queue(lease=30)
    await slow.enqueue(event(0))
    (lost,) = await slow.receive()
    await stored.age(lost.entry_id, 60)
    (held,) = await receive_exactly(quick, 1)

    await slow.release(lost)

    assert await stored.length() == 1
    await quick.ack(held)
    assert await stored.empty()


async def test_finished_work_counts_whoever_reports_it_first(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """An ack needs no ownership: the event is done, and what the new holder says later is too late but harmless."""
    slow, quick = make_redis_queue(lease=30), make_redis_queue(lease=30)
    await slow.enqueue(event(0))
    (lost,) = await slow.receive()
    await stored.age(lost.entry_id, 60)
    (held,) = await receive_exactly(quick, 1)

    await slow.ack(lost)

    assert await stored.empty()
    with pytest.raises(LeaseLost):
        await quick.nack(held)
    await quick.ack(held)
    assert await stored.empty()
    assert (await quick.stats()).totals["acked"] == 1


async def test_the_keeper_tells_of_a_theft_and_never_steals_back(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """An entry that somebody else claimed is left to him: the delivery says that its lease is lost."""
    recorder = Recorder()
    queue = make_redis_queue(lease=1.0, observers=(recorder,))
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()

    await stored.steal(delivery.entry_id)

    await wait_until(lambda: delivery.lease_lost, timeout=3)
    assert recorder.leases_lost == [delivery]
    (pending,) = await stored.pending()
    assert pending["consumer"] == b"thief"


async def test_a_lease_is_renewed_for_as_long_as_the_process_lives(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Three leases long nobody else gets the event, and its idle time never reaches the lease."""
    queue, other = make_redis_queue(lease=1.0), make_redis_queue(lease=1.0)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    idle: list[int] = []
    waiting = asyncio.create_task(other.receive(timeout=3.0))
    while not waiting.done():
        idle.append((await stored.pending())[0]["time_since_delivered"])
        await asyncio.wait([waiting], timeout=0.05)

    assert await waiting == []

    assert max(idle) < 1000
    await queue.nack(delivery, delay=0)
    assert (await receive_exactly(other, 1))[0].deliveries == 2


async def test_max_lease_ends_the_renewals(make_redis_queue: MakeQueue) -> None:
    """A handler that hangs for ever keeps its event for max_lease; then it is told and somebody else gets it."""
    recorder = Recorder()
    hanging = make_redis_queue(lease=1.0, max_lease=2.0, observers=(recorder,))
    other = make_redis_queue(lease=1.0)
    await hanging.enqueue(event(0))
    begun = time.monotonic()
    (delivery,) = await hanging.receive()

    (again,) = await receive_exactly(other, 1, timeout=8.0)

    assert 2.0 <= time.monotonic() - begun <= 2.0 + 1.0 + 1.5
    assert again.deliveries == 2
    await wait_until(lambda: delivery.lease_lost, timeout=2)
    assert recorder.leases_lost == [delivery]
    with pytest.raises(LeaseLost):
        await hanging.nack(delivery)


async def test_hundreds_of_expired_entries_all_come_back(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """More than one sweep can claim, and behind entries of the living: none of them is forgotten or counted twice."""
    living, queue = make_redis_queue(lease=30, prefetch=1), make_redis_queue(lease=30)
    await living.enqueue_many(events(330))
    held = await receive_exactly(living, 30)
    await stored.raw.xreadgroup(stored.keys.group, "ghost", {stored.keys.stream: ">"}, count=300)
    for entry in await stored.pending():
        if entry["consumer"] == b"ghost":
            await stored.age(entry["message_id"].decode(), 60)

    back = await receive_exactly(queue, 300, timeout=20)

    assert sorted(delivery.payload["n"] for delivery in (*held, *back)) == list(range(330))
    assert {delivery.deliveries for delivery in back} == {2}
    assert (await queue.stats()).totals["reclaimed"] == 300


async def test_expired_entries_come_back_at_the_pace_of_the_work(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A worker that takes one event at a time gets a dead consumer's backlog as fast as it works, not one per sweep."""
    queue = make_redis_queue(lease=30)
    await queue.enqueue_many(events(50))
    await stored.raw.xreadgroup(stored.keys.group, "ghost", {stored.keys.stream: ">"}, count=50)
    for entry in await stored.pending():
        await stored.age(entry["message_id"].decode(), 60)
    begun = time.monotonic()

    got = [number for _ in range(50) for number in await take_numbers(queue, 1)]

    assert got == list(range(50))
    assert time.monotonic() - begun <= 5.0


async def test_a_hand_extended_lease_starts_anew(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """`extend` sets the idle time back without counting a delivery."""
    queue = make_redis_queue(lease=60)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    await stored.age(delivery.entry_id, 50)

    await queue.extend(delivery)

    (pending,) = await stored.pending()
    assert pending["time_since_delivered"] < 5000
    assert pending["times_delivered"] == 1


async def test_what_is_left_in_the_buffer_of_a_busy_consumer_is_given_back(make_redis_queue: MakeQueue) -> None:
    """A handler that hangs holds nobody else's event: what it prefetched is available to others after a second."""
    hanging, other = make_redis_queue(lease=30, prefetch=10), make_redis_queue(lease=30)
    await hanging.enqueue_many(events(10))
    (first,) = await hanging.receive(1)

    rest = await receive_exactly(other, 9, timeout=4.0)

    assert {delivery.payload["n"] for delivery in (first, *rest)} == set(range(10))
    assert {delivery.deliveries for delivery in rest} == {1}


async def test_a_forgotten_queue_strands_nothing(
    make_redis_queue: MakeQueue, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """A queue that was simply dropped while it held an event stops renewing, and the event is handed out again."""
    from streams_queue import RedisEventQueue

    producer = make_redis_queue(lease=1.0)
    await producer.enqueue(event(0))
    forgotten = RedisEventQueue(make_config(lease=1.0))
    assert len(await forgotten.receive()) == 1
    del forgotten
    gc.collect()

    assert await take_numbers(producer, 1, timeout=4.0) == [0]


def test_a_queue_works_in_one_event_loop_after_the_other(make_config: MakeConfig) -> None:
    """The same object under two `asyncio.run`: connections and keeper start anew, events stay."""
    from streams_queue import RedisEventQueue

    queue = RedisEventQueue(make_config())

    async def first() -> list[bool]:
        return [await queue.enqueue(event(number)) for number in range(3)]

    async def second() -> list[int]:
        numbers = await take_numbers(queue, 3)
        await queue.cleanup()
        return numbers

    assert asyncio.run(first()) == [True] * 3
    assert asyncio.run(second()) == [0, 1, 2]


def test_an_event_held_when_its_loop_ended_comes_back(make_config: MakeConfig) -> None:
    """Whoever took an event in a loop that is closed now does not keep it from the next one."""
    from streams_queue import RedisEventQueue

    queue = RedisEventQueue(make_config(lease=1.0))

    async def first() -> int:
        await queue.enqueue(event(0))
        return len(await queue.receive())

    async def second() -> list[int]:
        numbers = await take_numbers(queue, 1, timeout=4.0)
        await queue.cleanup()
        return numbers

    assert asyncio.run(first()) == 1
    assert asyncio.run(second()) == [0]


async def test_the_next_events_are_read_while_some_are_left(
    make_redis_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast handlers do not wait for the server; the order stays what it is, and at the end nothing is left."""
    left: list[int] = []
    fetched = Prefetch.fetched

    def note(self: Prefetch, count: int, size_bytes: int, now: float, buffered: int = 0) -> None:
        left.append(buffered)
        fetched(self, count, size_bytes, now, buffered)

    monkeypatch.setattr(Prefetch, "fetched", note)
    queue = make_redis_queue()
    await queue.enqueue_many(events(3000))

    taken: list[int] = []
    while len(taken) < 3000:
        deliveries = await queue.receive(10)
        taken += [delivery.payload["n"] for delivery in deliveries]
        queue.ack_soon(*deliveries)
        await asyncio.sleep(0)  # as a handler that waits for something

    assert taken == list(range(3000))
    assert max(left) > 0
    await queue.cleanup()
    stats = await make_redis_queue().stats()
    assert (stats.waiting, stats.in_flight) == (0, 0)


async def test_who_prefetches_one_event_never_has_two(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """What one caller has in hand leaves the rest to others."""
    queue = make_redis_queue(prefetch=1)
    await queue.enqueue_many(events(20))

    for number in range(20):
        assert await queue.dequeue() == event(number)
        assert len(await stored.pending()) == 1


@dataclass
class Opened:
    """A payload of a type of its own, which can be referred to weakly."""

    number: int


async def test_a_payload_is_let_go_as_soon_as_its_event_is_done(make_config: MakeConfig) -> None:
    """Not only when the server has confirmed that: here nobody has asked it yet."""
    async with RedisEventQueue(make_config(prefetch=10), payload_type=Opened) as queue:
        await queue.enqueue_many([Opened(0), Opened(1)])
        done = weakref.ref(await queue.dequeue())
        assert done() is not None

        assert await queue.dequeue(timeout=0) == Opened(1)

        assert done() is None
