"""From the lists of the plan into the stream: what is moved, what is set aside, and what the report says."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from streams_queue.config import load_config
from streams_queue.errors import BackendRejected, BackendUnavailable, StateError, UsageError
from streams_queue.migration import Asked, Audience, Migration, Report, Tally, Unfit, preview
from streams_queue.migration.commands import SourceCommands, Step
from tests.conftest import MakeClient, MakeConfig, MakeQueue, ProxyTo, StartServer
from tests.support.builders import Keys, event
from tests.support.plan_lists import PlanLists, as_pushed, migrate, payloads, pushed
from tests.support.servers import RedisServer, chosen_flavour, require_binary
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
ELSEWHERE = "elsewhere"
HERE = "here"


class Notes(Audience):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reasons: list[str] = []

    def unfit(self, unfit: Unfit) -> None:
        """Note why."""
        self.reasons.append(unfit.reason)

    def waits(self, why: str) -> None:
        """Note why."""
        self.said.append(why)

    def follows(self) -> None:
        """Note that the list was empty."""
        self.said.append("follows")


@dataclasses.dataclass(frozen=True)
class Place:
    """Lists and a queue, on one server or on two."""

    lists: PlanLists
    config: Callable[..., dict[str, Any]]
    from_url: str | None
    queue: redis.asyncio.Redis
    stream: str

    async def migrate(self, processing: str = "aside", audience: Audience | None = None, **options: Any) -> Report:
        """Migrate with a configuration that has defaults."""
        asked = self.lists.asked(processing, **options)
        return await migrate(self.config(), asked, from_url=self.from_url, audience=audience)

    def migration(self, asked: Asked, **queue: Any) -> Migration:
        """Return a migration that is not running yet."""
        return Migration(load_config(self.config(**queue)), asked, from_url=self.from_url)

    async def payloads(self) -> list[bytes]:
        """Return the stream."""
        return await payloads(self.queue, self.stream)


@pytest.fixture(scope="module")
def other_server() -> Iterator[RedisServer]:
    """A second server that these tests share; none of them may stop, fill or flush it."""
    server = RedisServer(require_binary(chosen_flavour()))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=[HERE, ELSEWHERE])
def place(  # noqa: PLR0917 - fixtures go by name
    request: pytest.FixtureRequest,
    make_client: MakeClient,
    make_config: MakeConfig,
    other_server: RedisServer,
    redis_url: str,
    keys: Keys,
    namespace: str,
) -> Place:
    """The same on one server and between two."""
    url = redis_url if request.param == HERE else other_server.url
    lists = PlanLists(make_client(url), namespace)
    return Place(
        lists,
        open_config(make_config, redis_url),
        None if request.param == HERE else url,
        make_client(redis_url),
        keys.stream,
    )


@pytest.fixture
def here(make_client: MakeClient, make_config: MakeConfig, redis_url: str, keys: Keys, namespace: str) -> Place:
    """All on one server."""
    client = make_client(redis_url)
    return Place(PlanLists(client, namespace), open_config(make_config, redis_url), None, client, keys.stream)


def open_config(make_config: MakeConfig, url: str) -> Callable[..., dict[str, Any]]:
    """Return configurations that log in as nobody in particular: the queue's user may not touch lists."""
    return lambda **queue: make_config(**{"redis_url": url, **queue})


async def test_everything_moves_in_the_lists_order_byte_by_byte(place: Place) -> None:
    """More than one chunk; the payloads are what was pushed, and all keys but the queue's are gone."""
    items = pushed(range(250))
    items[7] = b' {"a": 1.50, "\\u00e9": [1, 2,\n 3], "big": 123456789012345678901234567890} '
    await place.lists.push(items)
    report = await place.migrate()
    assert await place.payloads() == items
    assert await place.lists.left_behind() == {}
    assert report == Report(waiting=Tally(found=250, moved=250), processing=Tally())
    assert report.adds_up


async def test_an_entry_is_what_enqueue_would_have_written(
    place: Place, make_redis_queue: MakeQueue, stored_totals: Callable[[], Awaitable[dict[str, str]]]
) -> None:
    """The same fields, the same meta, counted alike, in a group that hands out from the beginning."""
    queue = make_redis_queue()
    payload = event(1)
    await queue.enqueue(payload)
    await place.lists.push([json.dumps(payload, separators=(",", ":")).encode()])
    await place.migrate()
    (_, enqueued), (_, moved) = await place.queue.xrange(place.stream)
    assert list(moved) == list(enqueued) == [b"id", b"payload", b"meta"]
    assert moved[b"id"] != enqueued[b"id"]
    assert (moved[b"payload"], moved[b"meta"]) == (enqueued[b"payload"], enqueued[b"meta"])
    assert (await stored_totals())["enqueued"] == "2"
    assert [await queue.dequeue(timeout=5) for _ in range(2)] == [payload, payload]


@pytest.fixture
def stored_totals(make_client: MakeClient, redis_url: str, keys: Keys) -> Callable[[], Awaitable[dict[str, str]]]:
    """Read the queue's totals."""
    client = make_client(redis_url, decode_responses=True)
    return lambda: client.hgetall(keys.stats)


async def test_a_queue_that_compresses_gets_compressed_entries(place: Place, make_redis_queue: MakeQueue) -> None:
    """As from enqueue; what was pushed comes out again."""
    compression = {"type": "zstd", "min_bytes": 100}
    payload = event(1, text="the same again and again " * 100)
    await place.lists.push([as_pushed(payload)])
    await place.migration(place.lists.asked(), compression=compression).run()
    ((_, fields),) = await place.queue.xrange(place.stream)
    assert len(fields[b"payload"]) < 300
    assert await make_redis_queue(compression=compression).dequeue(timeout=5) == payload


UNFIT = {
    b"placeholder": "placeholder",
    b'"placeholder"': "placeholder",
    b"": "undecodable",
    b"\xff\x00": "undecodable",
    b"[1]": "undecodable",
    b'{"a": NaN}': "undecodable",
    b'{"a": "\\ud800"}': "undecodable",
    b"[" * 100_000: "undecodable",
    b'{"a":' * 300 + b"1" + b"}" * 300: "undecodable",
    b'{"a": "%s"}' % (b"x" * 2000): "too_large",
}


async def test_what_is_no_event_is_set_aside_and_stops_nothing(place: Place) -> None:
    """Each kind, between good events; reported, and kept in order byte by byte."""
    items = [each for number, unfit in enumerate(UNFIT) for each in (as_pushed(event(number)), unfit)]
    await place.lists.push(items)
    notes = Notes()
    migration = Migration(
        load_config(place.config(max_event_bytes=1000)), place.lists.asked(), from_url=place.from_url, audience=notes
    )
    # The nested ones are large, too.
    report = await migration.run()
    assert await place.payloads() == items[::2]
    assert await place.lists.left_behind() == {"events:set-aside": items[1::2]}
    assert (report.waiting, report.adds_up) == (Tally(found=20, moved=10, set_aside=10), True)
    assert len(notes.reasons) == 10
    assert dict(report.unfit) == {reason: notes.reasons.count(reason) for reason in set(notes.reasons)}


@pytest.mark.parametrize("item", UNFIT, ids=range(len(UNFIT)))
async def test_why_an_item_is_no_event(here: Place, item: bytes) -> None:
    """Its reason, and nothing of its content in what is said."""
    await here.lists.push([item])
    limit = 1000 if UNFIT[item] == "too_large" else 10**6
    report = await here.migration(here.lists.asked(), max_event_bytes=limit).run()
    assert dict(report.unfit) == {UNFIT[item]: 1}


async def test_a_full_queue_is_waited_for_and_never_exceeded(place: Place, make_redis_queue: MakeQueue) -> None:
    """A worker drains; the stream never holds more than max_size; everything comes out in order, once."""
    await place.lists.push(pushed(range(150)))
    queue = make_redis_queue(max_size=20, prefetch=5)
    seen, held = [], []
    running = asyncio.create_task(place.migration(place.lists.asked(), max_size=20).run())
    while len(seen) < 150:
        payload = await queue.dequeue(timeout=5)
        assert payload is not None
        seen.append(payload["n"])
        held.append(await place.queue.xlen(place.stream))
    report = await running
    assert seen == list(range(150))
    assert max(held) <= 20
    assert report.waiting == Tally(found=150, moved=150)


async def test_who_does_not_wait_for_room_goes_on_later(
    place: Place, stored_totals: Callable[[], Awaitable[dict[str, str]]]
) -> None:
    """Not finished; nothing lost; the next run goes on with the sum, and may leave room or go beyond."""
    items = pushed(range(30))
    await place.lists.push(items)
    notes = Notes()
    asked = place.lists.asked(wait_for_room=0.0)
    settings = load_config(place.config(max_size=10))
    first = await Migration(
        settings, dataclasses.replace(asked, leave_room=4), from_url=place.from_url, audience=notes
    ).run()
    assert (first.finished, first.waiting.moved, first.adds_up, notes.said) == (False, 6, True, ["full"])
    second = await Migration(settings, asked, from_url=place.from_url).run()
    assert (second.finished, second.waiting.moved, second.adds_up) == (False, 10, True)
    third = await Migration(settings, dataclasses.replace(asked, beyond_max_size=True), from_url=place.from_url).run()
    assert third == Report(waiting=Tally(found=30, moved=30), processing=Tally())
    assert await place.payloads() == items
    assert "rejected" not in await stored_totals()


async def test_a_queue_that_drops_the_oldest_drops_nothing_for_a_migration(place: Place) -> None:
    """What has no room stays in the list."""
    await place.lists.push(pushed(range(10)))
    asked = place.lists.asked(wait_for_room=0.0)
    report = await place.migration(asked, max_size=4, overflow="drop_oldest").run()
    assert (report.finished, report.waiting.moved) == (False, 4)
    assert await place.queue.xlen(f"{place.stream}:dead") == 0


async def test_a_paused_intake_is_waited_for(place: Place, make_redis_queue: MakeQueue) -> None:
    """Until somebody resumes it."""
    queue = make_redis_queue()
    await queue.pause(intake=True)
    await place.lists.push(pushed(range(3)))
    notes = Notes()
    running = asyncio.create_task(place.migrate(audience=notes))
    await wait_until(lambda: notes.said)
    assert (await place.payloads(), notes.said) == ([], ["paused"])
    await queue.resume()
    assert (await running).waiting.moved == 3


# --- the processing list ---


async def test_the_processing_list_is_set_aside(place: Place) -> None:
    """In its order, and not into the queue."""
    items = pushed(range(1200))
    await place.lists.push(items)
    await place.lists.take(1100)
    report = await place.migrate()
    assert await place.payloads() == items[1100:]
    assert await place.lists.left_behind() == {"processing:set-aside": items[:1100]}
    assert report.processing == Tally(found=1100, set_aside=1100)


@pytest.mark.parametrize(("asked", "requeued"), [("requeue", 250), ("newest:130", 130), ("newest:999", 250)])
async def test_what_is_requeued_comes_before_what_waits(place: Place, asked: str, requeued: int) -> None:
    """All of it, or the newest; the rest, and what is no event, is set aside."""
    items = [*pushed(range(249)), b"placeholder", *pushed(range(300, 310))]
    await place.lists.push(items)
    await place.lists.take(250)
    report = await place.migrate(asked)
    assert await place.payloads() == [*items[250 - requeued : 249], *items[250:]]
    assert await place.lists.left_behind() == {"processing:set-aside": [*items[: 250 - requeued], b"placeholder"]}
    assert report.processing == Tally(found=250, moved=requeued - 1, set_aside=251 - requeued)


async def test_the_processing_list_may_be_left_alone(place: Place) -> None:
    """Then nothing happens to it."""
    items = pushed(range(3))
    await place.lists.push(items)
    await place.lists.take(2)
    report = await place.migrate("leave")
    assert await place.lists.left_behind() == {"processing": items[:2]}
    assert report.processing == Tally(found=2, left=2)


async def test_what_is_exported_is_in_a_file_and_then_set_aside(place: Place, tmp_path: Path) -> None:
    """JSON lines: objects as they are, but for line breaks; anything else as a string. No other file stays."""
    items = [*pushed(range(250)), b'{"a":\n1}', b"\xffno", b"[1]"]
    await place.lists.push(items)
    await place.lists.take(253)
    file = tmp_path / "out.jsonl"
    report = await place.migrate(f"export:{file}")
    lines = file.read_bytes().splitlines()
    assert [*lines[:250], lines[252]] == [*items[:250], items[252]]
    assert json.loads(lines[250]) == {"a": 1}
    assert json.loads(lines[251]).encode("utf-8", "surrogateescape") == items[251]
    assert await place.lists.left_behind() == {"processing:set-aside": items}
    assert report.processing == Tally(found=253, set_aside=253)
    assert names_in(tmp_path) == ["out.jsonl"]


def names_in(folder: Path) -> list[str]:
    """Return what is in a directory."""
    return sorted(each.name for each in folder.iterdir())


async def test_an_export_replaces_no_file(here: Place, tmp_path: Path) -> None:
    """Nothing has happened then."""
    file = tmp_path / "out.jsonl"
    file.write_text("precious")
    await here.lists.push(pushed(range(1)))
    with pytest.raises(UsageError, match="is there already"):
        await here.migrate(f"export:{file}")
    assert (file.read_text(), await here.payloads()) == ("precious", [])


async def test_what_old_consumers_take_meanwhile_is_said(here: Place) -> None:
    """They are counted as others, and what they put into the processing list stays there."""
    items = pushed(range(20))
    await here.lists.push(items)
    await here.lists.take(5)

    class Takes(Audience):
        def began(self, waiting: Tally, processing: Tally) -> None:
            asyncio.get_running_loop().create_task(here.lists.take(3))

    # The first chunk waits for room until they have taken.
    asked = here.lists.asked(wait_for_room=0.5)
    report = await Migration(load_config(here.config(max_size=1)), asked, audience=Takes()).run()
    assert (report.waiting.others, report.processing.others) == (-3, 3)
    assert report.adds_up
    left = await here.lists.left_behind()
    assert (left["processing:set-aside"], len(left["processing"])) == (items[:5], 3)
    assert sorted([*left["processing"], *await here.payloads(), *left["events"]]) == sorted(items[5:])


# --- following ---


async def test_a_bridge_moves_what_comes_within_moments(place: Place) -> None:
    """Also while old consumers wait for the same list; it ends in order when it is told to."""
    notes = Notes()
    migration = Migration(
        load_config(place.config()), place.lists.asked(follow=True), from_url=place.from_url, audience=notes
    )
    running = asyncio.create_task(migration.run())
    await wait_until(lambda: notes.said)
    waits = []
    loop = asyncio.get_running_loop()
    for number, item in enumerate(pushed(range(20))):
        before = loop.time()
        await place.lists.push([item])
        # Closer than wait_until looks.
        while await place.queue.xlen(place.stream) <= number:  # noqa: ASYNC110
            await asyncio.sleep(0)
        waits.append(loop.time() - before)
    migration.stop.set()
    report = await running
    assert sorted(waits)[10] < 0.1
    assert (report.finished, report.waiting, notes.said) == (True, Tally(others=20, moved=20), ["follows"])
    assert await place.lists.left_behind() == {}


async def test_a_bridge_and_old_consumers_share_the_list(place: Place) -> None:
    """All of them wait for it at the same time: each item goes to exactly one, and stays in order there."""
    old = place.lists.raw
    migration = place.migration(place.lists.asked("leave", follow=True))
    running = asyncio.create_task(migration.run())
    taken: list[bytes] = []

    async def consume() -> None:
        while len(taken) < 200 and (
            item := await old.brpoplpush(place.lists.source, place.lists.processing, timeout=0.3)
        ):
            taken.append(item)

    async def is_empty() -> bool:
        return not await old.llen(place.lists.source)

    items = pushed(range(400))
    # The first ones are there when they come; the bridge gets what the consumers leave.
    await place.lists.push(items[:4])
    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    for start in range(4, 400, 4):
        await place.lists.push(items[start : start + 4])
    await asyncio.gather(*consumers)
    await wait_until(is_empty)
    migration.stop.set()
    report = await running
    moved = await place.payloads()
    assert sorted(taken + moved) == sorted(items)
    assert moved == [item for item in items if item in set(moved)]
    assert moved
    assert taken
    assert (report.adds_up, report.waiting.moved) == (True, len(moved))


async def test_a_bridge_ends_when_nothing_comes(place: Place) -> None:
    """After so many seconds since the last item."""
    await place.lists.push(pushed(range(3)))
    report = await place.migrate(follow=True, until_idle=0.2)
    assert (report.finished, report.waiting.moved) == (True, 3)


async def test_a_bridge_survives_a_server_that_restarts(
    start_server: StartServer, make_config: MakeConfig, make_client: MakeClient, keys: Keys, namespace: str
) -> None:
    """Killed and started again from its append-only file: everything that was pushed arrives once, in order."""
    server = start_server(appendonly="yes", appendfsync="always")
    lists = PlanLists(make_client(server.url), namespace)
    settings = load_config(make_config(redis_url=server.url))
    migration = Migration(settings, lists.asked(follow=True))
    await lists.push(pushed(range(150)))
    running = asyncio.create_task(migration.run())
    await wait_until(lambda: lists.raw.xlen(keys.stream))
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await lists.raw.connection_pool.disconnect()
    await lists.push(pushed(range(150, 300)))
    await wait_until(lambda: _holds(lists.raw, keys.stream, 300), 20)
    migration.stop.set()
    await running
    assert await payloads(lists.raw, keys.stream) == pushed(range(300))


async def _holds(queue: redis.asyncio.Redis, stream: str, count: int) -> bool:
    return int(await queue.xlen(stream)) >= count


async def test_a_bridge_goes_on_with_a_server_that_lost_everything(
    start_server: StartServer, make_config: MakeConfig, make_client: MakeClient, keys: Keys, namespace: str
) -> None:
    """FLUSHALL: the record is gone; it begins anew, and the report says so."""
    server = start_server()
    lists = PlanLists(make_client(server.url), namespace)
    migration = Migration(load_config(make_config(redis_url=server.url)), lists.asked(follow=True))
    running = asyncio.create_task(migration.run())
    await wait_until(lambda: lists.raw.exists(f"{lists.source}:migration"))
    await lists.raw.flushall()
    await lists.push(pushed(range(5)))
    await wait_until(lambda: _holds(lists.raw, keys.stream, 5))
    migration.stop.set()
    report = await running
    assert (report.record_lost, report.adds_up) == (True, False)


# --- between two servers ---


@pytest.fixture
def elsewhere(
    make_client: MakeClient, make_config: MakeConfig, start_server: StartServer, keys: Keys, namespace: str
) -> Place:
    """Between two servers of the test's own."""
    url, from_url = start_server().url, start_server().url
    lists = PlanLists(make_client(from_url), namespace)
    return Place(lists, open_config(make_config, url), from_url, make_client(url), keys.stream)


async def test_a_source_that_went_back_in_time_is_told_and_loses_nothing(
    elsewhere: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It knows an earlier sequence than the queue: what is on the way goes out anew, under another producer."""
    items = pushed(range(30))
    await elsewhere.lists.push(items)
    await elsewhere.migration(elsewhere.lists.asked(wait_for_room=0.0), max_size=10).run()
    await elsewhere.lists.raw.hset(f"{elsewhere.lists.source}:migration", "sequence", 1)
    report = await elsewhere.migrate()
    assert [each.getMessage()[:53] for each in caplog.records] == [
        "It cannot be told whether 20 events of the migration "
    ]
    assert await elsewhere.payloads() == items
    assert (report.finished, report.adds_up, report.waiting.moved) == (True, True, 30)


async def test_a_source_that_went_back_by_one_chunk_does_not_pass_off_what_is_new(
    elsewhere: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It lost its last second: the next item gets a number under which the queue knows another one, and goes in."""
    record = f"{elsewhere.lists.source}:migration"
    migration = elsewhere.migration(elsewhere.lists.asked(follow=True))
    running = asyncio.create_task(migration.run())
    await wait_until(lambda: elsewhere.lists.raw.exists(record))
    before = await elsewhere.lists.raw.dump(record)
    await elsewhere.lists.push(pushed(range(1)))
    await wait_until(lambda: _holds(elsewhere.queue, elsewhere.stream, 1))
    await wait_until(lambda: _is_settled(elsewhere.lists))
    await elsewhere.lists.raw.restore(record, 0, before, replace=True)
    await elsewhere.lists.push(pushed(range(1, 2)))
    await wait_until(lambda: _holds(elsewhere.queue, elsewhere.stream, 2))
    migration.stop.set()
    await running
    assert await elsewhere.payloads() == pushed(range(2))
    assert [each.getMessage()[:40] for each in caplog.records] == ["It cannot be told whether 1 events of th"]


async def test_a_queue_whose_server_forgot_is_told(elsewhere: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What had left the list and was not processed is lost; what comes goes on."""
    migration = elsewhere.migration(elsewhere.lists.asked(follow=True))
    running = asyncio.create_task(migration.run())
    await elsewhere.lists.push(pushed(range(5)))
    await wait_until(lambda: _holds(elsewhere.queue, elsewhere.stream, 5))
    await wait_until(lambda: _is_settled(elsewhere.lists))
    await elsewhere.queue.flushall()
    await elsewhere.lists.push(pushed(range(5, 8)))
    await wait_until(lambda: _holds(elsewhere.queue, elsewhere.stream, 3))
    migration.stop.set()
    await running
    told = [each.getMessage() for each in caplog.records if each.name == "streams_queue.migration.moving"]
    assert len(told) == 1
    assert told[0].startswith("The server of the queue forgot the chunks from 1 to ")


async def _is_settled(lists: PlanLists) -> bool:
    return not await lists.raw.exists(f"{lists.source}:on-the-way")


async def test_nothing_leaves_the_source_before_it_is_as_durable_as_asked(
    make_client: MakeClient, make_config: MakeConfig, start_server: StartServer, keys: Keys, namespace: str
) -> None:
    """Without the replica that `durability` asks for, the items stay on the way; with it they are settled."""
    server, lists = start_server(), PlanLists(make_client(from_url := start_server().url), namespace)
    await lists.push(pushed(range(5)))
    config = make_config(redis_url=server.url, durability="replicated", min_replicas=1)
    running = asyncio.create_task(migrate(config, lists.asked(), from_url=from_url))
    await wait_until(lambda: _holds(make_client(server.url), keys.stream, 5))
    assert len(await lists.held(f"{lists.source}:on-the-way")) == 5
    await asyncio.to_thread(start_server, replicaof=server)
    assert (await running).waiting == Tally(found=5, moved=5)
    assert await payloads(make_client(server.url), keys.stream) == pushed(range(5))


# --- what is refused ---


async def test_a_dry_run_says_what_would_be_done_and_changes_nothing(place: Place) -> None:
    """Its report is that of the migration that follows."""
    await place.lists.push([*pushed(range(150)), b"placeholder"])
    await place.lists.take(20)
    before = await place.lists.left_behind()
    asked = place.lists.asked("newest:5")
    would = await preview(load_config(place.config()), asked, from_url=place.from_url)
    assert await place.lists.left_behind() == before
    assert await place.queue.exists(place.stream) == 0
    did = await place.migrate("newest:5")
    assert would == dataclasses.replace(did, dry_run=True)


async def test_a_list_that_is_none_is_refused(place: Place) -> None:
    """With its name; nothing is changed."""
    await place.lists.raw.set(f"{place.lists.source}:set-aside", "precious")
    await place.lists.push(pushed(range(2)))
    with pytest.raises(BackendRejected, match=rf"{place.lists.source}:set-aside holds a string, not a list"):
        await place.migrate()
    assert len(await place.lists.held(place.lists.source)) == 2


async def test_an_unfinished_migration_goes_nowhere_else(here: Place) -> None:
    """Neither into another queue, nor with another mind about the processing list."""
    await here.lists.push(pushed(range(5)))
    await here.migration(here.lists.asked(wait_for_room=0.0), max_size=2).run()
    with pytest.raises(StateError, match="is not finished"):
        await here.migration(here.lists.asked(), name="other").run()
    with pytest.raises(UsageError, match="--processing=aside"):
        await here.migrate("requeue")


@pytest.mark.parametrize("other", ["processing_list", "set_aside", "processing_set_aside"])
async def test_an_unfinished_migration_keeps_to_its_lists(here: Place, other: str) -> None:
    """What was planned for one processing list is not done to another, and what is set aside stays in one place."""
    await here.lists.push(pushed(range(30)))
    await here.lists.take(20)
    await here.migration(here.lists.asked("newest:15", wait_for_room=0.0), max_size=2).run()
    name = f"{here.lists.namespace}:elsewhere"
    await here.lists.raw.lpush(name, *pushed(range(100, 120)))
    asked = dataclasses.replace(here.lists.asked("newest:15"), **{other: name})
    with pytest.raises(UsageError, match=rf"has begun with .*{here.lists.namespace}:processing"):
        await here.migration(asked).run()
    assert await here.lists.raw.llen(name) == 20
    assert (await here.migrate("newest:15")).processing == Tally(found=20, moved=15, set_aside=5)


async def test_a_migration_beside_a_bridge_does_no_harm(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """It ends and its record goes; the bridge goes on, and says that this may be the reason."""
    bridge = place.migration(place.lists.asked("leave", follow=True))
    running = asyncio.create_task(bridge.run())
    await wait_until(lambda: place.lists.raw.exists(f"{place.lists.source}:migration"))
    await place.migrate("leave")
    await place.lists.push(pushed(range(5)))
    await wait_until(lambda: _holds(place.queue, place.stream, 5))
    bridge.stop.set()
    report = await running
    assert (report.record_lost, report.finished, report.waiting.moved) == (True, True, 5)
    assert "another migration of it has ended, or" in caplog.text


async def test_two_migrations_at_once_move_each_event_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if one of them falls behind, between taking a chunk and sending it."""
    look, take, calls = SourceCommands.look, SourceCommands.take, itertools.count()

    async def linger(done: Awaitable[Any]) -> Any:
        reply = await done
        # Each in its own rhythm, so that now the one is ahead and now the other.
        await asyncio.sleep(0.003 * (next(calls) % 5))
        return reply

    monkeypatch.setattr(SourceCommands, "look", lambda *args, **options: linger(look(*args, **options)))
    monkeypatch.setattr(SourceCommands, "take", lambda *args, **options: linger(take(*args, **options)))
    items = pushed(range(3000))
    await place.lists.push(items)
    await asyncio.gather(place.migrate(), place.migrate())
    assert sorted(await place.payloads()) == sorted(items)
    assert not any("may be there twice" in each.getMessage() for each in caplog.records)


async def test_no_memory_left_is_waited_for(
    start_server: StartServer, make_config: MakeConfig, make_client: MakeClient, keys: Keys, namespace: str
) -> None:
    """Nothing is moved meanwhile, and nothing twice."""
    server = start_server()
    lists = PlanLists(make_client(server.url), namespace)
    await lists.push(pushed(range(150)))
    migration = Migration(load_config(make_config(redis_url=server.url)), lists.asked())
    await lists.raw.config_set("maxmemory", "1mb")
    running = asyncio.create_task(migration.run())
    await wait_until(lambda: migration._channel.intake.is_on or migration._channel.outage.is_on)
    assert await lists.raw.llen(lists.source) == 150
    await lists.raw.config_set("maxmemory", "0")
    assert (await running).waiting == Tally(found=150, moved=150)
    assert await payloads(lists.raw, keys.stream) == pushed(range(150))


async def test_equal_items_are_different_events_also_after_a_lost_reply(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that is sent again finds the next ones where it had seen the first; each gets an id of its own."""
    move, lost = SourceCommands.move, []

    async def move_and_lose_the_first_reply(*args: Any) -> Step:
        step = await move(*args)
        if not lost:
            lost.append(step)
            raise BackendUnavailable("the reply is lost")
        return step

    monkeypatch.setattr(SourceCommands, "move", move_and_lose_the_first_reply)
    await here.lists.push(pushed([1]) * 250)
    report = await here.migrate()
    entries = await here.queue.xrange(here.stream)
    assert (len(entries), len({fields[b"id"] for _, fields in entries})) == (250, 250)
    assert report.waiting == Tally(found=250, moved=250)


async def test_connections_that_break_again_and_again_make_no_difference(place: Place, proxy_to: ProxyTo) -> None:
    """Both are cut while 2,000 events move: each arrives once, in order."""
    proxies = [
        proxy_to(SimpleNamespace(port=_port(url)))
        for url in (place.config()["queue"]["redis_url"], place.from_url)
        if url
    ]
    await place.lists.push(pushed(range(2000)))
    settings = load_config(place.config(redis_url=proxies[0].url))
    migration = Migration(settings, place.lists.asked(), from_url=proxies[1].url if place.from_url else None)
    running = asyncio.create_task(migration.run())
    for number in range(200, 2000, 200):
        await wait_until(lambda number=number: _holds(place.queue, place.stream, number))  # type: ignore[misc]
        for each in proxies:
            await asyncio.to_thread(each.cut)
    assert (await running).waiting == Tally(found=2000, moved=2000)
    assert await place.payloads() == pushed(range(2000))


def _port(url: str) -> int:
    return int(urlsplit(url).port or 0)
