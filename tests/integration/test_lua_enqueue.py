"""lua/enqueue.lua: once, exactly bounded, in the order of its checks; the whole state after each call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripts_alone import DAY_MS, ME, PRODUCER, ScriptsAlone, look

pytestmark = pytest.mark.integration


def words(reply: list[bytes]) -> list[str]:
    """Return what became of each event, entry ids as `+`."""
    return ["+" if "-" in word else word for word in reply[2].decode().split()]


def test_a_batch_is_added_in_order_with_its_fields(alone: ScriptsAlone) -> None:
    """The reply names status, what is held, an entry id per event, and that nothing was known of the producer."""
    status, held, results, stored = alone.enqueue("a", "b")

    assert (status, held, stored) == (b"ok", 2, -1)
    assert results.decode().split() == [entry_id.decode() for entry_id, _ in alone.raw.xrange(alone.keys.stream)]
    assert alone.fields("a") == {"id": b"a", "payload": b'{"n": "a"}', "meta": b'{"v":1}'}
    assert list(alone.fields("a")) == ["id", "payload", "meta"]
    assert alone.look() == look("a b", enqueued=2)


def test_the_same_batch_again_gets_the_same_answer_and_writes_nothing(alone: ScriptsAlone) -> None:
    """However often a batch arrives, its events are there once."""
    first = alone.enqueue("a", "b", sequence=1)
    before = alone.dump()

    assert alone.enqueue("a", "b", sequence=1) == [b"replayed", -1, first[2], 1]
    assert alone.dump() == before


def test_a_replay_is_a_write(alone: ScriptsAlone) -> None:
    """WAIT is about what its connection has written, which may be nothing else; the record lives on for it."""
    alone.enqueue("a", sequence=1)
    alone.raw.pexpire(alone.key("producer"), 1000)

    alone.enqueue("a", sequence=1)

    assert alone.raw.pttl(alone.key("producer")) > DAY_MS / 2


@pytest.mark.parametrize("others", [("x", "b"), ("a",), ("a", "b", "c")])
def test_another_batch_under_the_same_number_is_an_error(alone: ScriptsAlone, others: tuple[str, ...]) -> None:
    """The reply of one batch is never given for another, told apart by its first event and its size."""
    alone.enqueue("a", "b", sequence=1)
    before = alone.dump()

    assert alone.enqueue(*others, sequence=1) == [b"mismatch", -1, b"", 1]
    assert alone.dump() == before


def test_a_late_copy_of_an_older_batch_is_refused(alone: ScriptsAlone) -> None:
    """Whoever gave it up or sent it again has moved on."""
    alone.enqueue("a", sequence=1)
    alone.enqueue("b", sequence=2)
    before = alone.dump()

    assert alone.enqueue("a", sequence=1) == [b"stale", -1, b"", 2]
    assert alone.dump() == before


def test_a_batch_on_the_way_with_others_waits_for_those_before_it(alone: ScriptsAlone) -> None:
    """One that was refused, with no memory left for instance, is not overtaken; once it is there, the next may come."""
    alone.enqueue("a", sequence=1)
    before = alone.dump()

    assert alone.enqueue("c", sequence=3, settled=1) == [b"gap", -1, b"", 1]
    assert alone.dump() == before

    assert alone.enqueue("b", sequence=2, settled=1)[0] == b"ok"
    assert alone.enqueue("c", sequence=3, settled=1)[0] == b"ok"
    assert alone.look() == look("a b c", enqueued=3)


def test_a_batch_whose_predecessor_was_given_up_does_not_wait(alone: ScriptsAlone) -> None:
    """Nobody will ever send that one again."""
    alone.enqueue("a", sequence=1)

    assert alone.enqueue("c", sequence=3, settled=2)[0] == b"ok"


def test_every_batch_on_the_way_can_be_sent_again(alone: ScriptsAlone) -> None:
    """In any order, as often as need be: each gets its own answer; one under the number of another gets none."""
    replies = {n: alone.enqueue(f"a{n}", f"b\n{n}", sequence=n, settled=0) for n in (1, 2, 3)}
    before = alone.dump()

    for n in (3, 1, 2, 1):
        assert alone.enqueue(f"a{n}", f"b\n{n}", sequence=n) == [b"replayed", -1, replies[n][2], 3]
    assert alone.enqueue("a1", "x", "y", sequence=2) == [b"mismatch", -1, b"", 3]
    assert alone.dump() == before


def test_what_is_settled_is_forgotten(alone: ScriptsAlone) -> None:
    """The record of a producer stays small: nobody asks for it any more."""
    for n in (1, 2, 3):
        alone.enqueue(f"event-{n}", sequence=n, settled=0)

    alone.enqueue("event-4", sequence=4, settled=2)

    kept = alone.raw.get(alone.key("producer"))
    assert [name in kept for name in (b"event-1", b"event-2", b"event-3", b"event-4")] == [False, False, True, True]
    assert alone.enqueue("event-2", sequence=2) == [b"stale", -1, b"", 4]


@pytest.mark.parametrize("first", ["a\nb", "7\n1\n1-1\n1\na", "ü" * 10, ""])
def test_an_event_id_may_look_like_a_record(alone: ScriptsAlone, first: str) -> None:
    """Its length goes before it."""
    one = alone.enqueue(first, sequence=1)
    two = alone.enqueue(first, sequence=2, settled=0)

    assert alone.enqueue(first, sequence=1) == [b"replayed", -1, one[2], 2]
    assert alone.enqueue(first, sequence=2) == [b"replayed", -1, two[2], 2]


def test_the_next_batch_is_told_what_was_known_before(alone: ScriptsAlone) -> None:
    """A producer learns from it whether a failover forgot batches that it had confirmed."""
    alone.enqueue("a", sequence=4)

    assert alone.enqueue("b", sequence=7)[3] == 4
    assert alone.raw.get(alone.key("producer")).split(b"\n")[0] == b"7"


def test_the_record_of_a_producer_lives_a_day_from_its_last_batch(alone: ScriptsAlone) -> None:
    """Each batch sets its time to live anew."""
    alone.enqueue("a")
    alone.raw.pexpire(alone.key("producer"), 1000)

    alone.enqueue("b")

    assert DAY_MS - 60_000 < alone.raw.pttl(alone.key("producer")) <= DAY_MS


@pytest.mark.parametrize("refused", [{"max_size": 0}, {"specials": "1,,known;", "buckets": ["1"]}])
def test_a_batch_of_which_nothing_was_accepted_is_recorded_too(alone: ScriptsAlone, refused: dict[str, Any]) -> None:
    """Its late copy must not be accepted when there is room again: the producer was told no."""
    alone.raw.sadd(alone.bucket("1"), "known")
    alone.enqueue("a", sequence=1, **refused)

    assert alone.enqueue("a", sequence=1)[0] == b"replayed"
    assert alone.look().waiting == ()


def test_max_size_bounds_waiting_in_flight_and_delayed_exactly(alone: ScriptsAlone) -> None:
    """Two held in different states leave room for one of three; the refused ones are counted."""
    alone.enqueue("a", "b")
    alone.read(1)
    alone.delay("later", alone.now_ms() + 60_000)

    reply = alone.enqueue("c", "d", "e", max_size=4)

    assert words(reply) == ["+", "F", "F"]
    assert reply[1] == 4
    assert alone.look() == look("b c", [("a", ME, 1)], "later", enqueued=3, rejected=2)


def test_who_waits_for_room_is_not_counted_as_refused(alone: ScriptsAlone) -> None:
    """With `block` the producer tries again and counts when it gives up."""
    assert words(alone.enqueue("a", "b", max_size=1, overflow="block")) == ["+", "F"]
    assert alone.look() == look("a", enqueued=1)


def test_a_delayed_event_is_due_by_the_servers_time(alone: ScriptsAlone) -> None:
    """It waits in the sorted set with all its fields, under a prefix that no other event has."""
    before = alone.now_ms()
    reply = alone.enqueue("a", "b", "a", specials="1,5000,;3,5000,;")
    after = alone.now_ms()

    assert words(reply) == ["L", "+", "L"]
    assert alone.look() == look("b", delayed="a a", enqueued=3)
    (first, fields), (second, _) = alone.delayed()
    assert before + 5000 <= first == second <= after + 5000
    assert fields == {"id": b"a", "payload": b'{"n": "a"}', "meta": b'{"v":1}'}
    members = alone.raw.zrange(alone.keys.delayed, 0, -1)
    assert f"{PRODUCER}-1-1".encode() in members[0]
    assert f"{PRODUCER}-1-3".encode() in members[1]


def test_delayed_events_need_room_as_others_do(alone: ScriptsAlone) -> None:
    """The second one does not fit."""
    assert words(alone.enqueue("a", "b", max_size=1, specials="1,5000,;2,5000,;")) == ["L", "F"]
    assert alone.look() == look(delayed="a", enqueued=1, rejected=1)


def test_an_event_id_is_looked_for_in_all_buckets_and_kept_in_the_first(alone: ScriptsAlone) -> None:
    """A duplicate is counted and adds nothing, whichever slice of the window knows it, also within one batch."""
    alone.raw.sadd(alone.bucket("older"), "known")
    reply = alone.enqueue(
        "a", "b", "c", "d", specials="1,,known;2,,new;3,,new;4,,late;", buckets=["current", "next", "older"]
    )

    assert words(reply) == ["D", "+", "D", "+"]
    assert alone.raw.smembers(alone.bucket("current")) == {b"new", b"late"}
    assert alone.raw.smembers(alone.bucket("older")) == {b"known"}
    assert alone.look() == look("b d", enqueued=2, duplicates=2)


def test_a_bucket_lives_as_long_as_it_is_asked_to(alone: ScriptsAlone) -> None:
    """Every batch with an event id renews the current bucket, which holds the newest id."""
    alone.enqueue("a", specials="1,,one;", buckets=["1"], dedup_ttl_ms=1_000)
    alone.enqueue("b", specials="1,,two;", buckets=["1"], dedup_ttl_ms=90_000)

    assert 60_000 < alone.raw.pttl(alone.bucket("1")) <= 90_000


def test_the_id_of_an_event_that_was_refused_is_not_kept(alone: ScriptsAlone) -> None:
    """It may come again when there is room, under the same id."""
    assert words(alone.enqueue("a", max_size=0, specials="1,,one;", buckets=["1"])) == ["F"]
    assert not alone.raw.exists(alone.bucket("1"))
    assert words(alone.enqueue("a", specials="1,,one;", buckets=["1"])) == ["+"]


def test_a_delayed_event_keeps_its_id_too(alone: ScriptsAlone) -> None:
    """Delay and event id may be given together."""
    assert words(alone.enqueue("a", specials="1,5000,one;", buckets=["1"])) == ["L"]
    assert words(alone.enqueue("a", specials="1,5000,one;", buckets=["1"])) == ["D"]


def test_a_duplicate_is_told_before_fullness_and_pause(alone: ScriptsAlone) -> None:
    """The stored answer comes first, then what is known, then the pause, then room."""
    alone.raw.sadd(alone.bucket("1"), "known")
    alone.raw.hset(alone.keys.stats, "paused", "delivery,intake")

    reply = alone.enqueue("a", "b", max_size=0, specials="1,,known;", buckets=["1"])

    assert words(reply) == ["D", "P"]
    assert alone.look() == look(duplicates=1)


def test_only_a_paused_intake_refuses(alone: ScriptsAlone) -> None:
    """A pause of the handing-out is no concern of producers."""
    alone.raw.hset(alone.keys.stats, "paused", "delivery")
    assert words(alone.enqueue("a")) == ["+"]


def test_drop_oldest_buries_the_oldest_waiting_and_only_those(alone: ScriptsAlone) -> None:
    """What is in flight or delayed stays; the dropped ones can be read and replayed with all that they were."""
    alone.enqueue("held", "old", "older-retry", "young", meta='{"v":1,"d":2,"x":"kept"}')
    alone.read(1)
    alone.delay("later", alone.now_ms() + 60_000)
    entry_id = alone.raw.xrange(alone.keys.stream)[1][0]

    reply = alone.enqueue("new", "newer", max_size=5, overflow="drop_oldest")

    assert words(reply) == ["+", "+"]
    assert reply[1] == 5
    assert alone.look() == look(
        "young new newer",
        [("held", ME, 1)],
        "later",
        [("old", "overflow"), ("older-retry", "overflow")],
        enqueued=6,
        died=2,
    )
    letter = alone.fields("old", "dead")
    assert list(letter)[3:] == ["reason", "error", "deliveries", "enqueued_ms", "died_ms"]
    assert json.loads(letter["meta"]) == {"v": 1, "d": 2, "x": "kept"}
    assert (letter["deliveries"], letter["error"]) == (b"2", b"")
    assert letter["enqueued_ms"] == entry_id.split(b"-")[0]
    assert abs(int(letter["died_ms"]) - alone.now_ms()) < 10_000


def test_drop_oldest_refuses_when_all_events_are_held(alone: ScriptsAlone) -> None:
    """Nothing in flight is ever dropped to make room."""
    alone.enqueue("a", "b")
    alone.read(2)

    assert words(alone.enqueue("c", max_size=2, overflow="drop_oldest")) == ["F"]
    assert alone.look() == look("", [("a", ME, 1), ("b", ME, 1)], enqueued=2, rejected=1)


def test_drop_oldest_with_nothing_allowed_drops_nothing(alone: ScriptsAlone) -> None:
    """A max_size of 0 refuses everything, and what is there stays."""
    alone.enqueue("a")

    assert words(alone.enqueue("b", max_size=0, overflow="drop_oldest")) == ["F"]
    assert alone.look() == look("a", enqueued=1, rejected=1)


def test_drop_oldest_shrinks_to_a_smaller_max_size(alone: ScriptsAlone) -> None:
    """max_size may be lowered at any time: as many as needed go, in order."""
    alone.enqueue("a", "b", "c")

    assert alone.enqueue("d", max_size=2, overflow="drop_oldest")[1] == 2
    assert alone.look() == look("c d", dead=[("a", "overflow"), ("b", "overflow")], enqueued=4, died=2)


def test_drop_oldest_refuses_when_the_dead_letters_are_full(alone: ScriptsAlone) -> None:
    """Without a place for the dropped event nothing is dropped: no event goes without a trace."""
    alone.bury("x", "y")
    alone.enqueue("a")

    assert words(alone.enqueue("b", max_size=1, overflow="drop_oldest", dead_max=2)) == ["F"]
    assert alone.look() == look("a", dead=[("x", "rejected"), ("y", "rejected")], enqueued=1, rejected=1)


def test_drop_oldest_uses_the_last_place_of_the_dead_letters(alone: ScriptsAlone) -> None:
    """The first event that needs it gets it, the second is refused."""
    alone.bury("x")
    alone.enqueue("a", "b")

    assert words(alone.enqueue("c", "d", max_size=2, overflow="drop_oldest", dead_max=2)) == ["+", "F"]
    dead = [("x", "rejected"), ("a", "overflow")]
    assert alone.look() == look("b c", dead=dead, enqueued=3, rejected=1, died=1)


def test_full_dead_letters_may_make_room_themselves(alone: ScriptsAlone) -> None:
    """With `drop` the oldest dead letter goes, exactly one, and is counted."""
    alone.bury("x", "y")
    alone.enqueue("a")

    alone.enqueue("b", max_size=1, overflow="drop_oldest", dead_max=2, when_full="drop")

    dead = [("y", "rejected"), ("a", "overflow")]
    assert alone.look() == look("b", dead=dead, enqueued=2, died=1, dropped=1)


def test_dead_letters_that_have_room_drop_nothing(alone: ScriptsAlone) -> None:
    """`drop` counts only what it deleted."""
    alone.bury("x")
    alone.enqueue("a")

    alone.enqueue("b", max_size=1, overflow="drop_oldest", dead_max=2, when_full="drop")

    dead = [("x", "rejected"), ("a", "overflow")]
    assert alone.look() == look("b", dead=dead, enqueued=2, died=1)
    assert alone.stat("dropped") is None


def test_dead_letters_of_size_zero_refuse_even_when_they_may_drop(alone: ScriptsAlone) -> None:
    """Where no dead letter may be kept, none is made, and nothing is lost."""
    alone.enqueue("a")

    reply = alone.enqueue("b", max_size=1, overflow="drop_oldest", dead_max=0, when_full="drop")

    assert words(reply) == ["F"]
    assert alone.look() == look("a", enqueued=1, rejected=1)


def test_the_group_may_be_gone(alone: ScriptsAlone) -> None:
    """A producer needs no group: without one every event waits, and the oldest can be dropped."""
    alone.enqueue("a")
    alone.raw.xgroup_destroy(alone.keys.stream, alone.keys.group)

    assert words(alone.enqueue("b", max_size=1, overflow="drop_oldest")) == ["+"]
    assert [fields[b"id"] for _, fields in alone.raw.xrange(alone.keys.stream)] == [b"b"]
