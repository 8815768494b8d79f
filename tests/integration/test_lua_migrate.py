"""The scripts of the migration alone: what they do when a key is not what it was, and with no memory left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from streams_queue.redis_client import script
from tests.support.builders import Keys
from tests.support.servers import RedisServer, chosen_flavour, require_binary

pytestmark = pytest.mark.integration

LIST, PROCESSING, RECORD, ASIDE, PROCESSING_ASIDE, STAGING = (
    "list",
    "processing",
    "record",
    "aside",
    "p-aside",
    "staging",
)
QUEUE = Keys("ns")
ITEM = b'{"n": 1}'
MOVE_KEYS = (LIST, RECORD, ASIDE, QUEUE.stream, QUEUE.delayed, QUEUE.stats)
MOVE = ("migrate_move", MOVE_KEYS, ("waiting", 10, ITEM, "", "id", "{}", "", b"x", "undecodable", "", "", ""))
SET_ASIDE = ("migrate_aside", (PROCESSING, RECORD, PROCESSING_ASIDE), (10, 1000))
TAKE = ("migrate_take", (LIST, RECORD, STAGING), ("waiting", 10, 1000, "", "", ""))
SETTLE = ("migrate_settle", (STAGING, RECORD, ASIDE), ("first", 1, ".", "undecodable"))
Call = tuple[str, Sequence[str], Sequence[Any]]


class Server:
    """One server with lists, and a migration of them that has begun."""

    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port)
        self.client.flushall()
        self.client.rpush(LIST, b"x", ITEM)
        self.client.rpush(PROCESSING, b"y", b"z")
        self.begin()

    def begin(self) -> Any:
        """Begin the migration `first`, or go on with what has begun."""
        return self.run(
            "migrate_begin", (LIST, PROCESSING, RECORD, ASIDE, PROCESSING_ASIDE, STAGING), ("first", "q", "aside", 0)
        )

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script."""
        return self.client.eval(script(name).source, len(keys), *keys, *args)

    def everything(self) -> dict[bytes, bytes | None]:
        """Return all that is on the server."""
        return {key: self.client.dump(key) for key in self.client.scan_iter()}


@pytest.fixture(scope="module")
def alone() -> Iterator[RedisServer]:
    """A server that only these tests use, one after the other."""
    server = RedisServer(require_binary(chosen_flavour()))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(alone: RedisServer) -> Server:
    """The same, empty but for a migration."""
    return Server(alone.port)


@pytest.mark.parametrize(
    ("call", "key"),
    [(call, key) for call in (MOVE, SET_ASIDE, TAKE, SETTLE) for key in call[1]],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_key_that_holds_something_else_stops_a_script_before_it_writes(server: Server, call: Call, key: str) -> None:
    """A script does not roll back: what it would find out half-way it has to find out at first."""
    if call is SETTLE:
        server.run(*TAKE)
    server.client.delete(key)
    server.client.set(key, "something else")
    before = server.everything()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        server.run(*call)
    assert server.everything() == before


@pytest.mark.parametrize("call", [MOVE, SET_ASIDE, TAKE, SETTLE], ids=lambda call: call[0])
def test_without_a_record_nothing_is_done(server: Server, call: Call) -> None:
    """The server has lost it, and perhaps more."""
    server.client.delete(RECORD)
    before = server.everything()
    assert server.run(*call)[0] == b"lost"
    assert server.everything() == before


@pytest.mark.parametrize("call", [SET_ASIDE, TAKE, SETTLE], ids=lambda call: call[0])
def test_what_only_hands_items_on_is_not_refused_for_memory(server: Server, call: Call) -> None:
    """A server that is full is a good reason to leave it."""
    if call is SETTLE:
        server.run(*TAKE)
    server.client.config_set("maxmemory", 1)
    server.begin()
    assert server.run(*call)[0] == b"ok"
    server.client.config_set("maxmemory", 0)
    held = {key: server.client.lrange(key, 0, -1) for key in (LIST, PROCESSING, ASIDE, PROCESSING_ASIDE, STAGING)}
    assert {key: items for key, items in held.items() if items} == {
        "migrate_aside": {LIST: [b"x", ITEM], PROCESSING_ASIDE: [b"y", b"z"]},
        "migrate_take": {PROCESSING: [b"y", b"z"], STAGING: [b"x", ITEM]},
        "migrate_settle": {PROCESSING: [b"y", b"z"], ASIDE: [b"x"]},
    }[call[0]]


def test_a_move_is_refused_for_memory_as_a_whole(server: Server) -> None:
    """Entries need more than items."""
    before = server.everything()
    server.client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        server.run(*MOVE)
    server.client.config_set("maxmemory", 0)
    assert server.everything() == before


def test_an_item_that_is_not_where_it_was_seen_ends_the_move(server: Server) -> None:
    """Old consumers have taken it, or another migration has; nothing else is moved in its place."""
    server.client.rpush(LIST, b"other")
    before = server.everything()
    assert server.run(*MOVE) == [b"changed", 0, 0, 0]
    assert server.everything() == before
    assert server.client.rpop(LIST) == b"other"
    assert server.run(*MOVE) == [b"ok", 1, 1, 0]
    assert server.run(*MOVE) == [b"changed", 0, 0, 0]
    assert [fields[b"payload"] for _, fields in server.client.xrange(QUEUE.stream)] == [ITEM]
    assert server.client.lrange(ASIDE, 0, -1) == [b"x"]


def test_a_chunk_is_settled_once(server: Server) -> None:
    """A second time it is known by its sequence; the next chunk has the next one."""
    assert server.run(*TAKE) == server.run(*TAKE) == [b"ok", b"first", 1, b"waiting", [ITEM, b"x"], 0]
    assert server.run(*SETTLE) == [b"ok", 1, 1]
    assert server.run(*SETTLE) == [b"settled", 0, 0]
    server.client.rpush(LIST, b"next")
    assert server.run(*TAKE) == [b"ok", b"first", 2, b"waiting", [b"next"], 0]
    assert server.run(*SETTLE) == [b"settled", 0, 0]


def test_a_producer_is_given_up_once(server: Server) -> None:
    """Who comes late with the old one changes nothing."""
    server.run(*TAKE)
    assert server.run("migrate_take", TAKE[1], ("waiting", 0, 1000, "first", "second", 7))[1:3] == [b"first", 1]
    give_up = ("waiting", 0, 1000, "first", "second", 1)
    assert server.run("migrate_take", TAKE[1], give_up)[1:3] == [b"second", 1]
    server.client.hset(RECORD, "sequence", 5)
    assert server.run("migrate_take", TAKE[1], give_up)[1:3] == [b"second", 5]


def test_what_is_left_of_a_lost_record_is_not_taken_over(server: Server) -> None:
    """Such as a note that came after the loss; what is on the way counts as found."""
    server.run(*TAKE)
    server.client.delete(RECORD)
    server.client.hset(RECORD, "exported", 1)
    flat, waiting, _, staged = server.begin()
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    assert (record[b"waiting_found"], record[b"staged"], waiting, staged) == (b"2", b"waiting", 0, 2)
    assert b"exported" not in record


def test_what_is_delayed_counts_towards_a_full_queue(server: Server) -> None:
    """As for enqueue."""
    server.client.zadd(QUEUE.delayed, {f"{n}": n for n in range(10)})
    assert server.run(*MOVE) == [b"full", 0, 0, 0]


def test_others_who_take_from_the_processing_list_end_the_plan(server: Server) -> None:
    """There is no more to set aside, now or later."""
    server.client.rpop(PROCESSING)
    assert server.run(*SET_ASIDE) == [b"ok", 1, 0]
    assert server.client.hget(RECORD, "aside_left") == b"0"


def test_what_was_planned_is_not_exceeded(server: Server) -> None:
    """Neither by what is set aside nor by what is requeued, whatever is added meanwhile, or taken."""
    server.client.lpush(PROCESSING, b"later")
    assert server.run(*SET_ASIDE) == [b"ok", 2, 0]
    assert server.run(*SET_ASIDE) == [b"ok", 0, 0]
    assert server.client.lrange(PROCESSING, 0, -1) == [b"later"]
    server.client.hset(RECORD, mapping={"aside_left": 5, "requeue_left": 1})
    server.client.rpush(PROCESSING, b"x", ITEM)
    assert server.run("migrate_move", (PROCESSING, *MOVE_KEYS[1:]), ("processing", *MOVE[2][1:])) == [b"ok", 1, 0, 0]
    assert server.run(*SET_ASIDE) == [b"ok", 2, 0]
    assert server.client.hmget(RECORD, "processing_moved", "processing_aside", "processing_others") == [
        b"1",
        b"4",
        b"3",
    ]


@pytest.mark.parametrize(
    ("args", "items"),
    [
        ((0, 100, 1), [b"0"]),
        ((0, 3, 1000), [b"0", b"1", b"2"]),
        ((0, 100, 15), [b"%d" % n for n in range(13)]),
        ((18, 100, 1000), [b"18", b"19"]),
        ((20, 100, 1000), []),
    ],
)
def test_a_look_ends_where_it_is_told_to(server: Server, args: tuple[int, ...], items: list[bytes]) -> None:
    """At so many items, or when they have so many bytes; one it returns in any case."""
    server.client.lpush("numbers", *range(20))
    assert server.run("migrate_look", ("numbers",), args) == items
