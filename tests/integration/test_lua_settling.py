"""lua/ack, nack, release, extend, dead_letter and adopt: each from a known state to the whole state after it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripts_alone import GROUP, ME, OTHER, ScriptsAlone, look

pytestmark = pytest.mark.integration

LIMITS = (100, "refuse")
LEASE_MS = 10_000


def nack(alone: ScriptsAlone, entry_id: str, count: int, *, delay_ms: int = 5000, counted: int = 1) -> Any:
    """Say that an event failed."""
    return alone.run("nack", GROUP, ME, entry_id, count, delay_ms, counted)


def dead_letter(alone: ScriptsAlone, entry_id: str, count: int = 1, *, limits: tuple[Any, ...] = LIMITS) -> Any:
    """Bury an event; where that is refused it is looked at again in 60 s."""
    return alone.run("dead_letter", GROUP, ME, entry_id, count, "rejected", "no luck", *limits, 60_000)


def extend(alone: ScriptsAlone, *held: Any) -> Any:
    """Renew leases; `held` are entry id and delivery count in turn."""
    return alone.run("extend", GROUP, ME, LEASE_MS, *held)


def settle(alone: ScriptsAlone, verb: str, entry_id: str, count: int) -> Any:
    """Do one of the things that need ownership; returns the word for this event."""
    if verb == "nack":
        return nack(alone, entry_id, count)
    if verb == "dead_letter":
        return dead_letter(alone, entry_id, count)
    if verb == "extend":
        return extend(alone, entry_id, count)[0]
    return alone.run(verb, GROUP, ME, entry_id, count)[0]


FENCED = ("nack", "dead_letter", "release", "extend")


# --- the fence ---


@pytest.mark.parametrize("verb", FENCED)
def test_who_is_not_the_owner_changes_nothing(verb: str, alone: ScriptsAlone) -> None:
    """An entry that another consumer holds is lost to this one."""
    alone.enqueue("a")
    (entry_id,) = alone.read(1, OTHER)
    before, _ = alone.dump(ignoring="alive_ms"), alone.claim(entry_id, OTHER, idle_ms=5_000)

    assert settle(alone, verb, entry_id, 1) == b"lost"
    assert alone.dump(ignoring="alive_ms") == before
    assert alone.pending()[entry_id][2] >= 5_000


@pytest.mark.parametrize("verb", FENCED)
def test_an_owner_of_an_earlier_delivery_changes_nothing(verb: str, alone: ScriptsAlone) -> None:
    """The delivery count is part of the fence: the same consumer may hold the event anew."""
    alone.enqueue("a")
    (entry_id,) = alone.read(1)
    alone.claim(entry_id, ME, count=2, idle_ms=5_000)
    before = alone.dump(ignoring="alive_ms")

    assert settle(alone, verb, entry_id, 1) == b"lost"
    assert alone.dump(ignoring="alive_ms") == before
    assert alone.pending()[entry_id][2] >= 5_000


@pytest.mark.parametrize("verb", FENCED)
def test_a_second_settlement_finds_the_event_gone(verb: str, alone: ScriptsAlone) -> None:
    """Whoever settles first wins; the second changes nothing."""
    alone.enqueue("a")
    (entry_id,) = alone.read(1)
    alone.run("ack", GROUP, entry_id)
    before = alone.dump(ignoring="alive_ms")

    assert settle(alone, verb, entry_id, 1) == b"gone"
    assert alone.dump(ignoring="alive_ms") == before


@pytest.mark.parametrize("verb", ["nack", "dead_letter", "release"])
def test_an_entry_deleted_behind_the_groups_back_is_counted_as_lost(verb: str, alone: ScriptsAlone) -> None:
    """XDEL or a trim by hand leaves a pending entry without a body; settling takes it out of the list and says so."""
    alone.enqueue("a")
    (entry_id,) = alone.read(1)
    alone.raw.xdel(alone.keys.stream, entry_id)

    assert settle(alone, verb, entry_id, 1) == b"gone"
    assert alone.look().in_flight == ()
    assert alone.look() == look(enqueued=1, lost=1)


# --- ack ---


def test_an_ack_deletes_and_counts_what_it_ended(alone: ScriptsAlone) -> None:
    """Held by whomever; what is gone already is not counted again."""
    alone.enqueue("a", "b", "c")
    (first,), (second,) = alone.read(1), alone.read(1, OTHER)

    assert alone.run("ack", GROUP, first, second) == 2
    assert alone.run("ack", GROUP, first, "1-1") == 0
    assert alone.look() == look("c", enqueued=3, acked=2)


# --- nack ---


def test_a_failed_event_waits_for_its_retry(alone: ScriptsAlone) -> None:
    """It is in the delayed set, due by the server's time, with the deliveries so far in its meta."""
    alone.enqueue("a", meta='{"v":1,"h":{"d":"7"},"x":[]}')
    (entry_id,) = alone.read(1)
    before = alone.now_ms()

    assert nack(alone, entry_id, 1) == b"held"

    assert alone.look() == look(delayed="a", enqueued=1, retried=1)
    ((due, fields),) = alone.delayed()
    assert before + 5000 <= due <= alone.now_ms() + 5000
    assert alone.meta("a", "delayed") == {"v": 1, "d": 1, "h": {"d": "7"}, "x": []}
    assert fields["payload"] == b'{"n": "a"}'
    assert entry_id.encode() in alone.raw.zrange(alone.keys.delayed, 0, -1)[0]


def test_a_delay_of_zero_makes_it_available_at_once(alone: ScriptsAlone) -> None:
    """At the end of the line, and the deliveries of all its entries add up."""
    alone.enqueue("a", "b", meta='{"v":1,"d":2}')
    (entry_id,) = alone.read(1)
    alone.claim(entry_id, ME, count=3)

    assert nack(alone, entry_id, 3, delay_ms=0) == b"held"
    assert alone.look() == look("b a", enqueued=2, retried=1)
    assert alone.meta("a") == {"v": 1, "d": 5}


def test_an_event_put_off_uncounted_keeps_its_deliveries(alone: ScriptsAlone) -> None:
    """What a newer release wrote is not used up by an older one that cannot read it."""
    alone.enqueue("a", meta='{"v":9,"d":2}')
    (entry_id,) = alone.read(1)

    assert nack(alone, entry_id, 1, counted=0) == b"held"
    assert alone.look() == look(delayed="a", enqueued=1)
    assert alone.meta("a", "delayed") == {"v": 9, "d": 2}


# --- release ---


def test_released_events_go_to_the_end_of_the_line_untouched(alone: ScriptsAlone) -> None:
    """A release is not counted as a delivery, earlier crashes are; each event gets its own word."""
    alone.enqueue("a", "b", "c", meta='{"v":1,"d":1}')
    first, second = alone.read(2)
    alone.claim(second, ME, count=3)

    assert alone.run("release", GROUP, ME, first, 1, "1-1", 1, second, 3) == [b"held", b"gone", b"held"]
    assert alone.look() == look("c a b", enqueued=3, released=2)
    assert alone.meta("a") == {"v": 1, "d": 1}
    assert alone.meta("b") == {"v": 1, "d": 3}


# --- extend ---


def test_a_lease_is_renewed_and_nothing_else(alone: ScriptsAlone) -> None:
    """Idle time starts again, owner and count stay; each event gets its own word."""
    alone.enqueue("a", "b")
    first, second = alone.read(2)
    alone.claim(first, ME, idle_ms=5_000, count=2)
    alone.claim(second, OTHER, idle_ms=5_000)

    states = extend(alone, first, 2, second, 1)

    assert states == [b"held", b"lost"]
    assert alone.look() == look("", [("a", ME, 2), ("b", OTHER, 1)], enqueued=2)
    pending = alone.pending()
    assert pending[first][2] < 5_000 <= pending[second][2]


def test_who_renews_leaves_a_sign_of_life(alone: ScriptsAlone) -> None:
    """So that reclaiming goes on where everybody is busy and nobody does the housekeeping."""
    before = alone.now_ms()
    assert extend(alone) == []
    assert before <= (alone.stat("alive_ms") or 0) <= alone.now_ms()
    assert alone.stat("hold_ms") is None


@pytest.mark.parametrize("gap_ms", [LEASE_MS // 2 + 1_000, -LEASE_MS // 2 - 1_000], ids=["gap", "clock set back"])
def test_who_renews_first_after_a_gap_gives_the_others_time(gap_ms: int, alone: ScriptsAlone) -> None:
    """Nobody may claim for half a lease, although somebody is known to be alive by then."""
    alone.raw.hset(alone.keys.stats, "alive_ms", alone.now_ms() - gap_ms)
    extend(alone)
    assert 0 < (alone.stat("hold_ms") or 0) - alone.now_ms() <= LEASE_MS // 2


# --- dead_letter ---


def test_a_buried_event_keeps_its_fields_and_says_why_and_when(alone: ScriptsAlone) -> None:
    """Its deliveries are those of all its entries; reason, error and times follow its own fields."""
    alone.enqueue("a", meta='{"v":1,"d":2}')
    (entry_id,) = alone.read(1)
    before = alone.now_ms()

    assert dead_letter(alone, entry_id) == b"held"

    assert alone.look() == look(dead=[("a", "rejected")], enqueued=1, died=1)
    letter = alone.fields("a", "dead")
    assert list(letter) == ["id", "payload", "meta", "reason", "error", "deliveries", "enqueued_ms", "died_ms"]
    assert (letter["payload"], letter["meta"]) == (b'{"n": "a"}', b'{"v":1,"d":2}')
    assert (letter["error"], letter["deliveries"]) == (b"no luck", b"3")
    assert letter["enqueued_ms"].decode() == entry_id.split("-")[0]
    assert before <= int(letter["died_ms"]) <= alone.now_ms()


def test_full_dead_letters_refuse_and_the_event_stays_delayed(alone: ScriptsAlone) -> None:
    """It is neither handed out again soon nor lost, and its deliveries are kept."""
    alone.bury("x", "y")
    alone.enqueue("a")
    (entry_id,) = alone.read(1)
    before = alone.now_ms()

    assert dead_letter(alone, entry_id, limits=(2, "refuse")) == b"refused"

    assert alone.look() == look(delayed="a", dead=[("x", "rejected"), ("y", "rejected")], enqueued=1)
    assert alone.meta("a", "delayed") == {"v": 1, "d": 1}
    assert before + 60_000 <= alone.delayed()[0][0] <= alone.now_ms() + 60_000
    assert f"{entry_id}-1".encode() in alone.raw.zrange(alone.keys.delayed, 0, -1)[0]


@pytest.mark.parametrize(
    ("limits", "kept", "dropped"),
    [((2, "drop"), "y a", {"dropped": 1}), ((3, "drop"), "x y a", {}), ((3, "refuse"), "x y a", {})],
)
def test_dead_letters_are_kept_as_many_as_fit(
    limits: tuple[Any, ...], kept: str, dropped: dict[str, int], alone: ScriptsAlone
) -> None:
    """`drop` deletes the oldest where there is no room, and only then; what it deletes is counted."""
    alone.bury("x", "y")
    alone.enqueue("a")
    (entry_id,) = alone.read(1)

    assert dead_letter(alone, entry_id, limits=limits) == b"held"

    dead = [(event_id, "rejected") for event_id in kept.split()]
    assert alone.look() == look(dead=dead, enqueued=1, died=1, **dropped)


def test_dead_letters_of_size_zero_never_drop_what_they_get(alone: ScriptsAlone) -> None:
    """Where no dead letter may be kept the event stays in the queue, also with `drop`."""
    alone.enqueue("a")
    (entry_id,) = alone.read(1)

    assert dead_letter(alone, entry_id, limits=(0, "drop")) == b"refused"
    assert alone.look() == look(delayed="a", enqueued=1)


# --- adopt ---


def test_what_was_handed_out_unnoticed_is_fetched(alone: ScriptsAlone) -> None:
    """Only this consumer's, only what it does not list; counts stay, leases begin anew."""
    alone.enqueue("a", "b", "c", "d")
    known, missed = alone.read(2)
    alone.read(1, OTHER)
    alone.claim(missed, ME, idle_ms=5_000, count=2)
    before = alone.dump()

    reply = alone.run("adopt", GROUP, ME, 10, known)

    assert reply == [[[missed.encode(), 2, [b"id", b"b", b"payload", b'{"n": "b"}', b"meta", b'{"v":1}']]], 0, 0]
    assert alone.dump() == before
    assert alone.pending()[missed][2] < 5_000


@pytest.mark.parametrize(("limit", "more"), [(2, 1), (3, 1), (4, 0)])
def test_adopting_is_limited_and_says_whether_to_go_on(limit: int, more: int, alone: ScriptsAlone) -> None:
    """What does not fit is fetched by the next call; as many as the limit may mean that there are more."""
    alone.enqueue("a", "b", "c")
    entry_ids = alone.read(3)

    entries, lost, goes_on = alone.run("adopt", GROUP, ME, limit)

    assert [entry[0].decode() for entry in entries] == entry_ids[:limit]
    assert (lost, goes_on) == (0, more)


def test_adopting_looks_beyond_the_first_hundred(alone: ScriptsAlone) -> None:
    """Behind more known entries than one page holds, the missed one is found."""
    alone.enqueue(*(str(number) for number in range(250)))
    entry_ids = alone.read(250)

    entries, _, _ = alone.run("adopt", GROUP, ME, 10, *entry_ids[:100], *entry_ids[101:249])

    assert [entry[0].decode() for entry in entries] == [entry_ids[100], entry_ids[249]]


def test_adopting_counts_what_was_deleted_meanwhile(alone: ScriptsAlone) -> None:
    """A pending entry without a body is taken out of the list and reported."""
    alone.enqueue("a", "b")
    gone, missed = alone.read(2)
    alone.raw.xdel(alone.keys.stream, gone)

    entries, lost, more = alone.run("adopt", GROUP, ME, 10)

    assert ([entry[0].decode() for entry in entries], lost, more) == ([missed], 1, 0)
    assert alone.look() == look("", [("b", ME, 1)], enqueued=2, lost=1)


# --- an entry that no call of Lua can carry ---


def test_an_entry_with_thousands_of_fields_can_be_buried(alone: ScriptsAlone) -> None:
    """Written by hand, it must not come again and again because it is too wide for a call."""
    entry_id = alone.raw.xadd(alone.keys.stream, {f"field-{number}": "x" for number in range(5000)}).decode()
    alone.read(1)

    assert dead_letter(alone, entry_id) == b"held"
    assert alone.look().in_flight == ()
    assert alone.raw.xlen(alone.keys.dead) == 1
