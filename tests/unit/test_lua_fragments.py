"""The pure fragments of lua/shared: any fields survive the delayed set, and only the count in meta changes."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from typing import Any

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams_queue.codec import Meta, decode_meta, encode_meta

server = fakeredis.FakeRedis(server=fakeredis.FakeServer())
SOURCE = "".join(
    (resources.files("streams_queue") / "lua" / "shared" / f"{name}.lua").read_text("utf-8")
    for name in ("entry", "frame", "dead")
)

# An emulated server compiles each script when it first sees it, at a speed that says nothing about ours.
emulated = settings(deadline=None)

# Emulated scripts take arguments as bytes and give back what they were given, bytes that are no text included.
anything = st.binary(max_size=40)
flat_fields = st.lists(anything, min_size=2, max_size=12).filter(lambda flat: len(flat) % 2 == 0)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
unknown_keys = st.dictionaries(texts.filter(lambda name: name not in {"v", "d", "h", "ct", "rf"}), values, max_size=3)
metas = st.builds(
    Meta,
    version=st.integers(1, 9),
    deliveries=st.integers(0, 10**6),
    headers=st.dictionaries(texts, texts, max_size=3),
    content_type=st.none() | st.just("application/x-thing"),
    redriven_from=st.none() | st.from_regex(r"\d{1,14}-\d{1,4}", fullmatch=True),
    unknown=unknown_keys,
)


def run(body: str, *args: Any) -> Any:
    """Run a line of Lua below the fragments; `fields` is the list of those arguments that begin with the second."""
    prelude = "local fields = {} for i = 2, #ARGV do fields[i - 1] = ARGV[i] end\n"
    return server.eval(f"{SOURCE}{prelude}{body}", 0, *args)


frame = partial(run, "return frame(ARGV[1], fields)")
unframe = partial(run, "return unframe(fields[1]) or 'nil'", b"")
with_deliveries = partial(run, "return with_deliveries(fields, tonumber(ARGV[1]))")
earlier_deliveries = partial(run, "return earlier_deliveries(fields)", b"")


# --- frame and unframe ---


@emulated
@given(prefix=anything, flat=flat_fields)
def test_any_fields_survive_the_delayed_set(prefix: bytes, flat: list[bytes]) -> None:
    """Empty ones, colons, digits, zero bytes and bytes that are no text come back as they went in."""
    assert unframe(frame(prefix, *flat)) == flat


@emulated
@given(prefixes=st.lists(anything, min_size=2, max_size=2, unique=True), flat=flat_fields)
def test_members_with_different_prefixes_differ(prefixes: list[bytes], flat: list[bytes]) -> None:
    """Equal events are two members of the set, not one."""
    assert frame(prefixes[0], *flat) != frame(prefixes[1], *flat)


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"1:p",
        b"1:p2:id",
        b"1:p2:id1:a7:payload",
        b"1:p2:id1:ax",
        b"1:p2:id1:a ",
        b"1:p2:id5:abcd",
        b"1:p2:id:a",
        b"1:p2:id-1:a",
        b"p2:id1:a",
        b" 1:p2:id1:a",
        b"1:p2:id" + b"9" * 400 + b":a",
        b"1:p2:id00000000001:a",
        b'{"id":"a"}',
    ],
)
def test_what_was_not_framed_is_told_from_what_was(member: bytes) -> None:
    """Cut off, odd, with a wrong length or something behind: none of it becomes an entry."""
    assert unframe(member) == b"nil"


@emulated
@given(member=st.binary(max_size=60) | st.from_regex(rb"(\d{1,2}:[a-z]{0,9})*", fullmatch=True))
def test_any_bytes_are_read_or_refused_and_never_an_error(member: bytes) -> None:
    """Whatever an operator put into the set, reading it ends, with whole pairs or with nothing."""
    found = unframe(member)
    assert found == b"nil" or (len(found) >= 2 and len(found) % 2 == 0)


# --- deliveries in meta ---


@emulated
@given(meta=metas, count=st.integers(0, 10**6), payload=anything)
def test_only_the_deliveries_change(meta: Meta, count: int, payload: bytes) -> None:
    """Headers, keys of later releases and a `d` nested in either stay, and the codec reads what Lua wrote."""
    flat = [b"id", b"a", b"payload", payload, b"meta", encode_meta(meta)]

    written = with_deliveries(count, *flat)

    assert written[:5] == flat[:5]
    assert json.loads(written[5]) == {**json.loads(flat[5]), "d": count}
    if meta.version == 1:
        assert decode_meta(written[5]) == meta.with_deliveries(count)
    assert earlier_deliveries(*written) == count


@emulated
@given(meta=metas)
def test_deliveries_are_read_as_the_codec_wrote_them(meta: Meta) -> None:
    """The count at the top, whatever else is in meta."""
    assert earlier_deliveries(b"id", b"a", b"meta", encode_meta(meta)) == meta.deliveries


@emulated
@given(meta=metas, counts=st.lists(st.integers(0, 1000), min_size=2, max_size=4))
def test_the_last_count_wins_and_nothing_grows(meta: Meta, counts: list[int]) -> None:
    """However often an event is retried, its meta holds one count."""
    flat = [b"meta", encode_meta(meta)]
    for count in counts:
        flat = with_deliveries(count, *flat)
    assert flat == with_deliveries(counts[-1], b"meta", encode_meta(meta))


@pytest.mark.parametrize(
    ("meta", "written"),
    [
        (b"{}", {"d": 7}),
        (b'{"d":1}', {"d": 7}),
        (b'{"d" : 12 , "v":1}', {"v": 1, "d": 7}),
        (b'{ "v": 1, "d": 12 }', {"v": 1, "d": 7}),
        (b'{"h":{"d":"5"},"v":1}', {"v": 1, "h": {"d": "5"}, "d": 7}),
        (b'{"x":[{"d":5}],"v":1}', {"v": 1, "x": [{"d": 5}], "d": 7}),
        (b'{"id":3,"add":4}', {"id": 3, "add": 4, "d": 7}),
        (b'{"rf":"1-1","d":3,"h":{}}', {"rf": "1-1", "h": {}, "d": 7}),
    ],
)
def test_a_meta_that_somebody_else_wrote_is_changed_in_place(meta: bytes, written: dict[str, Any]) -> None:
    """With blanks, in another order, without a count or with others nested."""
    assert json.loads(with_deliveries(7, b"meta", meta)[1]) == written


@pytest.mark.parametrize(
    ("meta", "count"), [(b"v1", 0), (b"", 0), (b"[]", 0), (b'{"d":"x"}', 0), (b'{"h":{"d":5}}', 0)]
)
def test_a_meta_without_a_readable_count_counts_nothing(meta: bytes, count: int) -> None:
    """Broken, no mapping, no number, or a `d` that is not ours."""
    assert earlier_deliveries(b"id", b"a", b"meta", meta) == count


def test_fields_without_a_meta_get_one_when_there_is_something_to_count() -> None:
    """So that an entry written by hand does not run for ever; without a count they stay as they are."""
    assert earlier_deliveries(b"id", b"a") == 0
    assert with_deliveries(0, b"id", b"a") == [b"id", b"a"]
    assert with_deliveries(2, b"id", b"a") == [b"id", b"a", b"meta", b'{"d":2}']
    assert with_deliveries(2, b"meta", b"broken") == [b"meta", b"broken", b"meta", b'{"d":2}']


# --- small ones ---


def test_a_field_is_found_by_its_name() -> None:
    """Values that look like names are none; what is missing is empty."""
    assert run("return field(fields, ARGV[1])", b"id", b"x", b"id", b"id", b"a") == b"a"
    assert run("return field(fields, ARGV[1])", b"id", b"x", b"y") == b""


def test_the_time_of_an_entry_is_in_its_id() -> None:
    """Milliseconds before the dash."""
    assert run("return entry_ms(ARGV[1])", b"1700000000123-45") == b"1700000000123"
