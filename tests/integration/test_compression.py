"""Compressed payloads on a real server: every verb, dead letters, those who cannot read them, bombs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from typer.testing import CliRunner

from streams_queue import ResilientQueue, compression
from streams_queue.breaker import BreakerPolicy
from streams_queue.cli.app import app
from streams_queue.errors import MessageTooLarge
from streams_queue.redis_queue import reader
from tests.conftest import MakeConfig, MakeQueue, StartServer
from tests.support.builders import event
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take, take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

ZSTD = {"type": "zstd", "min_bytes": 1000}
TEXT = "https://api.github.com/repos/octocat/Hello-World/" * 100


def large(number: int) -> dict[str, Any]:
    """Return an event that is worth compressing."""
    return event(number, text=TEXT)


def compressed(payload: bytes) -> bool:
    """Whether a stored payload is a zstd frame."""
    return payload.startswith(b"\x28\xb5\x2f\xfd")


async def in_stream(stored: StoredQueue) -> list[dict[bytes, bytes]]:
    """Return the fields of all entries."""
    return [fields for _, fields in await stored.raw.xrange(stored.keys.stream)]


async def test_large_payloads_lie_compressed_on_the_server(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """From the threshold on, in one call with small ones; meta says so, and what is handed out is what went in."""
    queue = make_redis_queue(compression=ZSTD)
    await queue.enqueue_many([event(0), large(1), event(2)], headers={"trace": "t"})
    small, big, _ = await in_stream(stored)
    assert json.loads(small[b"payload"]) == event(0)
    assert json.loads(small[b"meta"]) == {"v": 1, "h": {"trace": "t"}}
    assert json.loads(big[b"meta"]) == {"v": 2, "ce": "zstd", "h": {"trace": "t"}}
    assert compressed(big[b"payload"])
    assert len(big[b"payload"]) < len(json.dumps(large(1))) / 10
    deliveries = await receive_exactly(queue, 3)
    assert [delivery.payload for delivery in deliveries] == [event(0), large(1), event(2)]
    assert [delivery.headers for delivery in deliveries] == [{"trace": "t"}] * 3


async def test_a_fleet_may_be_of_two_minds(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Who does not compress reads what others have, and the other way round."""
    one, other = make_redis_queue(compression=ZSTD), make_redis_queue()
    await one.enqueue(large(0))
    assert await take(other, 1) == [large(0)]
    await other.enqueue(large(1))
    assert not compressed((await in_stream(stored))[0][b"payload"])
    assert await take(one, 1) == [large(1)]


async def test_a_compressed_event_goes_every_way_that_others_go(make_redis_queue: MakeQueue) -> None:
    """Delayed, released, failed to its last delivery, buried, listed, redriven: counted right and whole each time."""
    queue = make_redis_queue(compression=ZSTD, retry_policy={"max_retries": 2, "base_delay": 0.02})
    await queue.enqueue(large(0), delay=0.05, event_id="a")
    (seen,) = await queue.peek()
    assert (seen.state, seen.payload) == ("delayed", large(0))
    (first,) = await receive_exactly(queue, 1)
    await queue.release(first)
    (seen,) = await queue.peek()
    assert (seen.state, seen.payload, seen.deliveries) == ("waiting", large(0), 0)
    for deliveries in (1, 2, 3):
        (delivery,) = await receive_exactly(queue, 1)
        assert (delivery.payload, delivery.deliveries, delivery.event_id) == (large(0), deliveries, "a")
        await queue.nack(delivery, error="no")
    (letter,) = await queue.dead_letters()
    assert (letter.payload, letter.reason, letter.deliveries) == (large(0), "max_retries", 3)
    assert compressed(letter.raw["payload"])
    assert await queue.redrive(letter.dead_id) == 1
    (delivery,) = await receive_exactly(queue, 1)
    assert (delivery.payload, delivery.deliveries) == (large(0), 1)
    await queue.nack(delivery)
    (delivery,) = await receive_exactly(queue, 1)
    assert (delivery.payload, delivery.deliveries) == (large(0), 2)
    await queue.dead_letter(delivery, "enough")
    assert [letter.payload for letter in await queue.dead_letters()] == [large(0)]


async def test_the_limit_is_on_what_is_handed_out(make_redis_queue: MakeQueue) -> None:
    """An event is not let in because it would be small on the server."""
    queue = make_redis_queue(compression=ZSTD, max_event_bytes=2000)
    with pytest.raises(MessageTooLarge, match="max_event_bytes is 2000"):
        await queue.enqueue(large(0))


def frame_of(size: int) -> bytes:
    """Return a frame that stands for so many zeros."""
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize(
    ("payload", "reason", "error"),
    [
        (frame_of(100_000_000), "too_large", "the payload is 100000000 bytes; max_event_bytes is 1000000"),
        (frame_of(100), "undecodable", "not JSON"),
        (frame_of(100)[:-3], "undecodable", "the compressed payload is broken"),
        (b'{"n":1}', "undecodable", "the compressed payload is broken"),
    ],
    ids=["bomb", "no JSON", "cut off", "not compressed"],
)
async def test_a_bad_frame_is_buried_and_its_neighbours_are_processed(
    payload: bytes, reason: str, error: str, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A dead letter with its reason and its bytes; no crash, and no memory for what a bomb says."""
    queue = make_redis_queue(max_event_bytes=1_000_000, compression=ZSTD)
    await queue.enqueue(large(0))
    await stored.add({"id": "x", "payload": payload, "meta": b'{"v":2,"ce":"zstd"}'})
    await queue.enqueue(large(1))
    assert await take_numbers(queue, 2) == [0, 1]
    await wait_until(stored.empty)
    (letter,) = await queue.dead_letters()
    assert (letter.reason, letter.payload) == (reason, None)
    assert error in letter.error
    assert letter.raw["payload"] == payload


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Take the library away, `library(False)`, and give it back."""

    def there(is_there: bool) -> None:
        monkeypatch.setitem(sys.modules, "zstandard", zstandard if is_there else None)
        compression._library.cache_clear()

    yield there
    compression._library.cache_clear()


async def test_who_lacks_the_library_leaves_events_to_others(
    make_redis_queue: MakeQueue,
    stored: StoredQueue,
    library: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It does not bury them, nor count a delivery, however often they come by; it says what it lacks, and works on."""
    monkeypatch.setattr(reader, "LEAVE_TO_NEWER", 0.05)
    rich = make_redis_queue(compression=ZSTD)
    poor = make_redis_queue(retry_policy={"max_retries": 0, "base_delay": 0.05})
    await rich.enqueue_many([large(0), event(1)])
    library(False)
    assert await take_numbers(poor, 1) == [1]
    receiving = asyncio.create_task(poor.receive(timeout=60))
    lacks = "needs the extra 'compression': pip install 'streams-queue[compression]'; it is left to others"
    await wait_until(lambda: caplog.text.count(lacks) >= 3, what=lambda: caplog.text)
    assert (await stored.size(), await poor.dead_letters()) == (1, [])
    await poor.cleanup()
    assert await receiving == []
    library(True)
    (delivery,) = await receive_exactly(rich, 1)
    assert (delivery.payload, delivery.deliveries) == (large(0), 1)


@pytest.mark.parametrize("spooled", [False, True])
async def test_what_is_held_while_the_server_is_away_arrives_compressed(
    spooled: bool, make_config: MakeConfig, start_server: StartServer, stored: StoredQueue, tmp_path: Path
) -> None:
    """In memory and in a spool, which stores what travels; each event once and in order."""
    server = start_server(appendonly="yes", appendfsync="always")
    fallback = {"spool": str(tmp_path / "spool")} if spooled else {}
    config = make_config(server.url, enqueue_timeout=0.6, compression=ZSTD, fallback=fallback)
    queue = ResilientQueue(config, breaker=BreakerPolicy(open_for=0.05, max_open_for=0.2))
    try:
        await queue.enqueue(large(0))
        await asyncio.to_thread(server.kill)
        await queue.enqueue_many([large(1), event(2)])
        assert not queue.using_redis
        await asyncio.to_thread(server.restart)
        await wait_until(lambda: queue.using_redis)
        await queue.enqueue(large(3))
        deliveries = await receive_exactly(queue, 4)
        assert [delivery.payload for delivery in deliveries] == [large(0), large(1), event(2), large(3)]
        await queue.nack(deliveries[1], delay=600)
        (seen,) = await queue.peek()
        assert seen.payload == large(1)
        await queue.ack(*deliveries)
    finally:
        await queue.cleanup()


def test_the_command_shows_what_is_compressed(make_config: MakeConfig, tmp_path: Path) -> None:
    """`peek` and `dead` show payloads, not frames."""
    file = tmp_path / "webhook_config.yaml"
    file.write_text(yaml.safe_dump(make_config(compression=ZSTD)))

    def run(*arguments: str, text: str | None = None) -> Any:
        return json.loads(CliRunner().invoke(app, [*arguments, "--json", "--config", str(file)], input=text).stdout)

    assert run("enqueue", "-", text=json.dumps(large(0)) + "\n")["accepted"] == 1
    assert run("peek")[0]["payload"] == large(0)
