"""Requests and replies that a proxy loses, delays or repeats."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from streams_queue.errors import BackendTimeout, BackendUnavailable
from tests.conftest import MakeQueue, ProxyTo, StartServer
from tests.support.builders import event, events, marker
from tests.support.proxy import FlakyProxy, Then, reply_with, request_with
from tests.support.stored import StoredQueue
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until
from tests.support.working import working

pytestmark = pytest.mark.faults


# --- producing ---


@pytest.mark.parametrize("then", ["close", "silence"])
async def test_a_batch_whose_reply_is_lost_is_there_once(
    then: Then, proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The server applied the batch, the reply never came: each event is there once, in order; the caller gets True."""
    queue = make_redis_queue(proxy.url)
    assert await queue.enqueue(event(0))
    trap = proxy.swallow_reply(request_with(marker(3)), then)

    receipts = await queue.enqueue_many(events(5, start=1))

    assert trap.hit.is_set()
    assert [receipt.status for receipt in receipts] == ["accepted"] * 5
    assert await queue.enqueue(event(6))
    assert await stored.numbers() == list(range(7))
    assert [receipt.entry_id for receipt in receipts] == (await stored.entry_ids())[1:6]


async def test_single_calls_that_shared_a_lost_reply_are_each_there_once(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Fifty concurrent `enqueue` calls, of which one batch loses its reply: all True, none doubled, order kept."""
    queue = make_redis_queue(proxy.url)
    assert await queue.enqueue(event(0))
    trap = proxy.swallow_reply(request_with(marker(25)))

    accepted = await asyncio.gather(*(queue.enqueue(payload) for payload in events(50, start=1)))

    assert trap.hit.is_set()
    assert accepted == [True] * 50
    assert await stored.numbers() == list(range(51))


async def test_a_late_first_copy_of_an_older_batch_is_not_applied(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A batch that was sent again arrives once more after newer batches: the server takes no second copy."""
    queue = make_redis_queue(proxy.url)
    assert await queue.enqueue(event(0))
    trap = proxy.hold_request(request_with(marker(1)))
    assert await queue.enqueue(event(1))
    assert trap.hit.is_set()
    assert await queue.enqueue(event(2))
    assert await queue.enqueue(event(3))

    trap.deliver()
    await wait_until(lambda: proxy.counters["muted"] > 0, what="the server did not answer the late copy")

    assert await stored.numbers() == [0, 1, 2, 3]
    assert (await queue.stats()).totals["enqueued"] == 4
    assert await queue.enqueue(event(4))
    assert await stored.numbers() == [0, 1, 2, 3, 4]


async def test_a_late_first_copy_of_a_refused_batch_stays_refused(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The caller was told that the queue is full; a copy that comes when there is room must not prove that wrong."""
    queue = make_redis_queue(proxy.url, max_size=1)
    assert await queue.enqueue(event(0))
    trap = proxy.hold_request(request_with(marker(1)))
    assert await queue.enqueue(event(1)) is False
    assert await take_numbers(queue, 1) == [0]

    trap.deliver()
    await wait_until(lambda: proxy.counters["muted"] > 0, what="the server did not answer the late copy")

    assert await stored.numbers() == []


async def test_a_second_call_after_an_unknown_outcome_is_safe_with_the_same_event_id(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """When no answer comes in time the caller is told so, and calling again with the event_id adds nothing twice."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=0.5)
    assert await queue.enqueue(event(0))
    proxy.black_hole("replies")
    with pytest.raises(BackendTimeout):
        await queue.enqueue(event(1), event_id="delivery-1")
    await wait_until(lambda: proxy.counters["muted"] > 0, what="the server never answered")
    proxy.restore()
    proxy.cut()

    assert await queue.enqueue(event(1), event_id="delivery-1")

    assert await stored.numbers() == [0, 1]


async def test_an_unreachable_server_is_told_apart_from_an_unknown_outcome(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """With nobody listening, `enqueue` raises BackendUnavailable within its timeout, and later calls work again."""
    proxy.refuse()
    queue = make_redis_queue(proxy.url, enqueue_timeout=2.0)
    begun = time.monotonic()
    with pytest.raises(BackendUnavailable):
        await queue.enqueue(event(0))
    assert time.monotonic() - begun < 10

    proxy.restore()

    assert await queue.enqueue(event(1))
    assert await stored.numbers() == [1]


async def test_what_is_reported_as_not_written_is_not_written_with_the_rest_of_its_batch(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Two calls share a batch while nobody listens; one gives up before the other, which finds the server back."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=2.0)
    proxy.refuse()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    # The first call is a batch of its own; the second and the third wait for it and become the next one together.
    calls = []
    for number, at in ((1, 0.0), (2, 0.5), (3, 1.5)):
        await asyncio.sleep(begun + at - loop.time())
        calls.append(asyncio.create_task(queue.enqueue(event(number))))
    for given_up in calls[:2]:
        with pytest.raises(BackendUnavailable):
            await given_up

    proxy.restore()

    assert await calls[2]
    assert await stored.numbers() == [3]


async def test_a_cut_in_the_middle_of_a_storm_of_enqueues_neither_loses_nor_doubles(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Ten cuts while 2000 events are enqueued one by one: all calls say True and the stream holds each event once."""
    queue = make_redis_queue(proxy.url)
    done = 0

    async def produce(numbers: range) -> None:
        nonlocal done
        for number in numbers:
            assert await queue.enqueue(event(number))
            done += 1

    producing = asyncio.gather(*(produce(range(first, 2000, 20)) for first in range(20)))
    for cut in range(1, 11):
        await wait_until(lambda target=cut * 180: done >= target or producing.done())
        proxy.cut("reset" if cut % 2 else "fin")
    await producing

    assert proxy.counters["cut"] > 0
    assert sorted(await stored.numbers()) == list(range(2000))


# --- consuming ---


async def test_events_of_a_lost_read_are_processed_after_the_reconnect(
    proxy: FlakyProxy, make_redis_queue: MakeQueue
) -> None:
    """The reply of a read is lost with lease 60: its events run within 2 s, without waiting for the lease."""
    producer, queue = make_redis_queue(), make_redis_queue(proxy.url, lease=60)
    handled: list[int] = []
    trap = proxy.swallow_reply(reply_with(marker(10)))
    await producer.enqueue_many(events(50))

    async def handle(payload: dict[str, Any]) -> None:
        handled.append(payload["n"])

    async with working(queue, handle):
        await wait_until(trap.hit.is_set)
        lost = time.monotonic()
        await wait_until(lambda: len(handled) >= 50, timeout=10, what=lambda: f"handled {sorted(handled)}")
        took = time.monotonic() - lost

    assert sorted(handled) == list(range(50))
    assert took <= 2.5, f"processed {took:.2f} s after the reply was lost; the reconnect itself takes some of that"


async def test_events_of_a_lost_blocked_read_are_processed_too(proxy: FlakyProxy, make_redis_queue: MakeQueue) -> None:
    """The same when the read was already blocked in the server and the event that ends it is the one that is lost."""
    producer, queue = make_redis_queue(), make_redis_queue(proxy.url, lease=60)
    handled: list[int] = []

    async def handle(payload: dict[str, Any]) -> None:
        handled.append(payload["n"])

    async with working(queue, handle):
        await producer.enqueue(event(0))
        await wait_until(lambda: handled == [0])
        trap = proxy.swallow_reply(reply_with(marker(1)))
        await producer.enqueue(event(1))
        await wait_until(trap.hit.is_set)
        await wait_until(lambda: handled == [0, 1], timeout=2.5, what=lambda: f"handled {handled}")
        await producer.enqueue(event(2))
        await wait_until(lambda: handled == [0, 1, 2], timeout=2.5, what=lambda: f"handled {handled}")


async def test_a_read_that_is_never_answered_nor_reset_is_given_up(
    proxy: FlakyProxy, make_redis_queue: MakeQueue
) -> None:
    """A half-open connection under a blocked read: what the server served into it is processed within BLOCK + 3 s."""
    lease = 9.0
    block = lease / 3
    producer, queue = make_redis_queue(), make_redis_queue(proxy.url, lease=lease)
    handled: list[int] = []

    async def handle(payload: dict[str, Any]) -> None:
        handled.append(payload["n"])

    async with working(queue, handle):
        await producer.enqueue(event(0))
        await wait_until(lambda: handled == [0])
        proxy.black_hole(new=False)
        begun = time.monotonic()
        await producer.enqueue_many(events(3, start=1))
        await wait_until(lambda: len(handled) >= 4, timeout=15, what=lambda: f"handled {handled}")
        took = time.monotonic() - begun

    assert sorted(handled) == [0, 1, 2, 3]
    assert took <= block + 3.0


async def test_an_ack_whose_reply_is_lost_is_sent_again(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """An acknowledged event does not come back because the server's answer was lost."""
    queue = make_redis_queue(proxy.url, lease=1.0)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    trap = proxy.swallow_reply(lambda words, _reply: delivery.entry_id.encode() in words)

    await queue.ack(delivery)

    assert trap.hit.is_set()
    assert await stored.empty()
    assert (await queue.stats()).totals["acked"] == 1
    await queue.enqueue(event(1))
    assert await take_numbers(queue, 1) == [1]


@pytest.mark.parametrize("verb", ["nack", "release", "dead_letter"])
async def test_a_settlement_whose_reply_is_lost_happens_once(
    verb: str, proxy: FlakyProxy, make_redis_queue: MakeQueue
) -> None:
    """A settlement that the server applied unseen and that is sent again neither doubles the event nor raises."""
    queue = make_redis_queue(proxy.url)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    trap = proxy.swallow_reply(lambda words, _reply: delivery.entry_id.encode() in words)

    await {
        "nack": partial(queue.nack, delay=30),
        "release": queue.release,
        "dead_letter": partial(queue.dead_letter, reason="rejected"),
    }[verb](delivery)

    assert trap.hit.is_set()
    stats = await queue.stats()
    assert stats.waiting + stats.in_flight + stats.delayed + stats.dead == 1
    assert {"nack": stats.delayed, "release": stats.waiting, "dead_letter": stats.dead}[verb] == 1


async def test_a_neighbour_who_gave_up_does_not_change_whose_event_is_unknown(
    start_server: StartServer, proxy_to: ProxyTo, make_redis_queue: MakeQueue
) -> None:
    """Two callers share a batch, the first is cancelled, then the server refuses: the second's event is the second."""
    server = start_server()
    server.command("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all")
    proxy = proxy_to(server)
    queue = make_redis_queue(proxy.url.replace("redis://", "redis://app:word@"), enqueue_timeout=3)
    queue.keep_unresolved = True
    assert await queue.enqueue(event(0))
    trap = proxy.swallow_reply(request_with(marker(3)), "silence")
    # The first goes alone; what comes while it is on its way shares a batch.
    alone, first, second = (asyncio.create_task(queue.enqueue(event(number))) for number in (1, 2, 3))
    await wait_until(trap.hit.is_set)
    assert await alone

    first.cancel()
    server.command("ACL", "SETUSER", "app", "resetpass", ">other")

    with pytest.raises(BackendTimeout) as raised:
        await second
    assert raised.value.positions == (1,)
    assert raised.value.unresolved.events[1].payload.endswith(b'"mark":"<3>"}')
