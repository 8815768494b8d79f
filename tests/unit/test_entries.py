"""From the fields of an entry to a delivery, a dead letter or a waiting event, or to the reason why not."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.codec import JsonCodec, Meta, encode_meta
from streams_queue.messages import DeadLetter, Delivery, InFlightEvent, WaitingEvent
from streams_queue.redis_queue.entries import (
    Broken,
    Newer,
    digest,
    fields_of,
    milliseconds_of,
    read_dead_letter,
    read_delayed,
    read_entry,
    read_in_flight,
    read_waiting,
    shown_id,
)

CODEC = JsonCodec(max_bytes=1_000_000)
ENTRY_ID = "1700000000123-4"
PAYLOAD = b'{"n":1}'


def entry(**fields: bytes) -> list[bytes]:
    """Return the flat fields of an entry; what is given as empty is left out."""
    named = {"id": b"a", "payload": PAYLOAD, "meta": b'{"v":1}', **fields}
    return [part for name, value in named.items() if value for part in (name.encode(), value)]


def read(*, count: int = 1, max_bytes: int = 1000, **fields: bytes) -> Delivery | Broken | Newer:
    """Read an entry with some of its fields changed."""
    return read_entry(ENTRY_ID, count, entry(**fields), CODEC, max_bytes)


# --- deliveries ---


def test_an_entry_becomes_a_delivery() -> None:
    """Everything that a handler may ask for; deliveries are those of all entries."""
    meta = encode_meta(Meta(deliveries=2, headers={"trace": "t"}))

    delivery = read(count=3, meta=meta, colour=b"red")

    assert isinstance(delivery, Delivery)
    assert (delivery.payload, delivery.event_id, delivery.entry_id) == ({"n": 1}, "a", ENTRY_ID)
    assert (delivery.deliveries, delivery.headers, delivery.enqueued_at) == (5, {"trace": "t"}, 1700000000.123)
    assert (delivery.lease_lost, delivery.handle) == (False, None)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"id": b""}, "id"),
        ({"payload": b""}, "payload"),
        ({"meta": b""}, "meta"),
        ({"id": b"", "payload": b"", "meta": b""}, "id, payload, meta"),
    ],
)
def test_missing_fields_are_named(fields: dict[str, bytes], missing: str) -> None:
    """In the order in which an entry has them."""
    assert read(**fields) == Broken("undecodable", f"the entry has no field {missing}")


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": b"{"},
        {"payload": b"[1]"},
        {"payload": b"\xff"},
        {"meta": b"v1"},
        {"meta": b"[]"},
        {"meta": b'{"v":"1"}'},
    ],
)
def test_what_cannot_be_decoded_says_why(fields: dict[str, bytes]) -> None:
    """An entry that no release can read is not handed out."""
    broken = read(**fields)
    assert isinstance(broken, Broken)
    assert broken.reason == "undecodable"
    assert broken.error


@pytest.mark.parametrize("meta", [b'{"v":1,"h":{"a":"b"},"d":3}', b'{"v":1,"d":-1}', b' {"v":1}'])
def test_a_count_that_the_scripts_cannot_read_is_broken(meta: bytes) -> None:
    """They look before anything nested; an event whose retries nobody counts would run for ever."""
    assert read(meta=meta) == Broken("undecodable", "the scripts cannot read the deliveries in the meta field")


def test_an_id_that_is_no_text_is_broken() -> None:
    """It could not be shown, compared or given back."""
    assert read(id=b"\xff") == Broken("undecodable", "the id is not UTF-8")


@pytest.mark.parametrize(("max_bytes", "fits"), [(len(PAYLOAD), True), (len(PAYLOAD) - 1, False)])
def test_a_payload_over_the_limit_is_told_in_bytes(max_bytes: int, fits: bool) -> None:
    """One that is exactly as large as allowed is handed out."""
    found = read(max_bytes=max_bytes)
    assert isinstance(found, Delivery) == fits
    assert fits or found == Broken("too_large", f"the payload is 7 bytes; max_event_bytes is {max_bytes}")


@pytest.mark.parametrize("payload", [PAYLOAD, b"\xff not ours", b"x" * 2000])
def test_what_a_newer_release_wrote_is_not_judged(payload: bytes) -> None:
    """Neither its payload nor its size: it is left to who can read it."""
    assert read(meta=b'{"v":7,"secret":[]}', payload=payload) == Newer(7)


def test_a_compressed_payload_is_expanded_wherever_it_is_shown() -> None:
    """In a delivery, in dead letters and for `peek`; headers and count are read beside it."""
    big = {"text": "abc" * 300}
    payload = zstandard.ZstdCompressor().compress(msgspec.json.encode(big))
    meta = encode_meta(Meta(deliveries=1, headers={"trace": "t"}).compressed("zstd"))
    delivery = read(payload=payload, meta=meta)
    assert isinstance(delivery, Delivery)
    assert (delivery.payload, delivery.deliveries, delivery.headers) == (big, 2, {"trace": "t"})
    flat = entry(payload=payload, meta=meta)
    assert read_dead_letter(ENTRY_ID, flat, CODEC).payload == big
    assert read_dead_letter(ENTRY_ID, flat, CODEC).raw["payload"] == payload
    assert read_waiting(ENTRY_ID, flat, CODEC).payload == big
    assert read_delayed(5.0, flat, CODEC).payload == big


def test_a_payload_that_expands_over_the_limit_is_told_in_bytes() -> None:
    """By the codec's limit; operators see that it is there, and not what it is."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1_000_001))
    assert read(payload=bomb, meta=b'{"v":2,"ce":"zstd"}') == Broken(
        "too_large", "the payload is 1000001 bytes; max_event_bytes is 1000000"
    )
    assert read_dead_letter(ENTRY_ID, entry(payload=bomb, meta=b'{"v":2,"ce":"zstd"}'), CODEC).payload is None


def test_a_compression_that_is_unknown_here_is_left_to_others() -> None:
    """As is what a newer release wrote."""
    found = read(meta=b'{"v":2,"ce":"br"}', payload=b"\xff")
    assert found == Newer(2, "a release that knows its content encoding")


@given(flat=st.lists(st.binary(max_size=30), max_size=9))
def test_any_fields_are_read_or_refused_and_never_an_error(flat: list[bytes]) -> None:
    """Whatever somebody added by hand: an answer, also when a value is missing at the end."""
    assert isinstance(read_entry(ENTRY_ID, 1, flat, CODEC, 1000), Delivery | Broken | Newer)
    assert isinstance(read_dead_letter(ENTRY_ID, flat, CODEC), DeadLetter)
    assert isinstance(read_waiting(ENTRY_ID, flat, CODEC), WaitingEvent)
    assert isinstance(read_delayed(5.0, flat, CODEC), WaitingEvent)


@given(
    values=st.fixed_dictionaries(
        {name: st.binary(max_size=30) for name in ("id", "payload", "meta")},
        optional={name: st.binary(max_size=9) for name in ("reason", "deliveries", "enqueued_ms", "died_ms", "error")},
    )
)
def test_any_values_are_read_or_refused_and_never_an_error(values: dict[str, bytes]) -> None:
    """The same for entries that have all fields, with nonsense in them."""
    flat = [part for name, value in values.items() for part in (name.encode(), value)]
    assert isinstance(read_entry(ENTRY_ID, 1, flat, CODEC, 1000), Delivery | Broken | Newer)
    assert isinstance(read_dead_letter(ENTRY_ID, flat, CODEC), DeadLetter)
    assert isinstance(read_waiting(ENTRY_ID, flat, CODEC), WaitingEvent)


def test_of_a_field_that_comes_twice_the_last_one_counts() -> None:
    """And a name without a value is passed over."""
    assert fields_of([b"a", b"1", b"b", b"2", b"a", b"3", b"c"]) == {"a": b"3", "b": b"2"}


def test_names_that_are_no_text_are_shown_as_far_as_they_are() -> None:
    """A dead letter lists all fields, whatever they are called."""
    assert fields_of([b"n\xff", b"\xff"]) == {"n\N{REPLACEMENT CHARACTER}": b"\xff"}


# --- dead letters ---


def test_a_dead_letter_shows_all_that_is_known() -> None:
    """Times in seconds; the fields as they are stored."""
    own = {"reason": b"rejected", "error": b"no luck", "deliveries": b"4", "enqueued_ms": b"1500", "died_ms": b"2500"}

    letter = read_dead_letter("7000-1", entry(**own), CODEC)

    assert (letter.dead_id, letter.event_id, letter.payload) == ("7000-1", "a", {"n": 1})
    assert (letter.reason, letter.error, letter.deliveries) == ("rejected", "no luck", 4)
    assert (letter.enqueued_at, letter.died_at) == (1.5, 2.5)
    assert letter.raw == {"id": b"a", "payload": PAYLOAD, "meta": b'{"v":1}', **own}


def test_a_dead_letter_written_by_hand_shows_what_there_is() -> None:
    """Its id tells when it was added; numbers that are none are 0."""
    letter = read_dead_letter("7000-1", [b"payload", b"{", b"deliveries", b"many", b"error", b"\xff"], CODEC)

    assert (letter.event_id, letter.payload, letter.reason) == ("", None, "unknown")
    assert (letter.error, letter.deliveries) == ("\N{REPLACEMENT CHARACTER}", 0)
    assert (letter.enqueued_at, letter.died_at) == (0.0, 7.0)


@pytest.mark.parametrize("number", [b"9" * 30, b"9" * 400, b"9" * 5000, b"-1", b"1e9"])
def test_numbers_that_cannot_be_ours_do_not_keep_a_dead_letter_from_being_shown(number: bytes) -> None:
    """Some are longer than Python reads, some more than a float or a calendar holds."""
    own = {"deliveries": number, "enqueued_ms": number, "died_ms": number}

    letter = read_dead_letter("7000-1", entry(**own), CODEC)

    assert (letter.deliveries, letter.enqueued_at, letter.died_at) == (0, 0.0, 7.0)


@pytest.mark.parametrize("due_ms", [math.inf, 1e300, -math.inf, -1.0])
def test_a_time_that_no_calendar_holds_is_shown_as_its_end(due_ms: float) -> None:
    """From 1970 to the year 9999: what a terminal and JSON can show."""
    due_at = read_delayed(due_ms, entry(), CODEC).due_at
    assert due_at is not None
    assert datetime.fromtimestamp(due_at, UTC).year in (1970, 9999)
    assert datetime.fromtimestamp(read_dead_letter(f"{2**64 - 1}-1", entry(), CODEC).died_at, UTC).year == 9999


def test_a_payload_type_that_fails_does_not_keep_an_operator_from_looking() -> None:
    """Whatever its constructor raises, the fields can be shown."""

    class Fails:
        def decode(self, data: bytes) -> Any:
            raise RuntimeError("hunter2")

        def encode(self, payload: Any) -> bytes:
            return b""

    letter = read_dead_letter("7000-1", entry(), Fails())
    assert (letter.payload, letter.raw["payload"]) == (None, PAYLOAD)


def test_a_payload_is_not_shown_by_repr() -> None:
    """Logs of a dead letter carry no payload bytes."""
    assert "secret" not in repr(read_dead_letter("1-1", entry(colour=b"secret"), CODEC))


# --- peek ---


@pytest.mark.parametrize(
    ("fields", "payload", "deliveries"),
    [
        ({}, {"n": 1}, 0),
        ({"meta": b'{"v":1,"d":3}'}, {"n": 1}, 3),
        ({"meta": b"broken", "payload": b"{"}, None, 0),
        ({"meta": b"", "payload": b""}, None, 0),
    ],
)
def test_events_that_wait_show_what_can_be_read(fields: dict[str, bytes], payload: Any, deliveries: int) -> None:
    """In the stream with their entry id, delayed ones with their due time in seconds."""
    waiting, delayed = read_waiting("5-1", entry(**fields), CODEC), read_delayed(2500.0, entry(**fields), CODEC)
    assert waiting == WaitingEvent(payload, "a", "5-1", "waiting", None, deliveries)
    assert delayed == WaitingEvent(payload, "a", None, "delayed", 2.5, deliveries)


# --- ids ---


def test_an_event_in_flight_shows_who_holds_it() -> None:
    """Deliveries are those of all entries; ages are the server's, and never below 0."""
    found = read_in_flight(ENTRY_ID, ("me", 250, 2), entry(meta=b'{"v":1,"d":3}'), CODEC, now_ms=1700000002123)
    raw = {"id": b"a", "payload": PAYLOAD, "meta": b'{"v":1,"d":3}'}
    assert found == InFlightEvent("a", ENTRY_ID, "me", 5, 1700000000.123, 2.0, 0.25, {"n": 1}, raw)

    gone = read_in_flight(ENTRY_ID, ("", -1, 1), [], CODEC, now_ms=0)
    assert gone == InFlightEvent("", ENTRY_ID, "", 1, 1700000000.123, 0.0, 0.0)


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_a_digest_is_16_characters_that_the_script_can_take_apart(event_id: str) -> None:
    """Letters, digits, dash and underscore: nothing that separates the specials of a batch; always the same."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{16}", digest(event_id))
    assert digest(event_id) == digest(event_id)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=2, max_size=2, unique=True))
def test_different_ids_have_different_digests(event_ids: list[str]) -> None:
    """Two events are not taken for one."""
    assert digest(event_ids[0]) != digest(event_ids[1])


def test_an_entry_id_begins_with_its_time() -> None:
    """Milliseconds by the server's clock."""
    assert milliseconds_of(ENTRY_ID) == 1700000000123


@pytest.mark.parametrize(
    ("event_id", "shown"),
    [
        ("72d3162e-cc78-11e3-81ab-4c9367dc0958", True),
        ("octocat/Hello-World:17", True),
        ('{"password": "battery-staple"}', False),
        ("two words", False),
        ("x" * 129, False),
        ("", False),
    ],
)
def test_only_what_looks_like_an_id_is_shown_in_a_log(event_id: str, shown: bool) -> None:
    """Whoever writes into the stream by hand may put anything there."""
    assert (shown_id(event_id) == event_id) is shown
