"""What every queue promises to producers."""

from __future__ import annotations

import asyncio
import datetime
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from streams_queue.errors import EncodeError, MessageTooLarge
from streams_queue.messages import ReceiptStatus
from streams_queue.queue import Queue
from tests.conformance.whole import assert_state, state_of, whole
from tests.support.builders import event, events
from tests.support.on_threads import OnThreads
from tests.support.taking import take, take_numbers
from tests.support.waiting import wait_until

MakeQueue = Callable[..., Queue]


async def test_a_queue_is_the_port(queue: Queue) -> None:
    """Every queue has all verbs of the port and runs from construction on."""
    assert isinstance(queue, Queue)
    assert queue.is_running()
    assert (queue.max_size, queue.timeout) == (10_000, 1.0)


async def test_one_event_goes_in_and_comes_out(queue: Queue) -> None:
    """The plan's first example: 1 after enqueue, the same payload out, 0 after dequeue."""
    payload = {"event_type": "push", "repo": "octocat/Hello-World"}
    assert await queue.enqueue(payload) is True
    assert (await queue.get_queue_depth(), queue.get_queue_size()) == (1, 1)
    assert await queue.dequeue() == payload
    assert (await queue.get_queue_depth(), queue.get_queue_size()) == (0, 0)


async def test_events_come_out_in_the_order_of_acceptance(queue: Queue) -> None:
    """First in, first out, over single calls and batches."""
    for number in range(10):
        assert await queue.enqueue(event(number))
    await queue.enqueue_many(events(90, start=10))
    assert await take_numbers(queue, 100) == list(range(100))


async def test_concurrent_producers_lose_and_double_nothing(queue: Queue) -> None:
    """Calls made at once are all answered, each event is there once, and one producer's events stay in order."""
    if isinstance(queue, OnThreads):
        # A thread whose call is the first one, and looks whether there is a server, may be overtaken by others.
        await queue.enqueue_many([])
    accepted = await asyncio.gather(*(queue.enqueue(event(number)) for number in range(200)))
    assert all(accepted)
    assert await take_numbers(queue, 200) == list(range(200))
    await assert_state(queue, whole(enqueued=200, acked=200))


async def test_many_receipts_come_in_the_order_of_the_payloads(make_queue: MakeQueue) -> None:
    """Each receipt says what became of its own event, with ids that name it."""
    queue = make_queue(max_size=3)
    receipts = await queue.enqueue_many(events(5), event_ids=["a", None, "a", "c", "d"])
    statuses = [receipt.status.value for receipt in receipts]
    assert statuses == ["accepted", "accepted", "duplicate", "accepted", "full"]
    assert [receipt.held for receipt in receipts] == [True, True, True, True, False]
    assert receipts[0].event_id == "a"
    assert receipts[1].event_id not in {"", "a"}
    assert [receipt.entry_id is not None for receipt in receipts] == [True, True, False, True, False]
    assert await take_numbers(queue, 3) == [0, 1, 3]
    await assert_state(queue, whole(enqueued=3, duplicates=1, rejected=1, acked=3))


async def test_no_payloads_give_no_receipts(queue: Queue) -> None:
    """An empty batch is nothing."""
    assert await queue.enqueue_many([]) == []
    assert await state_of(queue) == whole()


async def test_event_id_and_headers_travel(queue: Queue) -> None:
    """The delivery shows what the producer gave along."""
    before = time.time()
    await queue.enqueue(event(1), event_id="72d3162e", headers={"traceparent": "00-ä"})
    (delivery,) = await queue.receive()
    assert (delivery.event_id, dict(delivery.headers), delivery.deliveries) == ("72d3162e", {"traceparent": "00-ä"}, 1)
    assert delivery.payload == event(1)
    assert before - 2 < delivery.enqueued_at < time.time() + 2
    assert not delivery.lease_lost


async def test_the_caller_may_change_its_payload_afterwards(queue: Queue) -> None:
    """The queue holds the event as it was when enqueue was called."""
    payload = event(1, files=["a.py"])
    await queue.enqueue(payload)
    payload["files"].append("b.py")
    assert await queue.dequeue() == event(1, files=["a.py"])


# --- duplicates ------------------------------------------------------------------------------------------------------


async def test_an_event_id_is_accepted_once(queue: Queue) -> None:
    """A second event with the same id is answered True and not added, also after the first was settled."""
    assert await queue.enqueue(event(1), event_id="x")
    assert await queue.enqueue(event(2), event_id="x")
    assert await take_numbers(queue, 1) == [1]
    assert await queue.enqueue(event(3), event_id="x")
    await assert_state(queue, whole(enqueued=1, duplicates=2, acked=1))


async def test_an_event_id_that_was_refused_may_come_again(make_queue: MakeQueue) -> None:
    """A full queue remembers no ids."""
    queue = make_queue(max_size=1)
    await queue.enqueue(event(1))
    assert not await queue.enqueue(event(2), event_id="x")
    await take(queue, 1)
    await assert_state(queue, whole(enqueued=1, rejected=1, acked=1))
    assert await queue.enqueue(event(2), event_id="x")
    assert await take_numbers(queue, 1) == [2]


async def test_a_duplicate_needs_no_room(make_queue: MakeQueue) -> None:
    """A full queue still tells a duplicate from a new event."""
    queue = make_queue(max_size=1)
    await queue.enqueue(event(1), event_id="x")
    assert await queue.enqueue(event(1), event_id="x")
    assert not await queue.enqueue(event(2), event_id="y")


# --- a full queue ----------------------------------------------------------------------------------------------------


async def test_a_full_queue_says_so(make_queue: MakeQueue) -> None:
    """max_size bounds waiting, in flight and delayed together; settling makes room."""
    queue = make_queue(max_size=3)
    await queue.enqueue(event(1))
    (held,) = await queue.receive()
    await queue.enqueue(event(2), delay=60)
    await queue.enqueue(event(3))
    assert not await queue.enqueue(event(4))
    assert await state_of(queue) == whole(waiting=1, in_flight=1, delayed=1, enqueued=3, rejected=1)
    await queue.ack(held)
    assert await queue.enqueue(event(5))


async def test_many_producers_fill_a_queue_exactly(make_queue: MakeQueue) -> None:
    """Of 300 concurrent calls for 100 places exactly 100 are accepted."""
    queue = make_queue(max_size=100)
    accepted = await asyncio.gather(*(queue.enqueue(event(number)) for number in range(300)))
    assert sum(accepted) == 100
    assert await state_of(queue) == whole(waiting=100, enqueued=100, rejected=200)


async def test_max_size_zero_refuses_everything(make_queue: MakeQueue) -> None:
    """A queue of size 0 is a closed door, whatever the overflow policy."""
    for overflow in ("reject", "drop_oldest"):
        queue = make_queue(max_size=0, overflow=overflow)
        assert not await queue.enqueue(event(1))


async def test_max_size_may_be_set_at_any_time(make_queue: MakeQueue) -> None:
    """The next call sees the new bound; what is held already stays."""
    queue = make_queue(max_size=1)
    await queue.enqueue(event(1))
    queue.max_size = 2
    assert await queue.enqueue(event(2))
    queue.max_size = 1
    assert not await queue.enqueue(event(3))
    assert await take_numbers(queue, 2) == [1, 2]


async def test_block_waits_for_room(make_queue: MakeQueue) -> None:
    """A blocked producer goes on as soon as an event is settled."""
    queue = make_queue(max_size=1, overflow="block", timeout=10)
    await queue.enqueue(event(1))
    (held,) = await queue.receive()
    blocked = asyncio.create_task(queue.enqueue(event(2)))
    await asyncio.wait({blocked}, timeout=0.15)
    assert not blocked.done()
    await queue.ack(held)
    assert await asyncio.wait_for(blocked, 5)
    assert await take_numbers(queue, 1) == [2]


async def test_block_gives_up_after_timeout(make_queue: MakeQueue) -> None:
    """A producer that waited `timeout` for room is told that the queue is full."""
    queue = make_queue(max_size=1, overflow="block", timeout=0.15)
    await queue.enqueue(event(1))
    started = time.monotonic()
    assert not await queue.enqueue(event(2))
    assert 0.1 < time.monotonic() - started < 3
    assert await take_numbers(queue, 1) == [1]


async def test_a_cancelled_blocked_producer_adds_nothing(make_queue: MakeQueue) -> None:
    """Cancelling a caller that waits for room leaves the queue as it was."""
    queue = make_queue(max_size=1, overflow="block", timeout=10)
    await queue.enqueue(event(1))
    blocked = asyncio.create_task(queue.enqueue(event(2)))
    await asyncio.wait({blocked}, timeout=0.1)
    blocked.cancel()
    await asyncio.wait({blocked})
    assert await take_numbers(queue, 1) == [1]
    await assert_state(queue, whole(enqueued=1, acked=1))
    assert await queue.receive(timeout=0.15) == []


async def test_drop_oldest_keeps_the_newest(make_queue: MakeQueue) -> None:
    """The oldest waiting events make room and end in the dead letters, reason `overflow`."""
    queue = make_queue(max_size=3, overflow="drop_oldest")
    for number in range(5):
        assert await queue.enqueue(event(number))
    assert await state_of(queue) == whole(waiting=3, dead=2, enqueued=5)
    dropped = await queue.dead_letters()
    assert [(letter.payload["n"], letter.reason) for letter in dropped] == [(0, "overflow"), (1, "overflow")]
    assert await take_numbers(queue, 3) == [2, 3, 4]


async def test_drop_oldest_never_drops_what_is_in_flight(make_queue: MakeQueue) -> None:
    """Held events settle normally; when all places are held, the new event is refused."""
    queue = make_queue(max_size=2, overflow="drop_oldest")
    await queue.enqueue_many(events(2))
    held = await queue.receive(2)
    assert [delivery.payload["n"] for delivery in held] == [0, 1]
    assert not await queue.enqueue(event(2))
    assert await state_of(queue) == whole(in_flight=2, enqueued=2, rejected=1)
    await queue.ack(held[0])
    assert await queue.enqueue(event(3))
    assert await queue.enqueue(event(4))
    await queue.ack(held[1])
    assert await take_numbers(queue, 1) == [4]
    await assert_state(queue, whole(dead=1, enqueued=4, rejected=1, acked=3))


# --- delays ----------------------------------------------------------------------------------------------------------


async def test_a_delayed_event_comes_when_it_is_due(queue: Queue) -> None:
    """It is not waiting until then, and it wakes a receiver that waits already."""
    started = time.monotonic()
    waiting = asyncio.create_task(queue.receive(timeout=10))
    await queue.enqueue(event(1), delay=0.3)
    assert await state_of(queue) == whole(delayed=1, enqueued=1)
    (delivery,) = await waiting
    assert 0.25 < time.monotonic() - started < 5
    assert delivery.payload == event(1)


async def test_delayed_events_come_in_the_order_in_which_they_are_due(queue: Queue) -> None:
    """Not the order of the calls counts but the due time; what has no delay comes first."""
    await queue.enqueue(event(3), delay=0.4)
    await queue.enqueue(event(2), delay=0.1)
    await queue.enqueue(event(1))
    assert await take_numbers(queue, 3) == [1, 2, 3]


# --- bad input -------------------------------------------------------------------------------------------------------

BAD_PAYLOADS: dict[str, tuple[Any, str]] = {
    "nan": ({"a": [math.nan]}, "payload.a[0]"),
    "infinity": ({"a": math.inf}, "payload.a"),
    "bytes": ({"a": {"b": b"x"}}, "payload.a.b"),
    "tuple": ({"a": (1, 2)}, "payload.a"),
    "set": ({"a": {1}}, "payload.a"),
    "datetime": ({"a": datetime.datetime(2025, 6, 3, tzinfo=datetime.UTC)}, "payload.a"),
    "int key": ({"a": {1: 2}}, "payload.a"),
    "lone surrogate": ({"a": "\ud800"}, "payload.a"),
    "not a dict": (["a"], "payload"),
    "none": (None, "payload"),
}


@pytest.mark.parametrize(("payload", "path"), BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
async def test_a_bad_payload_is_refused_and_the_queue_is_unchanged(queue: Queue, payload: Any, path: str) -> None:
    """The error names the path; neither the bad event nor its neighbours of the same call are added."""
    await queue.enqueue(event(1))
    before = await state_of(queue)
    with pytest.raises(EncodeError) as caught:
        await queue.enqueue(payload)
    assert caught.value.path == path
    with pytest.raises(EncodeError):
        await queue.enqueue_many([event(2), payload, event(3)])
    assert await state_of(queue) == before
    assert await take_numbers(queue, 1) == [1]


async def test_a_large_payload_is_refused_and_the_queue_is_unchanged(make_queue: MakeQueue) -> None:
    """Over max_event_bytes the error names both sizes."""
    queue = make_queue(max_event_bytes=1000)
    with pytest.raises(MessageTooLarge, match=r"\b2008\b.*\b1000\b"):
        await queue.enqueue({"a": "x" * 2000})
    assert await state_of(queue) == whole()


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": 7}, "event_id"),
        ({"event_id": "x" * 513}, "event_id"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"headers": {1: "a"}}, "headers"),
        ({"delay": -1}, "delay"),
        ({"delay": math.nan}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"delay": True}, "delay"),
    ],
    ids=str,
)
async def test_bad_options_are_refused_and_the_queue_is_unchanged(
    queue: Queue, options: dict[str, Any], path: str
) -> None:
    """What travels beside the payload is checked as well."""
    with pytest.raises(EncodeError) as caught:
        await queue.enqueue(event(1), **options)
    assert caught.value.path == path
    assert await state_of(queue) == whole()


async def test_as_many_event_ids_as_payloads(queue: Queue) -> None:
    """A list of ids that does not fit the payloads is a mistake of the caller, and nothing is added."""
    with pytest.raises(EncodeError, match="event_ids"):
        await queue.enqueue_many(events(2), event_ids=["a"])
    assert await state_of(queue) == whole()


class Push(msgspec.Struct):
    repo: str
    commits: list[str]


async def test_typed_payloads_come_back_as_their_type(make_queue: MakeQueue) -> None:
    """payload_type= takes instances of a class and gives instances back; a plain dict is refused."""
    queue = make_queue(payload_type=Push)
    await queue.enqueue(Push("octocat/Hello-World", ["a", "b"]))
    with pytest.raises(EncodeError, match="must be Push"):
        await queue.enqueue({"repo": "octocat/Hello-World", "commits": []})
    assert await take(queue, 1) == [Push("octocat/Hello-World", ["a", "b"])]


# --- closed and paused -----------------------------------------------------------------------------------------------


async def test_after_cleanup_the_queue_takes_and_gives_nothing(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """Enqueue is False and dequeue None, said once in the log; a second cleanup is harmless."""
    await queue.cleanup()
    await queue.cleanup()
    caplog.clear()
    assert not queue.is_running()
    for _ in range(2):
        assert await queue.enqueue(event(1)) is False
        assert await queue.dequeue() is None
        assert await queue.receive() == []
    (receipt,) = await queue.enqueue_many([event(2)])
    assert receipt.status is ReceiptStatus.CLOSED
    assert len([record for record in caplog.records if "closed" in record.getMessage()]) == 1


@pytest.mark.parametrize("verb", ["dequeue", "receive", "enqueue", "enqueue_many"])
async def test_a_loop_that_goes_on_after_cleanup_does_not_stop_the_event_loop(queue: Queue, verb: str) -> None:
    """`while running: await queue.dequeue()` ends when another task says so, though nothing is waited for any more."""
    await queue.cleanup()
    assert await _lets_others_run(
        lambda: getattr(queue, verb)(*{"enqueue": [{}], "enqueue_many": [[{}]]}.get(verb, []))
    )


async def test_a_loop_that_tries_a_full_queue_does_not_stop_the_event_loop(make_queue: MakeQueue) -> None:
    """Whoever is to make room gets a turn."""
    queue = make_queue(max_size=0)
    assert await _lets_others_run(lambda: queue.enqueue(event(1)))


async def _lets_others_run(call: Callable[[], Awaitable[Any]]) -> bool:
    stopped = asyncio.Event()
    asyncio.get_running_loop().call_soon(stopped.set)
    for _ in range(10):
        await call()
        if stopped.is_set():
            return True
    return False


async def test_cleanup_wakes_who_waits(queue: Queue) -> None:
    """A dequeue that waits for ever returns None when the queue is closed."""
    waiting = asyncio.create_task(_dequeue(queue, math.inf))
    await asyncio.wait({waiting}, timeout=0.1)
    await queue.cleanup()
    assert await asyncio.wait_for(waiting, 5) is None


async def _dequeue(queue: Queue, timeout: float) -> Any:
    return await queue.dequeue(timeout)


async def test_a_paused_intake_refuses_until_resume(queue: Queue) -> None:
    """A pause with delivery=False stops producers, with a receipt that says so, and lets consumers finish."""
    await queue.enqueue(event(1))
    await queue.pause(delivery=False)
    await wait_until(lambda: _paused(queue))
    assert not await queue.enqueue(event(2))
    (receipt,) = await queue.enqueue_many([event(3)])
    assert receipt.status is ReceiptStatus.PAUSED
    assert await take_numbers(queue, 1) == [1]
    await queue.resume()
    assert await queue.enqueue(event(4))
    assert await take_numbers(queue, 1) == [4]


async def test_a_paused_delivery_holds_back_until_resume(queue: Queue) -> None:
    """A pause with intake=False takes events and hands none out; resume wakes who waits."""
    await queue.pause(intake=False)
    await wait_until(lambda: _paused(queue))
    waiting = asyncio.create_task(queue.receive(timeout=10))
    assert await queue.enqueue(event(1))
    await asyncio.wait({waiting}, timeout=1.2)
    assert not waiting.done()
    assert await queue.get_queue_depth() == 1
    await queue.resume()
    (delivery,) = await asyncio.wait_for(waiting, 5)
    assert delivery.payload == event(1)


async def _paused(queue: Queue) -> bool:
    return (await queue.stats()).paused
