"""A server over its memory limit: nothing more goes in, everything inside can still be settled."""

from __future__ import annotations

import pytest

from streams_queue.errors import BackendRejected
from tests.conftest import LookAt, MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


async def test_settling_goes_on_when_the_server_has_no_memory_left(
    start_server: StartServer, make_redis_queue: MakeQueue, look_at: LookAt
) -> None:
    """Over maxmemory `enqueue` raises, while ack, nack, release, dead_letter and reading do their work to the end."""
    server = start_server(maxmemory_policy="noeviction")
    queue = make_redis_queue(server.url)
    stored = look_at(server)
    await queue.enqueue_many(events(5))
    acked, failed, released, rejected = await receive_exactly(queue, 4)
    server.command("CONFIG", "SET", "maxmemory", "100kb")

    with pytest.raises(BackendRejected) as refused:
        await queue.enqueue(event(5))
    assert refused.value.passing
    await queue.ack(acked)
    await queue.nack(failed, delay=60, error="no memory")
    await queue.release(released)
    await queue.extend(rejected)
    await queue.dead_letter(rejected, "rejected")

    stats = await queue.stats()
    assert (stats.waiting, stats.in_flight, stats.delayed, stats.dead) == (2, 0, 1, 1)
    assert await take_numbers(queue, 2) == [4, 2]
    assert await stored.length() == 0
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert await queue.enqueue(event(6))
    assert await take_numbers(queue, 1) == [6]


async def test_nothing_is_half_written_when_enqueue_is_refused_for_memory(
    start_server: StartServer, make_redis_queue: MakeQueue, look_at: LookAt
) -> None:
    """A refused batch, event ids and delays included, leaves no trace, so that a second call is not a duplicate."""
    server = start_server(maxmemory_policy="noeviction")
    queue = make_redis_queue(server.url)
    stored = look_at(server)
    await queue.enqueue(event(0), event_id="zero")
    server.command("CONFIG", "SET", "maxmemory", "100kb")
    for delay in (0.0, 30.0):
        with pytest.raises(BackendRejected):
            await queue.enqueue(event(1), event_id="one", delay=delay)

    server.command("CONFIG", "SET", "maxmemory", "0")

    assert await stored.size() == 1
    receipts = await queue.enqueue_many([event(1)], event_ids=["one"])
    assert [receipt.status for receipt in receipts] == ["accepted"]
    assert await take_numbers(queue, 2) == [0, 1]


async def test_delayed_events_become_available_without_memory(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """Promotion moves what is already counted, so it is not refused for memory either."""
    server = start_server(maxmemory_policy="noeviction")
    queue = make_redis_queue(server.url)
    await queue.enqueue(event(0), delay=0.5)
    server.command("CONFIG", "SET", "maxmemory", "100kb")

    assert await take_numbers(queue, 1) == [0]
    await wait_until(lambda: drained(queue))


async def test_a_new_consumer_takes_part_when_the_server_has_no_memory_left(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """Opening the queue, also after a lost connection, is not refused for memory: how else would it become less."""
    server = start_server(maxmemory_policy="noeviction")
    await make_redis_queue(server.url).enqueue_many(events(3))
    server.command("CONFIG", "SET", "maxmemory", "100kb")

    assert await take_numbers(make_redis_queue(server.url), 3) == [0, 1, 2]


async def drained(queue: object) -> bool:
    """Tell whether nothing is left unsettled."""
    stats = await queue.stats()  # type: ignore[attr-defined]
    return stats.waiting + stats.in_flight + stats.delayed == 0
