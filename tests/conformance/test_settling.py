"""What every queue promises to consumers that settle by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams_queue.errors import EncodeError, LeaseLost, UsageError
from streams_queue.messages import Delivery
from streams_queue.queue import Queue
from tests.conformance.whole import assert_state, state_of, whole
from tests.support.builders import event, events
from tests.support.recording import Recorder
from tests.support.taking import receive_exactly, take, take_numbers

MakeQueue = Callable[..., Queue]
Settle = Callable[[Queue, Delivery], Any]


async def _one(queue: Queue) -> Delivery:
    (delivery,) = await receive_exactly(queue, 1)
    return delivery


async def test_flush_confirms_what_is_done_and_nothing_else(queue: Queue) -> None:
    """After it there is no ack on its way; what is in hand stays in hand, and the queue goes on."""
    await queue.flush()
    await queue.enqueue_many(events(3))
    done, in_hand = await receive_exactly(queue, 2)
    queue.ack_soon(done)
    await queue.flush()
    assert await state_of(queue) == whole(waiting=1, in_flight=1, enqueued=3, acked=1)
    await queue.ack(in_hand)
    await queue.flush()
    assert await state_of(queue) == whole(waiting=1, enqueued=3, acked=2)


async def test_flush_of_a_closed_queue_returns(queue: Queue) -> None:
    """Whatever could be confirmed was confirmed by cleanup."""
    await queue.cleanup()
    await queue.flush()


async def test_receive_returns_nothing_at_once_with_timeout_zero(queue: Queue) -> None:
    """timeout=0 does not wait."""
    started = time.monotonic()
    assert await queue.receive(timeout=0) == []
    assert time.monotonic() - started < 0.5


async def test_receive_with_timeout_zero_finds_what_waits(queue: Queue) -> None:
    """An event that waits is found without waiting."""
    await queue.enqueue(event(1))
    (delivery,) = await queue.receive(timeout=0)
    assert delivery.payload == event(1)


async def test_receive_waits_up_to_its_timeout(queue: Queue) -> None:
    """[] comes when the time is over, not much earlier and not much later."""
    started = time.monotonic()
    assert await queue.receive(timeout=0.3) == []
    assert 0.25 < time.monotonic() - started < 3


async def test_receive_waits_by_default_as_long_as_the_queue_says(queue: Queue) -> None:
    """None means the queue's own timeout, which may be set at any time."""
    queue.timeout = 0.2
    started = time.monotonic()
    assert await queue.receive() == []
    assert 0.15 < time.monotonic() - started < 3


async def test_receive_takes_no_more_than_asked(queue: Queue) -> None:
    """max_events bounds the list; the rest keeps waiting, in order."""
    await queue.enqueue_many(events(5))
    first = await receive_exactly(queue, 3)
    assert [delivery.payload["n"] for delivery in first] == [0, 1, 2]
    assert await state_of(queue) == whole(waiting=2, in_flight=3, enqueued=5)
    assert (await queue.get_queue_depth(), queue.get_queue_size()) == (2, 2)


@pytest.mark.parametrize("max_events", [0, -1])
async def test_receive_takes_at_least_one(queue: Queue, max_events: int) -> None:
    """Asking for nothing is a mistake."""
    with pytest.raises(UsageError):
        await queue.receive(max_events)


async def test_a_new_event_wakes_a_waiting_receiver(queue: Queue) -> None:
    """The wait ends with the first event, not with the timeout."""
    waiting = asyncio.create_task(queue.receive(timeout=30))
    await asyncio.wait({waiting}, timeout=0.1)
    started = time.monotonic()
    await queue.enqueue(event(1))
    (delivery,) = await waiting
    assert time.monotonic() - started < 3
    assert delivery.payload == event(1)


async def test_several_receivers_share_the_events(queue: Queue) -> None:
    """Each event goes to one of the receivers that wait."""
    waiting = [asyncio.create_task(queue.receive(timeout=30)) for _ in range(5)]
    await asyncio.wait(waiting, timeout=0.1)
    await queue.enqueue_many(events(5))
    taken = [delivery for task in waiting for delivery in await task]
    assert sorted(delivery.payload["n"] for delivery in taken) == [0, 1, 2, 3, 4]


async def test_cancelling_a_waiting_receiver_a_thousand_times_loses_nothing(queue: Queue) -> None:
    """Events that arrive while waits are cancelled are all handed out, once."""
    taken: list[int] = []

    async def receive() -> None:
        for delivery in await queue.receive(timeout=30):
            taken.append(delivery.payload["n"])
            await queue.ack(delivery)

    for number in range(1000):
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        if number % 10 == 0:
            await queue.enqueue(event(number // 10))
        waiting.cancel()
        await asyncio.wait({waiting})
    left = 100 - (await state_of(queue)).in_flight - len(taken)
    taken += await take_numbers(queue, left)
    held = (await state_of(queue)).in_flight
    assert len(taken) + held == 100
    assert len(set(taken)) == len(taken)


# --- ack -------------------------------------------------------------------------------------------------------------


async def test_an_acknowledged_event_is_gone(queue: Queue) -> None:
    """After ack returns, the queue holds nothing of it."""
    await queue.enqueue_many(events(3))
    await queue.ack(*await receive_exactly(queue, 3))
    assert await state_of(queue) == whole(enqueued=3, acked=3)
    assert await queue.receive(timeout=0.1) == []


async def test_ack_soon_acknowledges_by_itself(queue: Queue) -> None:
    """No further call is needed."""
    await queue.enqueue(event(1))
    queue.ack_soon(await _one(queue))
    await assert_state(queue, whole(enqueued=1, acked=1))


async def test_acknowledging_twice_is_harmless(queue: Queue) -> None:
    """The second time changes nothing."""
    await queue.enqueue(event(1))
    delivery = await _one(queue)
    await queue.ack(delivery)
    await queue.ack(delivery)
    assert await state_of(queue) == whole(enqueued=1, acked=1)


async def test_acknowledging_nothing_is_harmless(queue: Queue) -> None:
    """The verbs that take several deliveries take none, too."""
    await queue.ack()
    queue.ack_soon()
    await queue.release()
    await queue.extend()
    assert await state_of(queue) == whole()


# --- nack ------------------------------------------------------------------------------------------------------------


async def test_a_failed_event_comes_again_after_the_backoff(queue: Queue) -> None:
    """The same event with one delivery more, and not before base_delay."""
    await queue.enqueue(event(1), event_id="x", headers={"h": "1"})
    started = time.monotonic()
    await queue.nack(await _one(queue), error="boom")
    assert await state_of(queue) == whole(delayed=1, enqueued=1, retried=1)
    again = await _one(queue)
    assert time.monotonic() - started > 0.045
    assert (again.payload, again.event_id, again.deliveries) == (event(1), "x", 2)
    assert dict(again.headers) == {"h": "1"}


async def test_a_delay_given_to_nack_counts(queue: Queue) -> None:
    """delay=0 is at once; a long one is not overruled by the policy."""
    await queue.enqueue(event(1))
    await queue.nack(await _one(queue), delay=0)
    assert await state_of(queue) == whole(waiting=1, enqueued=1, retried=1)
    await queue.nack(await _one(queue), delay=60)
    assert await queue.receive(timeout=0.3) == []
    assert await state_of(queue) == whole(delayed=1, enqueued=1, retried=2)


async def test_a_bad_delay_settles_nothing(queue: Queue) -> None:
    """A delay that is no number of seconds is refused; the delivery stays held."""
    await queue.enqueue(event(1))
    delivery = await _one(queue)
    with pytest.raises(EncodeError, match="delay"):
        await queue.nack(delivery, delay=-1)
    await queue.ack(delivery)
    assert await state_of(queue) == whole(enqueued=1, acked=1)


async def test_the_last_retry_ends_in_the_dead_letters(make_queue: MakeQueue) -> None:
    """max_retries retries follow the first run; then the event is kept with reason, error and count."""
    queue = make_queue(retry_policy={"max_retries": 2, "base_delay": 0.01})
    await queue.enqueue(event(1), event_id="x")
    before = time.time()
    for deliveries in (1, 2, 3):
        delivery = await _one(queue)
        assert delivery.deliveries == deliveries
        await queue.nack(delivery, error=f"boom {deliveries}")
    assert await state_of(queue) == whole(dead=1, enqueued=1, retried=2)
    (letter,) = await queue.dead_letters()
    assert (letter.event_id, letter.payload, letter.reason) == ("x", event(1), "max_retries")
    assert (letter.error, letter.deliveries) == ("boom 3", 3)
    assert before - 2 < letter.died_at < time.time() + 2
    assert await queue.receive(timeout=0.1) == []


async def test_a_delay_does_not_outlive_the_limit(make_queue: MakeQueue) -> None:
    """Nack with a delay of its own is bounded by max_retries as well."""
    queue = make_queue(retry_policy={"max_retries": 0, "base_delay": 0.01})
    await queue.enqueue(event(1))
    await queue.nack(await _one(queue), delay=60)
    assert await state_of(queue) == whole(dead=1, enqueued=1)


# --- release ---------------------------------------------------------------------------------------------------------


async def test_a_released_event_is_available_at_once_at_the_end_of_the_line(queue: Queue) -> None:
    """It comes after what waits, and its deliveries are not raised."""
    await queue.enqueue_many(events(3))
    await queue.release(await _one(queue))
    assert await state_of(queue) == whole(waiting=3, enqueued=3, released=1)
    again = await receive_exactly(queue, 3)
    assert [(delivery.payload["n"], delivery.deliveries) for delivery in again] == [(1, 1), (2, 1), (0, 1)]


async def test_releases_never_bury_an_event(make_queue: MakeQueue) -> None:
    """However often it is given back, it is still in its first run."""
    queue = make_queue(retry_policy={"max_retries": 0, "base_delay": 0.01})
    await queue.enqueue(event(1))
    for _ in range(5):
        delivery = await _one(queue)
        assert delivery.deliveries == 1
        await queue.release(delivery)
    assert await state_of(queue) == whole(waiting=1, enqueued=1, released=5)


async def test_a_release_keeps_the_retries_so_far(queue: Queue) -> None:
    """Deliveries that failed still count after a release."""
    await queue.enqueue(event(1))
    await queue.nack(await _one(queue), delay=0)
    await queue.release(await _one(queue))
    assert (await _one(queue)).deliveries == 2


async def test_a_release_wakes_a_waiting_receiver(queue: Queue) -> None:
    """Somebody who waits gets the event at once."""
    await queue.enqueue(event(1))
    delivery = await _one(queue)
    waiting = asyncio.create_task(queue.receive(timeout=30))
    await asyncio.wait({waiting}, timeout=0.1)
    await queue.release(delivery)
    (again,) = await asyncio.wait_for(waiting, 5)
    assert again.payload == event(1)


# --- extend, dead_letter, fencing ------------------------------------------------------------------------------------


async def test_an_extended_event_is_still_held(queue: Queue) -> None:
    """Extending changes no figure and the event can be settled afterwards."""
    await queue.enqueue(event(1))
    delivery = await _one(queue)
    await queue.extend(delivery)
    assert await state_of(queue) == whole(in_flight=1, enqueued=1)
    await queue.ack(delivery)
    assert await state_of(queue) == whole(enqueued=1, acked=1)


async def test_an_event_is_buried_on_request(queue: Queue) -> None:
    """dead_letter keeps the event with the given reason, whatever retries are left."""
    await queue.enqueue(event(1), event_id="x")
    await queue.dead_letter(await _one(queue), "rejected")
    (letter,) = await queue.dead_letters()
    assert (letter.event_id, letter.payload, letter.reason, letter.deliveries) == ("x", event(1), "rejected", 1)
    assert await state_of(queue) == whole(dead=1, enqueued=1)


SETTLED: dict[str, Settle] = {
    "ack": lambda queue, delivery: queue.ack(delivery),
    "nack": lambda queue, delivery: queue.nack(delivery, delay=0),
    "release": lambda queue, delivery: queue.release(delivery),
    "dead_letter": lambda queue, delivery: queue.dead_letter(delivery, "rejected"),
}
FENCED: dict[str, Settle] = {
    "nack": lambda queue, delivery: queue.nack(delivery),
    "extend": lambda queue, delivery: queue.extend(delivery),
    "dead_letter": lambda queue, delivery: queue.dead_letter(delivery, "rejected"),
}


@pytest.mark.parametrize("second", FENCED.values(), ids=[f"then {name}" for name in FENCED])
@pytest.mark.parametrize("first", SETTLED.values(), ids=SETTLED.keys())
async def test_the_first_settlement_wins(queue: Queue, first: Settle, second: Settle) -> None:
    """What needs ownership raises LeaseLost once the delivery is settled, and changes nothing."""
    await queue.enqueue(event(1))
    delivery = await _one(queue)
    await first(queue, delivery)
    before = await state_of(queue)
    with pytest.raises(LeaseLost):
        await second(queue, delivery)
    assert await state_of(queue) == before


@pytest.mark.parametrize("first", SETTLED.values(), ids=SETTLED.keys())
async def test_releasing_what_is_settled_is_passed_over(queue: Queue, first: Settle) -> None:
    """A release of something not held any more is no error and adds nothing."""
    await queue.enqueue(event(1))
    delivery = await _one(queue)
    await first(queue, delivery)
    before = await state_of(queue)
    await queue.release(delivery)
    assert await state_of(queue) == before


async def test_extending_several_renews_the_ones_that_are_held(queue: Queue) -> None:
    """LeaseLost tells of the lost one; the other is still held."""
    await queue.enqueue_many(events(2))
    lost, held = await receive_exactly(queue, 2)
    await queue.ack(lost)
    with pytest.raises(LeaseLost):
        await queue.extend(lost, held)
    await queue.nack(held, delay=60)
    assert await state_of(queue) == whole(delayed=1, enqueued=2, acked=1, retried=1)


async def test_past_max_lease_the_delivery_is_lost_and_the_event_runs_again(make_queue: MakeQueue) -> None:
    """A hung handler is told, its nack is fenced, and another delivery counts one more."""
    recorder = Recorder()
    queue = make_queue(lease=0.5, max_lease=1.0, observers=(recorder,))
    await queue.enqueue(event(1))
    hung = await _one(queue)
    again = await _one(queue)
    assert (again.payload, again.deliveries) == (event(1), 2)
    assert hung.lease_lost
    assert recorder.leases_lost == [hung]
    with pytest.raises(LeaseLost):
        await queue.nack(hung)
    await queue.ack(again)
    await assert_state(queue, whole(enqueued=1, acked=1, reclaimed=1))


async def test_observers_are_told(make_queue: MakeQueue) -> None:
    """Each handing-out and each settlement is reported once, in order; a broken observer is not felt."""

    class Broken(Recorder):
        def handed_out(self, delivery: Delivery) -> None:
            raise LookupError(delivery.event_id)

    recorder = Recorder()
    queue = make_queue(observers=(Broken(), recorder))
    for name, settle in SETTLED.items():
        await queue.enqueue(event(1), event_id=name)
        await settle(queue, await _one(queue))
        if name in {"nack", "release"}:
            await take(queue, 1)
    assert recorder.handed == ["ack", "nack", "nack", "release", "release", "dead_letter"]
    assert recorder.outcomes == [
        ("ack", "acked"),
        ("nack", "retried"),
        ("nack", "acked"),
        ("release", "released"),
        ("release", "acked"),
        ("dead_letter", "dead"),
    ]
    assert recorder.deaths == [("dead_letter", "rejected")]


async def test_receive_takes_no_more_bytes_than_asked_for(queue: Queue) -> None:
    """A single event may have more, since nobody would ever get it otherwise; order and the rest stay."""
    sizes = [300, 300, 3000, 300, 300]
    await queue.enqueue_many([event(number, filler="x" * size) for number, size in enumerate(sizes)])

    batches = []
    while taken := await queue.receive(10, timeout=0.2, max_bytes=1000):
        batches.append([delivery.payload["n"] for delivery in taken])
        await queue.ack(*taken)

    assert [number for batch in batches for number in batch] == [0, 1, 2, 3, 4]
    assert [2] in batches
    assert max(map(len, batches)) == 2
