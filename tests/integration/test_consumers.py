"""Consumers come and go without leaving anything behind or taking anything along."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from tests.conftest import MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.proxy import FlakyProxy
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


async def test_no_consumer_is_left_after_cleanup(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """`cleanup` removes this consumer from the group, gives back what it held and keeps every event."""
    queue = make_redis_queue()
    await queue.enqueue_many(events(5))
    acked, *held = await queue.receive(3)
    queue.ack_soon(acked)
    assert len(await stored.consumers()) == 1

    await queue.cleanup()

    assert await stored.consumers() == {}
    assert sorted(await stored.numbers()) == sorted({0, 1, 2, 3, 4} - {acked.payload["n"]})
    again = await receive_exactly(make_redis_queue(), 4)
    assert {delivery.deliveries for delivery in again} == {1}
    assert len(held) == 2


async def test_a_consumer_is_named_after_its_host_and_process(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """An operator can tell from XINFO CONSUMERS who holds an event; two queues of one process differ."""
    queues = [make_redis_queue(), make_redis_queue()]
    await queues[0].enqueue_many(events(2))
    for queue in queues:
        await receive_exactly(queue, 1)

    names = set(await stored.consumers())

    assert len(names) == 2
    assert all(name.startswith(f"{socket.gethostname()}-{os.getpid()}-") for name in names)


async def test_the_figures_of_the_server_read_as_documented(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """XLEN is waiting + in flight, XINFO GROUPS shows what is in flight, an acknowledged entry is gone."""
    queue = make_redis_queue(prefetch=1)
    await queue.enqueue_many(events(10))
    deliveries = await receive_exactly(queue, 4)
    await queue.ack(deliveries[0])
    await queue.enqueue(event(10), delay=60)

    stats = await queue.stats()
    group = await stored.group()

    assert await stored.length() == 9
    assert await stored.raw.zcard(stored.keys.delayed) == 1
    assert (stats.waiting, stats.in_flight, stats.delayed) == (6, 3, 1)
    assert group["pending"] >= 3
    assert group["consumers"] == 1
    assert await queue.get_queue_depth() == 6
    assert stats.totals["enqueued"] == 11
    assert stats.totals["acked"] == 1


async def test_a_dead_consumers_event_is_reclaimed_and_not_deleted_with_it(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A consumer that vanished with an event is not removed before somebody has that event."""
    queue = make_redis_queue(lease=1.0)
    await queue.enqueue(event(0))
    await stored.raw.xreadgroup(stored.keys.group, "ghost", {stored.keys.stream: ">"}, count=1)
    assert (await stored.consumers())["ghost"] == 1

    assert await take_numbers(queue, 1, timeout=4.0) == [0]

    await queue.cleanup()
    assert (await stored.consumers()).get("ghost", 0) == 0


async def test_cleanup_closes_all_connections(start_server: StartServer, make_redis_queue: MakeQueue) -> None:
    """The server counts as many clients after a queue's life as before it."""
    server = start_server()
    before = len(server.command("CLIENT LIST"))
    queue = make_redis_queue(server.url)
    await queue.enqueue_many(events(10))
    await receive_exactly(queue, 5)

    await queue.cleanup()

    await wait_until(lambda: len(server.command("CLIENT LIST")) == before, timeout=2)


async def test_an_idle_queue_asks_little_of_the_server(proxy: FlakyProxy, make_redis_queue: MakeQueue) -> None:
    """A consumer that waits for events makes a handful of requests a second, not a busy loop."""
    queue = make_redis_queue(proxy.url, lease=15)
    assert await queue.receive(timeout=0.5) == []
    waiting = asyncio.create_task(queue.receive(timeout=60))
    before = proxy.counters["requests"]

    await asyncio.sleep(3)

    asked = proxy.counters["requests"] - before
    await queue.enqueue(event(0))
    await waiting
    assert asked / 3 <= 3


async def test_starting_and_stopping_many_queues_leaves_the_server_clean(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Thirty lives of a consumer, each taking one event: no consumer, no producer record and no entry remains."""
    await make_redis_queue().enqueue_many(events(30))
    for _ in range(30):
        queue = make_redis_queue()
        await take_numbers(queue, 1)
        await queue.cleanup()

    assert await stored.consumers() == {}
    assert await stored.empty()
