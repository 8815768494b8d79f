"""Faults at the worst moment: between a claim and its reply, within a settlement, while the queue is leaving."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from typing import Any

import pytest

from streams_queue import Worker
from streams_queue.errors import BackendError, BackendTimeout, LeaseLost
from tests.conftest import MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.proxy import FlakyProxy, request_with
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


@dataclass
class Picky:
    """A payload type whose check fails with something that is no ValueError."""

    n: int

    def __post_init__(self) -> None:
        if self.n == 1:
            raise KeyError(self.n)


async def left_by_a_ghost(stored: StoredQueue, count: int = 1, idle: float = 60.0) -> None:
    """Let a consumer that is gone hold the next `count` waiting events."""
    taken: Any = await stored.raw.xreadgroup(stored.keys.group, "ghost", {stored.keys.stream: ">"}, count=count)
    for entry_id, _ in taken[0][1]:
        await stored.age(entry_id.decode(), idle)


async def test_a_claim_whose_reply_is_lost_is_made_good_by_the_only_consumer(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """We are the only consumer, and the reply that gives us a dead one's event is lost: we still run it."""
    producer, queue = make_redis_queue(), make_redis_queue(proxy.url, lease=1.0)
    await producer.enqueue(event(0))
    assert await take_numbers(queue, 1) == [0]
    await producer.enqueue(event(1))
    trap = proxy.swallow_reply(lambda words, reply: b"<1>" in reply and words[0] != b"XREADGROUP")
    await left_by_a_ghost(stored)

    assert await take_numbers(queue, 1, timeout=8.0) == [1]
    assert trap.hit.is_set()


async def test_a_busy_worker_takes_over_what_a_dead_consumer_held(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Four handlers at work on a long backlog: a dead consumer's event runs within lease + 1 s and a handler's time."""
    producer, queue = make_redis_queue(), make_redis_queue(lease=1.0)
    await producer.enqueue_many(events(1000))
    await left_by_a_ghost(stored, idle=0.0)
    recovered = asyncio.Event()

    async def handle(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            recovered.set()
        await asyncio.sleep(0.15 + 0.1 * (payload["n"] % 2))

    working = asyncio.create_task(Worker(queue, handle, concurrency=4).run())
    try:
        await asyncio.wait_for(recovered.wait(), 4.0)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_nack_whose_caller_is_cancelled_is_concluded(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The caller of `nack` goes away before the reply: the event is put back, and the lease is not kept for ever."""
    queue = make_redis_queue(proxy.url, lease=1.0)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    proxy.delay(0.05)
    nacking = asyncio.create_task(queue.nack(delivery, delay=60))
    await asyncio.sleep(0.02)
    nacking.cancel()
    await asyncio.gather(nacking, return_exceptions=True)
    await wait_until(lambda: stored.raw.zcard(stored.keys.delayed))
    proxy.delay(0.0)
    began = time.monotonic()
    await queue.ack(delivery)
    assert time.monotonic() - began < 1.0


async def test_an_ack_beside_a_nack_that_finds_the_lease_lost_does_not_hang(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """`ack` while `nack` of the same delivery is under way, and somebody else has claimed it: both end at once."""
    queue = make_redis_queue(proxy.url, lease=30)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    await stored.steal(delivery.entry_id)
    began = time.monotonic()
    outcomes = await asyncio.gather(queue.nack(delivery), queue.ack(delivery), return_exceptions=True)
    assert isinstance(outcomes[0], LeaseLost)
    assert outcomes[1] is None
    assert time.monotonic() - began < 1.0


async def test_the_last_event_is_acknowledged_although_the_queue_was_dropped_long_before(
    make_redis_queue: MakeQueue, make_config: Any, stored: StoredQueue
) -> None:
    """A task keeps an event and forgets the queue; when it ends normally its event is acknowledged."""
    from streams_queue import RedisEventQueue

    producer = make_redis_queue()
    await producer.enqueue(event(0))
    done = asyncio.Event()

    async def work() -> None:
        queue = RedisEventQueue(make_config(lease=2))
        assert await queue.dequeue() is not None
        del queue
        gc.collect()
        await done.wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(1.0)
    done.set()
    await task
    await wait_until(stored.empty, timeout=1.0)


async def test_a_session_that_is_cancelled_twice_leaves_no_connection(proxy: FlakyProxy, make_config: Any) -> None:
    """A queue is dropped, which ends its session, and at once the event loop ends, which cancels all tasks."""
    from streams_queue import RedisEventQueue

    queue = RedisEventQueue(make_config(proxy.url))
    await queue.enqueue(event(0))
    assert len(await queue.receive()) == 1
    (session,) = (task for task in asyncio.all_tasks() if task.get_name() == "streams_queue.session")
    session.cancel()
    await asyncio.sleep(0)
    session.cancel()
    await asyncio.wait([session])
    await wait_until(lambda: not proxy.connections())


async def test_enqueue_that_waits_for_room_opens_nothing_after_cleanup(
    start_server: StartServer, make_config: Any
) -> None:
    """Blocked for room while the queue is cleaned up: it gives up, and no connection or task is left."""
    from streams_queue import RedisEventQueue

    server = start_server()
    queue = RedisEventQueue(make_config(server.url, overflow="block", max_size=1, timeout=30))
    await queue.enqueue(event(0))
    blocked = asyncio.create_task(queue.enqueue(event(1)))
    await asyncio.sleep(0.2)
    await queue.cleanup()
    (outcome,) = await asyncio.gather(blocked, return_exceptions=True)
    assert outcome is False
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


async def test_looking_at_a_closed_queue_leaves_nothing_open(start_server: StartServer, make_config: Any) -> None:
    """`ack` and `stats` after cleanup: whatever they answer, no connection or task is left."""
    from streams_queue import RedisEventQueue

    server = start_server()
    queue = RedisEventQueue(make_config(server.url))
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    await queue.cleanup()
    await asyncio.gather(queue.ack(delivery), queue.stats(), return_exceptions=True)
    await queue.cleanup()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


async def test_a_dead_letter_named_twice_comes_back_once(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """`redrive(x, x)` puts one event back."""
    queue = make_redis_queue()
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    await queue.dead_letter(delivery, "why not")
    (letter,) = await queue.dead_letters()
    assert await queue.redrive(letter.dead_id, letter.dead_id) == 1
    assert await stored.length() == 1


async def test_enqueue_gives_up_in_time_beside_many_settlements(proxy: FlakyProxy, make_redis_queue: MakeQueue) -> None:
    """The server falls silent under 20 nacks: `enqueue` and each nack answer about enqueue_timeout later."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=1.5, lease=30)
    await queue.enqueue_many(events(20))
    held = await receive_exactly(queue, 20)
    proxy.black_hole()
    began = time.monotonic()
    took: list[float] = []

    async def timed(call: Any) -> None:
        with pytest.raises(BackendError):
            await call
        took.append(time.monotonic() - began)

    await asyncio.gather(*(timed(queue.nack(delivery)) for delivery in held), timed(queue.enqueue(event(99))))
    proxy.restore()
    assert max(took) < 4.0, [round(each, 1) for each in took]


async def test_a_consumer_whose_loop_is_often_blocked_takes_over_what_a_dead_one_held(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The only one left blocks its loop for 0.7 leases between two looks: it still gets the dead one's event."""
    producer, queue = make_redis_queue(), make_redis_queue(lease=1.0)
    await producer.enqueue(event(0))
    assert await take_numbers(queue, 1) == [0]
    await producer.enqueue(event(1))
    await left_by_a_ghost(stored, idle=0.0)
    began, got = time.monotonic(), list[Any]()
    while time.monotonic() - began < 8.0 and not got:
        got = await queue.receive(timeout=0.1)
        time.sleep(0.7)  # noqa: ASYNC251
    assert [delivery.payload["n"] for delivery in got] == [1]


async def test_a_cleanup_that_is_cancelled_holds_nothing_for_ever(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """`wait_for(cleanup())` runs out: nobody will settle what was held, so it is renewed no longer."""
    queue = make_redis_queue(proxy.url, lease=1.0)
    await queue.enqueue(event(0))
    (delivery,) = await queue.receive()
    await asyncio.sleep(0.5)  # the keeper has connected
    proxy.delay(0.3)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.cleanup(), 0.1)
    proxy.delay(0.0)
    await queue.cleanup()

    async def let_go() -> bool:
        pending = await stored.pending()
        return all(entry["time_since_delivered"] > 2500 for entry in pending)

    try:
        await wait_until(let_go, timeout=6.0)
    finally:
        assert delivery is not None
        session: Any = queue._session
        session.abandon()


async def test_an_entry_with_thousands_of_fields_is_buried(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """An entry by hand with 4100 fields ends in the dead letters as any other that cannot be read."""
    queue = make_redis_queue(lease=1.0)
    await queue.enqueue(event(0))
    assert await take_numbers(queue, 1) == [0]
    await stored.add({f"f{number}": "x" for number in range(4100)})
    await queue.enqueue_many(events(3, start=1))
    assert await take_numbers(queue, 3) == [1, 2, 3]
    await wait_until(lambda: stored.raw.xlen(stored.keys.dead), timeout=5)


async def test_an_entry_with_thousands_of_fields_does_not_stop_the_reclaim(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A dead consumer leaves three events, the middle one with 4100 fields: the other two are handed out."""
    producer = make_redis_queue(lease=1.0)
    await producer.enqueue(event(0))
    await stored.add({f"f{number}": "x" for number in range(4100)})
    await producer.enqueue(event(1))
    await left_by_a_ghost(stored, 3)
    giant = (await stored.entry_ids())[1]
    raw: Any = stored.raw
    owner = (stored.keys.stream, stored.keys.group, "ghost")
    await raw.xclaim(*owner, 0, [giant], idle=60_000, retrycount=4, justid=True)
    assert sorted(await take_numbers(make_redis_queue(lease=1.0), 2, timeout=8.0)) == [0, 1]


async def test_an_event_beside_one_that_cannot_be_read_is_not_stranded(
    make_config: Any, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The payload type refuses one event with an error of its own: it is buried, and those read with it come."""
    from streams_queue import RedisEventQueue

    producer = make_redis_queue()
    await producer.enqueue_many([{"n": number} for number in range(4)])
    queue = RedisEventQueue(make_config(lease=1.0, prefetch=10), payload_type=Picky)
    seen: list[int] = []
    try:
        for _ in range(8):
            for delivery in await queue.receive(timeout=0.5):
                seen.append(delivery.payload.n)
                await queue.ack(delivery)
    finally:
        await queue.cleanup()
    assert seen == [0, 2, 3]
    assert await stored.raw.xlen(stored.keys.dead) == 1


async def test_a_suspect_never_runs_beside_an_event_that_arrived_meanwhile(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """While the claim of a suspect is on its way, the read brings another event: they do not run together."""
    retry = {"max_retries": 1, "base_delay": 0.05}
    producer, queue = make_redis_queue(), make_redis_queue(lease=1.0, retry_policy=retry)
    await producer.enqueue(event(0))
    await left_by_a_ghost(stored)
    callers = [asyncio.create_task(queue.receive(timeout=3)) for _ in range(2)]
    await asyncio.sleep(0)
    session: Any = queue._session
    maintain = session.commands.maintain

    async def with_a_late_reply(*args: Any, **kwargs: Any) -> Any:
        done = await maintain(*args, **kwargs)
        if done.entries:
            await producer.enqueue(event(99))
            await asyncio.sleep(0.05)
        return done

    session.commands.maintain = with_a_late_reply
    done, _ = await asyncio.wait(callers, timeout=1.0)
    together = sorted(delivery.payload["n"] for caller in done for delivery in caller.result())
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert together != [0, 99]


async def test_a_refusal_of_a_second_copy_says_nothing_of_the_first(
    start_server: StartServer, proxy_to: Any, make_redis_queue: MakeQueue, make_client: Any, keys: Any
) -> None:
    """The first copy hangs on the way, the second is refused for memory: the outcome is unknown, or it stays out."""
    server = start_server()
    proxy, raw = proxy_to(server), make_client(server.url)
    queue = make_redis_queue(proxy.url)
    await queue.enqueue(event(0))
    trap = proxy.hold_request(request_with(b"<1>"))
    await raw.config_set("maxmemory", "1")
    with pytest.raises(BackendError) as refused:
        await queue.enqueue(event(1))
    await raw.config_set("maxmemory", "0")
    trap.deliver()
    await asyncio.sleep(0.3)
    assert isinstance(refused.value, BackendTimeout) or await raw.xlen(keys.stream) == 1


async def test_a_counted_redrive_whose_reply_is_lost_moves_no_more_than_asked(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """`redrive(count=1)`, applied but not answered: one dead letter goes back."""
    queue = make_redis_queue(proxy.url)
    await queue.enqueue_many(events(3))
    for delivery in await receive_exactly(queue, 3):
        await queue.dead_letter(delivery, "why not")
    to_dead = [stored.keys.stream.encode(), stored.keys.dead.encode(), b"10000"]
    trap = proxy.swallow_reply(lambda words, reply: [*words[3:6:2], words[-2]] == to_dead and reply.startswith(b"*"))
    await queue.redrive(count=1)
    assert trap.hit.is_set()
    assert await stored.length() == 1


@pytest.mark.slow
async def test_a_large_call_is_sent_in_pieces(start_server: StartServer, make_redis_queue: MakeQueue) -> None:
    """100 events of 4 MB in one call: no single command has to carry 400 MB before its time is up."""
    queue = make_redis_queue(start_server().url)
    receipts = await queue.enqueue_many([event(number, blob="x" * 4_000_000) for number in range(100)])
    assert [receipt.status for receipt in receipts] == ["accepted"] * 100


async def test_while_everybody_is_given_time_to_renew_new_events_are_handed_out(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """More could be claimed, then a pause for renewals begins: callers do not wait for its end."""
    producer, queue = make_redis_queue(lease=30.0), make_redis_queue(lease=30.0)
    await producer.enqueue_many(events(3))
    await left_by_a_ghost(stored, 3)
    assert await take_numbers(queue, 1) == [0]
    (seconds, microseconds) = await stored.raw.time()
    soon = int(seconds) * 1000 + int(microseconds) // 1000 + 14_000
    await stored.raw.hset(stored.keys.stats, "hold_ms", soon)
    await producer.enqueue(event(9))

    assert await take_numbers(queue, 1, timeout=3.0) == [9]
