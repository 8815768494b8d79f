"""lua/peek, in_flight, purge, purge_dead, redrive and stats: the operator's verbs, with the whole state after each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripts_alone import GROUP, ME, OTHER, ScriptsAlone, look

pytestmark = pytest.mark.integration


def ids(entries: list[Any]) -> list[bytes]:
    """Return the event ids of entries as scripts return them."""
    return [fields[1] for _, fields in entries]


def everywhere(alone: ScriptsAlone) -> None:
    """Make one event in flight, two waiting, two delayed."""
    alone.enqueue("held", "a", "b")
    alone.read(1)
    alone.delay("later", alone.now_ms() + 60_000)
    alone.delay("due", 1234)


# --- peek ---


@pytest.mark.parametrize(
    ("limit", "waiting", "delayed"),
    [(1, "a", ""), (2, "a b", ""), (3, "a b", "due"), (9, "a b", "due later")],
)
def test_peek_shows_what_comes_next(limit: int, waiting: str, delayed: str, alone: ScriptsAlone) -> None:
    """Waiting events first, then the delayed ones by due time, as many as asked for; nothing is taken."""
    everywhere(alone)
    before = alone.dump()

    found, later = alone.run("peek", GROUP, limit)

    assert ids(found) == waiting.encode().split()
    assert ids(later) == delayed.encode().split()
    assert not delayed or later[0][0] == b"1234"
    assert alone.dump() == before


def test_peek_shows_a_member_that_nobody_of_ours_wrote(alone: ScriptsAlone) -> None:
    """As a payload that cannot be read, so that an operator sees that it is there."""
    alone.raw.zadd(alone.keys.delayed, {b"\xff not ours": 5})
    assert alone.run("peek", GROUP, 10) == [[], [[b"5", [b"payload", b"\xff not ours"]]]]


def test_peek_at_a_queue_that_was_never_used(alone: ScriptsAlone) -> None:
    """No stream, no group: nothing to see, and no error."""
    alone.raw.delete(alone.keys.stream)
    assert alone.run("peek", GROUP, 10) == [[], []]


# --- in_flight ---


@pytest.mark.parametrize(
    ("first", "limit", "found"),
    [(0, 9, "a b c"), (0, 2, "a b"), (1, 9, "b c"), (2, 1, "c")],
)
def test_in_flight_shows_who_holds_what(first: int, limit: int, found: str, alone: ScriptsAlone) -> None:
    """All consumers, and entries from a given one on with their holder, times and counts; nothing is renewed."""
    alone.enqueue("a", "b", "c", "waits")
    held = [*alone.read(2), *alone.read(1, OTHER)]
    alone.raw.xgroup_createconsumer(alone.keys.stream, GROUP, "rests")
    alone.claim(held[1], ME, idle_ms=60_000, count=3)
    before, dump = alone.now_ms(), alone.dump()

    now, consumers, entries = alone.run("in_flight", GROUP, held[first] if first else "-", limit, 0)

    assert before <= now <= alone.now_ms()
    assert sorted((name, pending) for name, pending, _ in consumers) == [(b"me", 2), (b"other", 1), (b"rests", 0)]
    assert all(0 <= idle < 60_000 for _, _, idle in consumers)
    assert [fields[1] for *_, fields in entries] == found.encode().split()
    holders = {b"a": (b"me", 1), b"b": (b"me", 3), b"c": (b"other", 1)}
    for entry_id, name, idle, count, fields in entries:
        assert fields == [b"id", fields[1], b"meta", b'{"v":1}']
        assert (name, count) == holders[fields[1]]
        assert entry_id.decode() == held["abc".index(fields[1].decode())]
        assert (idle >= 60_000) is (fields[1] == b"b")
    assert alone.dump() == dump


def test_in_flight_brings_payloads_where_they_are_asked_for(alone: ScriptsAlone) -> None:
    """All fields then, in their order; none for an entry that was deleted behind the queue's back."""
    alone.enqueue("a", "b")
    _, gone = alone.read(2)
    alone.raw.xdel(alone.keys.stream, gone)
    _, _, entries = alone.run("in_flight", GROUP, "-", 9, 1)
    assert entries[0][4] == [b"id", b"a", b"payload", b'{"n": "a"}', b"meta", b'{"v":1}']
    assert (entries[1][0].decode(), entries[1][4]) == (gone, [])


@pytest.mark.parametrize("group", [GROUP, "nobody"])
def test_in_flight_without_a_group(group: str, alone: ScriptsAlone) -> None:
    """No stream, or no group of ours: nobody holds anything, and no error."""
    if group == GROUP:
        alone.raw.delete(alone.keys.stream)
    assert alone.run("in_flight", group, "-", 9, 1)[1:] == [[], []]


# --- purge ---


def test_purge_buries_what_waits_and_what_is_delayed(alone: ScriptsAlone) -> None:
    """Events in flight stay; the purged ones keep their fields, deliveries and time of arrival."""
    alone.enqueue("held", "a", meta='{"v":1,"d":2}')
    alone.read(1)
    alone.delay("later", alone.now_ms() + 60_000, meta='{"v":1,"d":1}')
    (entry_id,) = [each for each, _ in alone.raw.xrange(alone.keys.stream)][1:]
    before = alone.now_ms()

    assert alone.run("purge", GROUP, 100, 100, "refuse") == [2, 0]

    dead = [("a", "purged"), ("later", "purged")]
    assert alone.look() == look("", [("held", ME, 1)], dead=dead, enqueued=2, died=2, purged=2)
    letter, delayed = alone.fields("a", "dead"), alone.fields("later", "dead")
    assert (letter["deliveries"], letter["enqueued_ms"]) == (b"2", entry_id.split(b"-")[0])
    assert (letter["meta"], letter["error"]) == (b'{"v":1,"d":2}', b"")
    assert delayed["deliveries"] == b"1"
    assert before <= int(delayed["enqueued_ms"]) <= int(delayed["died_ms"]) <= alone.now_ms()


@pytest.mark.parametrize(
    ("limit", "waiting", "delayed", "purged"),
    [
        (1, "b", "due later", "a"),
        (2, "", "due later", "a b"),
        (3, "", "later", "a b due"),
        (4, "", "", "a b due later"),
    ],
)
def test_purge_is_limited_and_takes_the_oldest_first(
    limit: int, waiting: str, delayed: str, purged: str, alone: ScriptsAlone
) -> None:
    """One call moves at most so many; the delayed ones come last, by due time."""
    everywhere(alone)

    assert alone.run("purge", GROUP, limit, 100, "refuse") == [limit, 0]

    dead = [(event_id, "purged") for event_id in purged.split()]
    held = [("held", ME, 1)]
    assert alone.look() == look(waiting, held, delayed, dead, enqueued=3, died=limit, purged=limit)


@pytest.mark.parametrize(
    ("room", "waiting", "delayed", "purged"),
    [(0, "a b", "due later", ""), (1, "b", "due later", "a"), (3, "", "later", "a b due")],
)
def test_purge_stops_when_the_dead_letters_are_full(
    room: int, waiting: str, delayed: str, purged: str, alone: ScriptsAlone
) -> None:
    """What does not fit stays where it is, in its order, and the reply says so."""
    everywhere(alone)

    assert alone.run("purge", GROUP, 100, room, "refuse") == [room, 1]

    dead = [(event_id, "purged") for event_id in purged.split()]
    counts = {"purged": room} if room else {}
    assert alone.look() == look(waiting, [("held", ME, 1)], delayed, dead, enqueued=3, died=room, **counts)


def test_purge_buries_what_cannot_be_read(alone: ScriptsAlone) -> None:
    """A member that nobody of ours wrote becomes a dead letter as it is."""
    alone.raw.zadd(alone.keys.delayed, {b"\xff not ours": 5})

    assert alone.run("purge", GROUP, 100, 100, "refuse") == [1, 0]
    ((_, letter),) = alone.raw.xrange(alone.keys.dead)
    assert (letter[b"payload"], letter[b"reason"]) == (b"\xff not ours", b"purged")
    assert alone.look().delayed == ()


def test_purging_nothing_counts_nothing(alone: ScriptsAlone) -> None:
    """An empty queue stays as it is."""
    before = alone.dump()
    assert alone.run("purge", GROUP, 100, 100, "refuse") == [0, 0]
    assert alone.dump() == before


# --- purge_dead ---


def test_dead_letters_are_deleted_by_id(alone: ScriptsAlone) -> None:
    """Only those that exist are counted."""
    first, second, third = alone.bury("x", "y", "z")

    assert alone.run("purge_dead", first, third, "1-1") == 2
    assert alone.look() == look(dead=[("y", "rejected")], dead_purged=2)
    assert alone.run("purge_dead", first) == 0
    assert alone.look() == look(dead=[("y", "rejected")], dead_purged=2)
    assert second


def test_all_dead_letters_are_deleted_on_request(alone: ScriptsAlone) -> None:
    """Without ids, all of them; the queue itself is not touched."""
    alone.bury(*(f"x{number}" for number in range(300)))
    alone.enqueue("a")

    assert alone.run("purge_dead") == 300
    assert alone.look() == look("a", enqueued=1, dead_purged=300)


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_the_oldest_dead_letters_are_named(limit: int, alone: ScriptsAlone) -> None:
    """Their ids, without their payloads, as many as asked for."""
    dead_ids = alone.bury("x", "y", "z")
    assert alone.run("dead_ids", limit) == [each.encode() for each in dead_ids[:limit]]


# --- redrive ---


def test_redriven_events_begin_afresh_and_say_where_they_come_from(alone: ScriptsAlone) -> None:
    """Oldest first; the fields are those of before, the deliveries 0, `rf` names the dead letter."""
    first, _ = alone.bury("x", "y")

    assert alone.run("redrive", 100, first) == [1, 0]

    assert alone.look() == look("x", dead=[("y", "rejected")], redriven=1)
    assert list(alone.fields("x")) == ["id", "payload", "meta"]
    assert alone.fields("x")["payload"] == b'{"n": "x"}'
    assert alone.meta("x") == {"v": 1, "d": 0, "rf": first}


def test_an_event_redriven_again_names_the_latest_dead_letter(alone: ScriptsAlone) -> None:
    """Not both of them; everything else in its meta stays."""
    meta = '{"v":1,"d":0,"rf":"1-1","h":{"d":"2"},"x":[]}'
    alone.enqueue("a", meta=meta)
    (entry_id,) = alone.read(1)
    alone.run("dead_letter", GROUP, ME, entry_id, 1, "rejected", "", 100, "refuse", 1000)
    ((dead_id, _),) = alone.raw.xrange(alone.keys.dead)

    alone.run("redrive", 100, dead_id)

    assert alone.meta("a") == {"v": 1, "d": 0, "rf": dead_id.decode(), "h": {"d": "2"}, "x": []}
    assert alone.fields("a")["meta"].count(b'"rf"') == 1


def test_dead_letters_are_redriven_by_id(alone: ScriptsAlone) -> None:
    """In the order of the ids; one that is gone is passed over."""
    first, _, third = alone.bury("x", "y", "z")

    assert alone.run("redrive", 100, third, "1-1", first) == [2, 0]
    assert alone.look() == look("z x", dead=[("y", "rejected")], redriven=2)
    assert alone.run("redrive", 100, third) == [0, 0]
    assert alone.look() == look("z x", dead=[("y", "rejected")], redriven=2)


def test_named_dead_letters_are_limited_too(alone: ScriptsAlone) -> None:
    """No more than fit, whoever is named."""
    first, second, _ = alone.bury("x", "y", "z")

    assert alone.run("redrive", 1, second, first) == [1, 1]
    assert alone.look() == look("y", dead=[("x", "rejected"), ("z", "rejected")], redriven=1)


@pytest.mark.parametrize(("max_size", "redriven", "full"), [(6, 2, 0), (5, 2, 1), (4, 1, 1), (3, 0, 1), (2, 0, 1)])
def test_a_redrive_needs_room(max_size: int, redriven: int, full: int, alone: ScriptsAlone) -> None:
    """Waiting, in flight and delayed count; what does not fit stays a dead letter."""
    alone.enqueue("held", "a")
    alone.read(1)
    alone.delay("later", alone.now_ms() + 60_000)
    dead_ids = alone.bury("x", "y")

    assert alone.run("redrive", max_size, *dead_ids) == [redriven, full]

    back = ["x", "y"][:redriven]
    dead = [(event_id, "rejected") for event_id in ["x", "y"][redriven:]]
    counts = {"redriven": redriven} if redriven else {}
    assert alone.look() == look(" ".join(["a", *back]), [("held", ME, 1)], "later", dead, enqueued=2, **counts)


def test_a_dead_letter_written_by_hand_goes_back_as_it_is(alone: ScriptsAlone) -> None:
    """Without our five fields at its end nothing is cut off."""
    dead_id = alone.raw.xadd(alone.keys.dead, {"id": "x", "payload": "{}", "colour": "red"})

    assert alone.run("redrive", 100, dead_id) == [1, 0]
    assert alone.fields("x") == {"id": b"x", "payload": b"{}", "colour": b"red"}


# --- stats ---


def test_stats_are_one_look_at_everything(alone: ScriptsAlone) -> None:
    """Entries, pending, delayed, dead, consumers, the oldest that waits, the server's time and all counts."""
    everywhere(alone)
    alone.bury("x")
    oldest = alone.raw.xrange(alone.keys.stream)[1][0]
    before = alone.now_ms()

    entries, pending, delayed, dead, consumers, found, now, totals, refused = alone.run("stats", GROUP)

    assert (entries, pending, delayed, dead, consumers, found) == (3, 1, 2, 1, 1, oldest)
    assert before <= now <= alone.now_ms()
    assert refused == b""
    assert dict(zip(totals[::2], totals[1::2], strict=True)) == {
        b"schema": b"1",
        b"lifetime": b"first",
        b"enqueued": b"3",
    }


def test_stats_of_a_queue_that_was_never_used(alone: ScriptsAlone) -> None:
    """All zero, and no error."""
    alone.raw.delete(alone.keys.stream, alone.keys.stats)
    entries, pending, delayed, dead, consumers, oldest, now, totals, refused = alone.run("stats", GROUP)
    assert (entries, pending, delayed, dead, consumers, oldest, totals) == (0, 0, 0, 0, 0, b"", [])
    assert (now > 0, refused) == (True, b"")
    assert alone.totals() == {}


def test_stats_are_those_of_our_group(alone: ScriptsAlone) -> None:
    """Another group, before it is found and refused, does not show up in our figures."""
    alone.enqueue("a")
    alone.raw.xgroup_create(alone.keys.stream, "auditors", id="0")
    alone.raw.xreadgroup("auditors", "them", {alone.keys.stream: ">"})

    assert alone.run("stats", GROUP)[1] == 0
    assert alone.run("stats", "nobody")[1] == 0
