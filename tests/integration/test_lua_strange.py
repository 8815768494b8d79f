"""The scripts over what others wrote into the keys: none ends between its writes, and none is kept busy."""

from __future__ import annotations

import json
import time

import pytest
import redis

from tests.support.scripts_alone import GROUP, ME, OTHER, ScriptsAlone, look

pytestmark = pytest.mark.integration

LEASE_MS = 10_000
DEAD_LETTER = ("rejected", "", 100, "refuse", 1000)


def maintain(alone: ScriptsAlone) -> list[object]:
    """Do one round of housekeeping for the consumer `me`."""
    return list(alone.run("maintain", GROUP, ME, LEASE_MS, 10, 1, 1000, 0, 4, 100, "refuse", 60_000, 10**15, 0))


@pytest.mark.parametrize("value", [b"many", b"", b"1.5", b"9223372036854775807", b"\xff"])
def test_a_count_that_cannot_be_counted_on_begins_anew(value: bytes, alone: ScriptsAlone) -> None:
    """The events go where they should, once, whatever stands in the hash of totals."""
    names = ("enqueued", "acked", "retried", "released", "dead", "redriven", "purged", "dead_purged")
    for name in names:
        alone.raw.hset(alone.keys.stats, name, value)

    alone.enqueue("a", "b", "c", "d", "e")
    a, b, c, d = alone.read(4)
    alone.run("ack", GROUP, a)
    alone.run("nack", GROUP, ME, b, 1, 0, 1)
    alone.run("release", GROUP, ME, c, 1)
    alone.run("dead_letter", GROUP, ME, d, 1, *DEAD_LETTER)
    alone.run("purge", GROUP, 1, 100, "refuse")
    ((dead_id, _), (other_id, _)) = alone.raw.xrange(alone.keys.dead)
    alone.run("redrive", 100, dead_id)
    alone.run("purge_dead", other_id)

    assert alone.look().waiting == ("b", "c", "d")
    assert alone.look().dead == ()
    assert [alone.stat(name) for name in names] == [5, 1, 1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("name", ["swept_ms", "hold_ms", "alive_ms", "pruned_ms"])
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf", "1e300", "-1e300", "soon", ""])
def test_a_time_that_is_none_does_not_end_reclaiming(name: str, value: str, alone: ScriptsAlone) -> None:
    """NaN is neither before nor after anything: compared with it, the gate of the sweep would never open again."""
    alone.enqueue("a")
    (entry_id,) = alone.read(1, OTHER)
    alone.claim(entry_id, OTHER, idle_ms=LEASE_MS + 1)
    alone.raw.hset(alone.keys.stats, "alive_ms", alone.now_ms())
    # A sign of life that lies ahead is one of a clock that was set back, which is another story.
    alone.raw.hset(alone.keys.stats, name, "nan" if name == "alive_ms" and value in ("inf", "1e300") else value)

    claimed = maintain(alone)[0]
    # One that lies far back is taken for an outage: then there is half a lease for everybody to renew first.
    alone.raw.hset(alone.keys.stats, "hold_ms", 0)
    claimed = claimed or maintain(alone)[0]

    assert len(claimed) == 1  # type: ignore[arg-type]


def test_a_meta_field_full_of_spaces_does_not_keep_the_server_busy(alone: ScriptsAlone) -> None:
    """Half a megabyte of them took minutes while a pattern was tried from each one of them anew."""
    meta = '{"v":1' + " " * 500_000 + "}"
    alone.enqueue("a", meta=meta)
    (entry_id,) = alone.read(1)

    began = time.monotonic()
    alone.run("nack", GROUP, ME, entry_id, 1, 0, 1)

    assert alone.meta("a") == {"v": 1, "d": 1}
    assert time.monotonic() - began < 5.0


def test_a_count_that_stands_there_twice_comes_to_its_end(alone: ScriptsAlone) -> None:
    """JSON takes the last one: that one is read and raised, or the event would be retried for ever."""
    alone.enqueue("a", meta='{"d":1,"v":1,"d":5}')
    (entry_id,) = alone.read(1)

    alone.run("nack", GROUP, ME, entry_id, 1, 0, 1)

    assert alone.meta("a") == {"v": 1, "d": 6}


def test_a_huge_count_stays_an_integer(alone: ScriptsAlone) -> None:
    """Lua prints large numbers with an exponent, which no reader of meta takes for a count."""
    alone.enqueue("a", meta='{"v":1,"d":1000000000000000}')
    (entry_id,) = alone.read(1)

    alone.run("nack", GROUP, ME, entry_id, 1, 0, 1)

    assert b'"d":1000000000000001' in alone.fields("a")["meta"]


def test_what_a_newer_release_wrote_is_put_back_as_it_was(alone: ScriptsAlone) -> None:
    """Left to it uncounted: its meta may mean something else by our names."""
    meta = '{"v":9,"d":"two"}'
    alone.enqueue("a", meta=meta)
    (entry_id,) = alone.read(1)

    alone.run("nack", GROUP, ME, entry_id, 1, 1000, 0)

    assert alone.fields("a", "delayed")["meta"] == meta.encode()


def test_a_dead_letter_with_no_fields_but_ours_can_be_put_back(alone: ScriptsAlone) -> None:
    """An entry has at least one field: one such letter must not keep its neighbours among the dead."""
    (first,) = alone.bury("x")
    own = {"reason": "r", "error": "", "deliveries": "1", "enqueued_ms": "1", "died_ms": "1"}
    strange = alone.raw.xadd(alone.keys.dead, own)  # type: ignore[arg-type]
    (last,) = alone.bury("y")

    assert alone.run("redrive", 100, first, strange, last) == [3, 0]

    assert alone.raw.xlen(alone.keys.dead) == 0
    assert [fields.get(b"id") for _, fields in alone.raw.xrange(alone.keys.stream)] == [b"x", None, b"y"]


@pytest.mark.parametrize("score", ["inf", "1e300"])
def test_what_is_never_due_is_announced_as_far_away(score: str, alone: ScriptsAlone) -> None:
    """Infinity is no integer: the answer was an arbitrary one."""
    alone.delay("never", float(score))

    next_due = maintain(alone)[5]

    assert isinstance(next_due, int)
    assert next_due >= 10**9
    assert alone.look() == look(delayed="never")


def test_no_event_is_lost_when_the_ids_of_the_stream_are_exhausted(alone: ScriptsAlone) -> None:
    """After an entry with the last possible id nothing can be added: what is due or held stays where it is."""
    now = alone.now_ms()
    alone.delay("due", now - 10)
    alone.enqueue("held")
    (entry_id,) = alone.read(1)
    alone.raw.execute_command("XADD", alone.keys.stream, f"{2**64 - 1}-{2**64 - 1}", "id", "last")

    for call in (
        lambda: maintain(alone),
        lambda: alone.run("release", GROUP, ME, entry_id, 1),
        lambda: alone.run("nack", GROUP, ME, entry_id, 1, 0, 1),
    ):
        with pytest.raises(redis.ResponseError):
            call()

    found = alone.look()
    assert (found.delayed, found.waiting, found.in_flight) == (("due",), ("last",), (("held", ME, 1),))
    assert json.loads(alone.fields("due", "delayed")["payload"]) == {"n": "due"}
