"""lua/open and leave: what the first consumer creates, what none of them may share, and what the last one leaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis.exceptions

from tests.support.scripts_alone import GROUP, ME, OTHER, PRODUCER, ScriptsAlone, look

pytestmark = pytest.mark.integration


@pytest.fixture
def alone(alone: ScriptsAlone) -> Iterator[ScriptsAlone]:
    """The scripts on a queue that nobody has opened yet."""
    alone.raw.delete(*(alone.key(name) for name in ("stream", "delayed", "dead", "stats")))
    return alone


def groups(alone: ScriptsAlone) -> list[tuple[bytes, bytes]]:
    """Return name and last delivered id of the stream's groups."""
    return [(group["name"], group["last-delivered-id"]) for group in alone.raw.xinfo_groups(alone.keys.stream)]


def test_the_first_one_creates_stream_group_and_schema(alone: ScriptsAlone) -> None:
    """The group begins at the beginning."""
    assert alone.open() == [0, 0, 1, b"first"]

    assert groups(alone) == [(GROUP.encode(), b"0-0")]
    assert alone.raw.hgetall(alone.keys.stats) == {b"schema": b"1", b"lifetime": b"first"}
    assert set(alone.dump()) == {alone.keys.stream, alone.keys.stats}


def test_the_second_one_changes_nothing(alone: ScriptsAlone) -> None:
    """It learns how many events are held, in the stream and delayed."""
    alone.open()
    alone.enqueue("a", "b")
    alone.delay("c", 1)
    before = alone.dump()

    assert alone.open(knows="first", new="second") == [0, 3, 1, b"first"]
    assert alone.open(new="third") == [0, 3, 1, b"first"]
    assert alone.dump() == before


def test_a_new_client_that_finds_no_group_is_simply_the_first(alone: ScriptsAlone) -> None:
    """Also if there are events: their producers came before it."""
    alone.raw.xadd(alone.keys.stream, {"id": "a"})

    assert alone.open() == [0, 1, 1, b"first"]
    assert groups(alone) == [(GROUP.encode(), b"0-0")]
    assert alone.totals() == {}


@pytest.mark.parametrize("by_a_new_client", [False, True])
def test_the_first_who_knew_an_earlier_group_counts_the_loss(by_a_new_client: bool, alone: ScriptsAlone) -> None:
    """Whoever made the new one; with what is missing, as far as that client knew. The others are not told again."""
    alone.open(new="before")
    alone.raw.delete(alone.keys.stream, alone.keys.stats)
    if by_a_new_client:
        alone.open(new="after")
    alone.enqueue("a")

    assert alone.open(knows="before", new="after", held=5) == [1, 1, 1, b"after"]
    assert alone.open(knows="before", new="other", held=7) == [0, 1, 1, b"after"]
    assert alone.totals() == {"enqueued": 1, "state_lost": 1, "lost": 4}


def test_a_loss_is_told_again_to_whom_the_reply_did_not_reach(alone: ScriptsAlone) -> None:
    """And counted once. The next loss is a new one."""
    alone.open(new="before")
    for number, name in enumerate(("after", "later"), 1):
        alone.raw.xgroup_destroy(alone.keys.stream, GROUP)
        assert alone.open(knows="before", new=name) == [1, 0, 1, name.encode()]
        assert alone.open(knows="before", new=name) == [1, 0, 1, name.encode()]
        assert alone.totals() == {"state_lost": number}


def test_figures_that_were_lost_alone_are_no_loss_of_events(alone: ScriptsAlone) -> None:
    """Evicted, or the group of an older release: the group goes on under the name that the client knows."""
    alone.open(new="before")
    alone.raw.delete(alone.keys.stats)

    assert alone.open(knows="before", new="after", held=3) == [0, 0, 1, b"before"]
    assert alone.open(new="other") == [0, 0, 1, b"before"]
    assert alone.totals() == {}


def test_an_older_schema_is_kept(alone: ScriptsAlone) -> None:
    """A newer release shares the queue and does not lift its schema by itself."""
    alone.open(schema=1)

    assert alone.open(schema=2) == [0, 0, 1, b"first"]
    assert alone.raw.hget(alone.keys.stats, "schema") == b"1"


def test_a_newer_schema_is_refused_and_nothing_created(alone: ScriptsAlone) -> None:
    """The error names both schemas."""
    alone.raw.hset(alone.keys.stats, "schema", "3")
    before = alone.dump()

    with pytest.raises(redis.exceptions.ResponseError, match=r"SCHEMA .* 3; this release knows up to 2"):
        alone.open(schema=2)
    assert alone.dump() == before


@pytest.mark.parametrize("other", ["auditors", "zebra"])
@pytest.mark.parametrize("ours_too", [True, False])
def test_another_group_is_refused_wherever_it_is_listed(other: str, ours_too: bool, alone: ScriptsAlone) -> None:
    """Each group acknowledges by deleting; the error names the other one, and nothing is created."""
    if ours_too:
        alone.open()
    alone.raw.xgroup_create(alone.keys.stream, other, id="0", mkstream=True)
    before = alone.dump()

    with pytest.raises(redis.exceptions.ResponseError, match=f"OTHERGROUP .*{other}"):
        alone.open()
    assert alone.dump() == before


@pytest.mark.parametrize("key", ["stream", "delayed", "dead", "stats"])
def test_a_key_of_another_type_is_named(key: str, alone: ScriptsAlone) -> None:
    """An operator learns which key it is, what it holds and what it should hold."""
    alone.raw.set(alone.key(key), "somebody else's")

    with pytest.raises(redis.exceptions.ResponseError) as refused:
        alone.open()

    wanted = {"stream": "stream", "delayed": "zset", "dead": "stream", "stats": "hash"}[key]
    assert f"WRONGTYPE the key {alone.key(key)} holds a string, not a {wanted}" in str(refused.value)


def test_leaving_takes_the_consumer_and_its_producer_along(alone: ScriptsAlone) -> None:
    """Other consumers, and all events, stay."""
    alone.open()
    alone.enqueue("a", "b")
    (entry_id,) = alone.read(1)
    alone.read(1, OTHER)
    alone.run("ack", GROUP, entry_id)

    assert alone.run("leave", GROUP, ME) == 1

    assert alone.consumers() == {OTHER}
    assert not alone.raw.exists(f"{alone.keys.stream}:producer:{PRODUCER}")
    assert alone.look() == look("", [("b", OTHER, 1)], enqueued=2, acked=1)


def test_a_consumer_that_holds_events_is_not_removed(alone: ScriptsAlone) -> None:
    """DELCONSUMER would take its pending entries along: they would count as held and never come again."""
    alone.open()
    alone.enqueue("a")
    alone.read(1)

    assert alone.run("leave", GROUP, ME) == 0
    assert alone.look() == look("", [("a", ME, 1)], enqueued=1)
    assert alone.consumers() == {ME}


def test_leaving_a_queue_that_is_gone_is_no_error(alone: ScriptsAlone) -> None:
    """Nothing is created again."""
    assert alone.run("leave", GROUP, ME) == 1
    assert alone.dump() == {}
