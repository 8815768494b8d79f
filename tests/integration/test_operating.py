"""What docs/how-to/operate-with-redis-cli.md says about a running queue is what the server answers."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from streams_queue.messages import InFlight
from tests.conftest import MakeQueue
from tests.support.builders import Keys, events
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operate-with-redis-cli.md"


async def figures(raw: redis.asyncio.Redis, keys: Keys) -> tuple[int, int, int]:
    """Return length, pending and consumers, as XINFO tells them."""
    stream = await raw.xinfo_stream(keys.stream)
    (group,) = await raw.xinfo_groups(keys.stream)
    return stream["length"], group["pending"], group["consumers"]


async def test_length_and_pending_tell_what_waits(
    make_redis_queue: MakeQueue, raw: redis.asyncio.Redis, keys: Keys
) -> None:
    """`length` is what is unsettled, `pending` is what is with a consumer; an acknowledged event is in neither."""
    queue = make_redis_queue(prefetch=1)
    await queue.enqueue_many(events(5))
    first, second = await queue.receive(1, timeout=5) + await queue.receive(1, timeout=5)
    length, pending, consumers = await figures(raw, keys)
    assert (length, consumers) == (5, 1)
    assert 2 <= pending <= 3
    await queue.ack(first, second)
    length, _, _ = await figures(raw, keys)
    assert length == 3


async def test_in_flight_tells_who_holds_what(make_redis_queue: MakeQueue) -> None:
    """An operator's queue, which takes nothing itself, sees the consumers and what they hold; `first` begins there."""
    worker, operator = make_redis_queue(prefetch=0), make_redis_queue()
    assert await operator.in_flight() == InFlight((), ())
    await worker.enqueue_many(events(3), event_ids=["a", "b", "c"])
    held = await worker.receive(1, timeout=5) + await worker.receive(1, timeout=5)

    found = await operator.in_flight()
    (consumer,) = found.consumers
    assert consumer.in_flight == 2
    assert [(each.event_id, each.entry_id, each.consumer, each.deliveries) for each in found.events] == [
        (delivery.event_id, delivery.entry_id, consumer.name, 1) for delivery in held
    ]
    assert all(0 <= each.age < 60 and each.payload is None for each in found.events)

    (second,) = (await operator.in_flight(1, first=held[1].entry_id, payloads=True)).events
    assert (second.event_id, second.payload) == ("b", held[1].payload)


async def test_a_consumers_pending_entries_are_renewed_while_it_lives(
    make_redis_queue: MakeQueue, raw: redis.asyncio.Redis, keys: Keys
) -> None:
    """The idle time of what a living consumer holds falls back again and again, long before its lease ends."""
    queue = make_redis_queue(lease=1.5)
    await queue.enqueue_many(events(1))
    (delivery,) = await queue.receive(1, timeout=5)
    (consumer,) = await raw.xinfo_consumers(keys.stream, keys.group)
    assert re.fullmatch(rb".+-\d+-[0-9a-f]+", consumer["name"])

    async def idle() -> int:
        (entry,) = await raw.xpending_range(keys.stream, keys.group, "-", "+", 10)
        assert (entry["consumer"], entry["times_delivered"]) == (consumer["name"], 1)
        return int(entry["time_since_delivered"])

    seen: list[int] = []

    async def has_fallen_twice() -> bool:
        seen.append(await idle())
        return sum(later < earlier for earlier, later in itertools.pairwise(seen)) >= 2

    await wait_until(has_fallen_twice)
    assert max(seen) < 1_500
    await queue.ack(delivery)


async def test_cleanup_leaves_no_consumer(make_redis_queue: MakeQueue, raw: redis.asyncio.Redis, keys: Keys) -> None:
    """A queue that ends in order is gone from XINFO CONSUMERS, and its events wait."""
    queue = make_redis_queue()
    await queue.enqueue_many(events(3))
    await queue.receive(2, timeout=5)
    await queue.cleanup()
    assert await figures(raw, keys) == (3, 0, 0)
    assert await raw.xinfo_consumers(keys.stream, keys.group) == []


async def test_an_entry_has_three_readable_fields(
    make_redis_queue: MakeQueue, raw: redis.asyncio.Redis, keys: Keys
) -> None:
    """XRANGE shows id, payload and meta, the latter two as JSON; a dead letter has its reason beside them."""
    queue = make_redis_queue()
    await queue.enqueue({"event_type": "push"}, event_id="id-1")
    ((_, fields),) = await raw.xrange(keys.stream)
    assert (list(fields), fields[b"id"], fields[b"payload"]) == (
        [b"id", b"payload", b"meta"],
        b"id-1",
        b'{"event_type":"push"}',
    )
    (delivery,) = await queue.receive(1, timeout=5)
    await queue.dead_letter(delivery, "rejected")
    ((_, dead),) = await raw.xrange(keys.dead)
    assert {b"reason", b"error", b"deliveries", b"enqueued_ms", b"died_ms"} <= set(dead)
    totals: dict[bytes, Any] = await raw.hgetall(keys.stats)
    assert (totals[b"enqueued"], totals[b"dead"]) == (b"1", b"1")


def test_the_page_names_every_key(keys: Keys) -> None:
    """The keys in the page's table are the queue's, under the default names."""
    text = PAGE.read_text(encoding="utf-8")
    default = Keys("gitbridge")
    for key in (default.stream, default.delayed, default.dead, default.stats):
        assert f"| `{key}` |" in text
