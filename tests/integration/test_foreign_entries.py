"""Entries that nobody of ours wrote: they are put aside with their reason, and never stop the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import MakeQueue
from tests.support.builders import event
from tests.support.recording import Recorder
from tests.support.stored import StoredQueue
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

PAYLOAD, META = b'{"event_type":"push","mark":"<99>","n":99}', b'{"v":1}'
FOREIGN = {
    "no payload": {"id": "x", "meta": META},
    "no meta": {"id": "x", "payload": PAYLOAD},
    "only unknown fields": {"colour": "red", "size": "7"},
    "broken JSON": {"id": "x", "payload": b'{"event_type": "pu', "meta": META},
    "not UTF-8": {"id": "x", "payload": b'{"a": "\xff\xfe"}', "meta": META},
    "a list": {"id": "x", "payload": b"[1, 2, 3]", "meta": META},
    "a number": {"id": "x", "payload": b"42", "meta": META},
    "broken meta": {"id": "x", "payload": PAYLOAD, "meta": b"v1"},
    "meta is a list": {"id": "x", "payload": PAYLOAD, "meta": b"[]"},
    "meta has no number as version": {"id": "x", "payload": PAYLOAD, "meta": b'{"v":"one"}'},
    "deeply nested": {"id": "x", "payload": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "meta": META},
}


@pytest.mark.parametrize("fields", FOREIGN.values(), ids=FOREIGN.keys())
async def test_an_undecodable_entry_is_buried_and_its_neighbours_are_processed(
    fields: dict[str, Any], make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """What cannot be turned into an event becomes a dead letter with reason and bytes; the queue goes on."""
    recorder = Recorder()
    queue = make_redis_queue(observers=(recorder,))
    await queue.enqueue(event(0))
    await stored.add(fields)
    await queue.enqueue(event(1))

    assert await take_numbers(queue, 2) == [0, 1]

    await wait_until(stored.empty)
    (letter,) = await queue.dead_letters()
    assert letter.reason == "undecodable"
    assert letter.error
    assert letter.payload == (json.loads(PAYLOAD) if fields.get("payload") == PAYLOAD else None)
    assert {name: value for name, value in letter.raw.items() if name in fields} == {
        name: value if isinstance(value, bytes) else value.encode() for name, value in fields.items()
    }
    assert [reason for _, reason in recorder.deaths] == ["undecodable"]


async def test_an_entry_over_the_size_limit_is_buried(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """30 MB written by hand is not handed to a handler that was promised less; it can still be looked at."""
    queue = make_redis_queue()
    payload = b'{"event_type":"push","blob":"' + b"x" * 30_000_000 + b'"}'
    await queue.enqueue(event(0))
    await stored.add({"id": "huge", "payload": payload, "meta": META})
    await queue.enqueue(event(1))

    assert await take_numbers(queue, 2) == [0, 1]

    await wait_until(stored.empty)
    (letter,) = await queue.dead_letters()
    assert letter.reason in ("undecodable", "too_large")
    assert "30" in letter.error
    assert len(letter.raw["payload"]) == len(payload)


async def test_an_unknown_field_beside_ours_does_no_harm(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """An entry with one field more, as a later release may write, is an event; the field survives a release."""
    queue = make_redis_queue()
    await queue.enqueue(event(0))
    await stored.add({"id": "x", "payload": PAYLOAD, "meta": META, "colour": "red"})
    assert await take_numbers(queue, 1) == [0]
    (delivery,) = await queue.receive()
    assert delivery.payload["n"] == 99

    await queue.release(delivery)

    ((_, fields),) = await stored.raw.xrange(stored.keys.stream)
    assert fields[b"colour"] == b"red"


async def test_an_entry_of_a_newer_version_is_left_for_newer_consumers(
    make_redis_queue: MakeQueue, stored: StoredQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A `v` from the future is neither handed out nor buried, however often it comes by; the log says why."""
    queue = make_redis_queue(lease=1.0, retry_policy={"max_retries": 0, "base_delay": 0.05})
    await queue.enqueue(event(0))
    entry_id = await stored.add({"id": "x", "payload": PAYLOAD, "meta": b'{"v":99}'})
    await queue.enqueue(event(1))

    assert await take_numbers(queue, 2) == [0, 1]
    assert await queue.receive(timeout=3.0) == []

    assert await stored.size() == 1
    assert await queue.dead_letters() == []
    assert "99" in caplog.text, f"nothing was logged about {entry_id}"
    await queue.cleanup()
    assert await stored.size() == 1


async def test_a_whole_run_of_undecodable_entries_is_passed(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """More bad entries than one read returns: the event behind them comes all the same."""
    queue = make_redis_queue()
    await queue.enqueue(event(0))
    for _ in range(300):
        await stored.add({"colour": "red"})
    await queue.enqueue(event(1))

    assert await take_numbers(queue, 2) == [0, 1]

    await wait_until(stored.empty)
    assert (await queue.stats()).dead == 300


async def test_an_undecodable_delayed_member_is_buried_and_the_rest_is_promoted(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A member of the sorted set that this queue did not write does not block the ones that are due after it."""
    queue = make_redis_queue()
    await queue.enqueue(event(0), delay=0.2)
    await stored.raw.zadd(stored.keys.delayed, {b"not a member of ours": 1, b"\x00\xff": 2})
    await queue.enqueue(event(1), delay=0.2)

    assert sorted(await take_numbers(queue, 2)) == [0, 1]

    await wait_until(stored.empty)
    assert [letter.reason for letter in await queue.dead_letters()] == ["undecodable", "undecodable"]
