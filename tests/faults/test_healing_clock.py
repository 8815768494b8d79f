"""The server's clock is set forwards or backwards while the queue is in use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LookAt, MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.clock_step import ServerClock
from tests.support.recording import Recorder
from tests.support.servers import RedisServer
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take_numbers
from tests.support.traffic import Traffic
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

HOURS = 3 * 3600.0
LEASE = 1.0


@pytest.fixture
def clock(tmp_path: Path) -> ServerClock:
    """The clock of this test's server."""
    return ServerClock(tmp_path)


@pytest.fixture
def server(clock: ServerClock, start_server: StartServer) -> RedisServer:
    """A server that goes by `clock`."""
    return start_server(clock=clock)


async def swept(stored: StoredQueue, times: int) -> None:
    """Wait until the pending entries have been swept so often from now on."""
    for _ in range(times):
        before = await stored.raw.hget(stored.keys.stats, "swept_ms")
        await wait_until(lambda before=before: moved_on(stored, before))


async def moved_on(stored: StoredQueue, before: bytes | None) -> bool:
    """Tell whether somebody has swept since."""
    return bool(await stored.raw.hget(stored.keys.stats, "swept_ms") != before)


@pytest.mark.parametrize("step", [HOURS, -HOURS], ids=["forwards", "backwards"])
async def test_traffic_goes_on_across_a_step(
    step: float, server: RedisServer, clock: ServerClock, make_redis_queue: MakeQueue
) -> None:
    """Enqueue, worker and dequeue go on at once, and each event runs once."""
    traffic = Traffic(lambda: make_redis_queue(server.url, lease=LEASE))
    async with traffic.flowing():
        clock.step(step)
        await traffic.goes_on()
        await traffic.ends_with_each_event_run_once()


@pytest.mark.parametrize("step", [HOURS, -HOURS], ids=["forwards", "backwards"])
async def test_what_is_in_hand_is_not_run_twice(
    step: float, server: RedisServer, clock: ServerClock, make_redis_queue: MakeQueue, look_at: LookAt
) -> None:
    """Hours pass for the server while two consumers hold events: they renew before anybody may claim."""
    recorder = Recorder()
    holder, other = (make_redis_queue(server.url, lease=LEASE, observers=(recorder,)) for _ in range(2))
    await holder.enqueue_many(events(4))
    held = [*await receive_exactly(holder, 2), *await receive_exactly(other, 2)]
    idle = asyncio.create_task(other.receive(timeout=60))
    stored = look_at(server)
    await swept(stored, 1)

    clock.step(step)
    await swept(stored, 2)

    for delivery in held:
        await (holder if delivery in held[:2] else other).nack(delivery, delay=60)
    assert recorder.leases_lost == []
    assert not idle.done()
    idle.cancel()
    assert (await holder.stats()).totals["reclaimed"] == 0


@pytest.mark.parametrize("step", [HOURS, -HOURS], ids=["forwards", "backwards"])
async def test_what_a_dead_consumer_held_is_taken_over_after_a_step(
    step: float, server: RedisServer, clock: ServerClock, make_redis_queue: MakeQueue, look_at: LookAt
) -> None:
    """Backwards as well, where its entries were delivered in the server's future: half a lease, and then a lease."""
    queue, stored = make_redis_queue(server.url, lease=LEASE), look_at(server)
    await queue.enqueue_many(events(3))
    assert await take_numbers(queue, 1) == [0]
    await stored.raw.xreadgroup(stored.keys.group, "ghost", {stored.keys.stream: ">"}, count=2)
    waiting = asyncio.create_task(take_numbers(queue, 2))
    await swept(stored, 1)

    clock.step(step)

    assert sorted(await waiting) == [1, 2]


async def test_delayed_events_come_early_and_none_is_lost(
    server: RedisServer, clock: ServerClock, make_redis_queue: MakeQueue
) -> None:
    """Forwards: what was due in an hour is due now."""
    queue = make_redis_queue(server.url, lease=LEASE)
    await queue.enqueue(event(0), delay=3600)
    assert await queue.receive(timeout=0) == []

    clock.step(HOURS)

    assert await take_numbers(queue, 1) == [0]


async def test_delayed_events_wait_for_a_clock_that_was_set_back(
    server: RedisServer, clock: ServerClock, make_redis_queue: MakeQueue
) -> None:
    """Backwards: what was delayed before waits for its time, new delays and retries count from now."""
    queue = make_redis_queue(server.url, lease=LEASE)
    await queue.enqueue(event(0), delay=1.0)
    clock.step(-HOURS)

    await queue.enqueue(event(1), delay=0.1)
    (delivery,) = await receive_exactly(queue, 1)
    await queue.nack(delivery, delay=0.1)
    assert await take_numbers(queue, 1) == [1]
    assert (await queue.stats()).delayed == 1
    clock.step(HOURS)
    assert await take_numbers(queue, 1) == [0]
    stats = await queue.stats()
    assert (stats.waiting, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, 0)


async def test_idle_consumers_outlive_a_step(
    server: RedisServer, clock: ServerClock, make_redis_queue: MakeQueue
) -> None:
    """Forwards, everybody looks idle for hours and may be removed from the group; what they read next is theirs."""
    taken: list[Any] = []

    async def take_and_settle(queue: Any) -> None:
        (delivery,) = await queue.receive(timeout=30)
        await queue.nack(delivery, delay=60)
        taken.append(delivery.payload["n"])

    queues = [make_redis_queue(server.url, lease=LEASE) for _ in range(3)]
    tasks = [asyncio.create_task(take_and_settle(queue)) for queue in queues]
    await wait_until(lambda: all(queue._session and queue._session.reader.is_reading for queue in queues))

    clock.step(HOURS)
    await asyncio.gather(*(queue.stats() for queue in queues))
    await queues[0].enqueue_many(events(3))

    await asyncio.gather(*tasks)
    assert sorted(taken) == [0, 1, 2]
