"""What lies on the server: names, fields, lifetimes and cost, as an operator or another release finds them."""

from __future__ import annotations

import json

import pytest

from tests.conftest import MakeQueue
from tests.support.builders import event
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly

pytestmark = pytest.mark.integration


async def test_an_entry_has_three_readable_fields(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """`id`, `payload` and `meta`, in this order, in JSON that XRANGE shows as it is."""
    queue = make_redis_queue()
    await queue.enqueue(event(0), event_id="delivery-7", headers={"trace": "abc"})

    ((_, fields),) = await stored.raw.xrange(stored.keys.stream)

    assert list(fields) == [b"id", b"payload", b"meta"]
    assert fields[b"id"] == b"delivery-7"
    assert json.loads(fields[b"payload"]) == event(0)
    assert json.loads(fields[b"meta"])["v"] == 1


async def test_all_keys_of_a_queue_share_one_hash_tag(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Whatever a queue writes lies in one cluster slot, and under no other name than the documented ones."""
    queue = make_redis_queue(retry_policy={"max_retries": 0, "base_delay": 0.05})
    await queue.enqueue(event(0), event_id="a")
    await queue.enqueue(event(1), event_id="b", delay=60)
    (delivery,) = await receive_exactly(queue, 1)
    await queue.nack(delivery)

    names = {name.decode() async for name in stored.raw.scan_iter(f"{stored.keys.namespace}*", count=1000)}

    fixed = {stored.keys.delayed, stored.keys.dead, stored.keys.stats, stored.keys.stream}
    prefixes = (f"{stored.keys.stream}:dedup:", f"{stored.keys.stream}:producer:")
    assert fixed <= names
    assert [name for name in names - fixed if not name.startswith(prefixes)] == []


async def test_bookkeeping_expires_and_events_do_not(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Producer records and dedup buckets have a time to live, so that no dead producer stays; data has none."""
    queue = make_redis_queue(dedup_window=100)
    await queue.enqueue(event(0), event_id="a")
    await queue.enqueue(event(1), delay=60)

    lives = {
        name.decode().removeprefix(stored.keys.stream): await stored.raw.pttl(name)
        async for name in stored.raw.scan_iter(f"{stored.keys.namespace}*", count=1000)
    }

    assert lives[""] == lives[":delayed"] == lives[":stats"] == -1
    assert all(0 < life <= 24 * 3600 * 1000 for name, life in lives.items() if name.startswith(":producer:"))
    assert all(100_000 <= life <= 200_000 for name, life in lives.items() if name.startswith(":dedup:"))
    assert len(lives) == 5


async def test_an_event_id_costs_at_most_70_bytes(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """A day of webhooks at 100 a second must be remembered in memory that one can afford."""
    queue, count = make_redis_queue(max_size=20_000), 10_000
    ids: list[str | None] = [f"72d3162e-cc78-11e3-81ab-{number:012d}" for number in range(count)]
    await queue.enqueue_many([{"n": number} for number in range(count)], event_ids=ids)

    buckets = [key async for key in stored.raw.scan_iter(f"{stored.keys.stream}:dedup:*", count=1000)]
    used = [await stored.raw.memory_usage(bucket, samples=0) for bucket in buckets]

    assert sum(used) / count <= 70


async def test_cleanup_forgets_the_producer(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """The record of the last batch goes with its producer, the events stay."""
    queue = make_redis_queue()
    await queue.enqueue(event(0))

    await queue.cleanup()

    assert [key async for key in stored.raw.scan_iter(f"{stored.keys.stream}:producer:*", count=1000)] == []
    assert await stored.numbers() == [0]
