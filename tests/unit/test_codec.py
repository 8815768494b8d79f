"""The codec: everything accepted comes back equal, type by type; everything else is refused with its path."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue import codec
from streams_queue.codec import JsonCodec, Meta, TypedCodec, decode_meta, encode_meta, make_codec
from streams_queue.compression import ZSTD
from streams_queue.errors import ConfigError, DecodeError, EncodeError, MessageTooLarge

JSON = JsonCodec(max_bytes=10 * 1024 * 1024)

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=30)
payloads = st.dictionaries(text, json_values)


def typed(value: Any) -> Any:
    """Return the value with every type spelled out, so that True, 1 and 1.0 (and 0.0 and -0.0) differ."""
    if isinstance(value, dict):
        return (dict, [(typed(key), typed(item)) for key, item in value.items()])
    if isinstance(value, list):
        return (list, [typed(item) for item in value])
    return (type(value), repr(value))


def nested(levels: int) -> dict[str, Any]:
    """Return a payload of so many levels, the outermost dict included."""
    value: Any = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


@given(payloads)
def test_what_is_accepted_comes_back_equal_type_by_type(payload: dict[str, Any]) -> None:
    """Decoding gives the payload that was encoded, with the same types and the same order of keys."""
    assert typed(JSON.decode(JSON.encode(payload))) == typed(payload)


@given(st.lists(payloads))
def test_many_at_once_are_encoded_as_one_by_one(several: list[dict[str, Any]]) -> None:
    """Byte for byte."""
    assert JSON.encode_all(several) == [JSON.encode(payload) for payload in several]


CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE


@pytest.mark.parametrize(
    ("first_bad", "path"),
    [
        ({"a": (1, 2)}, "payload.a"),
        ({"a": math.nan}, "payload.a"),
        ({"a": {3: 4}}, "payload.a"),
        ({"a": "\ud800"}, "payload.a"),
        (["a"], "payload"),
        (CIRCLE, "payload.itself"),
    ],
)
def test_of_many_at_once_the_first_that_is_bad_is_named(first_bad: Any, path: str) -> None:
    """Whatever is wrong with it and with others behind it."""
    with pytest.raises(EncodeError) as told:
        JSON.encode_all([{"good": 1}, first_bad, {"b": object()}, "bad"])
    assert told.value.path == path


def test_of_many_at_once_one_may_be_too_large() -> None:
    """The message names its size."""
    small = JsonCodec(max_bytes=20)
    assert small.encode_all([{"a": "x" * 10}] * 3) == [b'{"a":"xxxxxxxxxx"}'] * 3
    with pytest.raises(MessageTooLarge, match="is 28 bytes"):
        small.encode_all([{"a": 1}, {"a": "x" * 20}, {"a": 1}])


@pytest.mark.parametrize(
    "number",
    [2**63, 2**64, -(2**63) - 1, 10**30, -(10**30), 10**4298, 10**4299, -(10**4298), -(10**4299), -0.0, 5e-324],
)
def test_numbers_of_every_size_come_back(number: float) -> None:
    """Ints past 64 bits, up to the last digit that Python prints, and the edges of floats survive."""
    assert typed(JSON.decode(JSON.encode({"n": number}))) == typed({"n": number})


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


Point = collections.namedtuple("Point", "x y")

REFUSED = {
    "nan": (math.nan, "is nan"),
    "infinity": (math.inf, "is inf"),
    "minus infinity": (-math.inf, "is -inf"),
    "bytes": (b"x", "is bytes"),
    "bytearray": (bytearray(b"x"), "is bytearray"),
    "tuple": ((1, 2), "is tuple"),
    "namedtuple": (Point(1, 2), "Point"),
    "set": ({1}, "is set"),
    "frozenset": (frozenset({1}), "is frozenset"),
    "datetime": (datetime.datetime(2025, 6, 3, tzinfo=datetime.UTC), "is datetime.datetime"),
    "date": (datetime.date(2025, 6, 3), "is datetime.date"),
    "decimal": (decimal.Decimal("1.5"), "is decimal.Decimal"),
    "int enum": (Colour.RED, "Colour"),
    "str subclass": (Name("octocat"), "Name"),
    "ordered dict": (collections.OrderedDict(a=1), "is collections.OrderedDict"),
    "default dict": (collections.defaultdict(int), "is collections.defaultdict"),
    "object": (object(), "is object"),
    "complex": (1j, "is complex"),
    "lone surrogate": ("\ud800", "lone surrogate"),
    "huge int": (10**5000, "more digits"),
    "int key": ({1: "x"}, "has the key 1 of type int"),
    "none key": ({None: "x"}, "has the key None"),
    "bool key": ({True: "x"}, "has the key True"),
    "str subclass key": ({Name("a"): "x"}, "Name; keys must be str"),
    "lone surrogate key": ({"\udfff": 1}, "lone surrogate"),
}


@pytest.mark.parametrize(("value", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_change_is_refused_with_its_path(value: Any, problem: str) -> None:
    """Each kind of value that JSON would silently change is refused, and the error says where it is."""
    with pytest.raises(EncodeError) as caught:
        JSON.encode({"ok": 1, "commits": [{}, {}, {}, {"author": value}]})
    assert caught.value.path == "payload.commits[3].author"
    assert problem in str(caught.value)


@pytest.mark.parametrize("payload", [None, [], "x", 1, (), collections.OrderedDict(), b"{}"], ids=repr)
def test_the_payload_itself_must_be_a_dict(payload: Any) -> None:
    """Anything but a plain dict at the top is refused, path `payload`."""
    with pytest.raises(EncodeError, match=r"^payload: must be a dict, not ") as caught:
        JSON.encode(payload)
    assert caught.value.path == "payload"


def test_a_key_that_is_no_identifier_is_quoted_in_the_path() -> None:
    """A path stays readable when keys hold spaces or dots."""
    with pytest.raises(EncodeError) as caught:
        JSON.encode({"head commit": {"a.b": math.nan}})
    assert caught.value.path == "payload['head commit']['a.b']"


def test_a_circular_reference_is_refused_where_it_closes() -> None:
    """A payload that holds itself, even twice, is refused at once and does not hang."""
    payload: dict[str, Any] = {"commits": []}
    payload["commits"] += [payload, payload]
    with pytest.raises(EncodeError, match="refers back") as caught:
        JSON.encode(payload)
    assert caught.value.path == "payload.commits[0]"


def test_the_same_object_in_two_places_is_no_circle() -> None:
    """A shared value is written twice."""
    shared = {"login": "octocat"}
    assert JSON.decode(JSON.encode({"a": shared, "b": [shared]})) == {"a": shared, "b": [shared]}


@pytest.mark.parametrize("levels", [codec.MAX_DEPTH + 1, 900, 100_000])
def test_nesting_is_bounded_and_does_not_depend_on_the_stack(levels: int) -> None:
    """The deepest payload that is taken has MAX_DEPTH levels, one more is refused."""
    deepest = nested(codec.MAX_DEPTH)
    assert JSON.decode(JSON.encode(deepest)) == deepest
    with pytest.raises(EncodeError, match="nested deeper than 200 levels"):
        JSON.encode(nested(levels))


def test_a_payload_over_the_limit_names_both_sizes() -> None:
    """MessageTooLarge tells how large the payload is and how large it may be; one byte less is taken."""
    assert len(JsonCodec(max_bytes=14).encode({"a": "x" * 6})) == 14
    with pytest.raises(MessageTooLarge, match="the payload is 15 bytes; max_event_bytes is 14"):
        JsonCodec(max_bytes=14).encode({"a": "x" * 7})


BROKEN = {
    "empty": b"",
    "cut off": b'{"secret": "hunter2',
    "trailing": b'{"secret":"hunter2"} hunter2',
    "not utf-8": b'{"a":"hunter2\xff"}',
    "nan": b'{"hunter2":NaN}',
    "number out of range": b'{"hunter2":1e999}',
    "list": b'["hunter2"]',
    "scalar": b'"hunter2"',
    "deep": b"[" * 100_000,
    "int of 5000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"a":"\\ud800hunter2"}',
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_data_is_a_decode_error_without_the_payload(data: bytes) -> None:
    """What is no JSON object raises DecodeError, whose short reason quotes nothing of the data."""
    with pytest.raises(DecodeError) as caught:
        JSON.decode(data)
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 120


@given(st.binary())
def test_decoding_arbitrary_bytes_raises_nothing_but_decode_error(data: bytes) -> None:
    """Whatever stands in an entry, decode returns a dict or raises DecodeError."""
    try:
        assert type(JSON.decode(data)) is dict
    except DecodeError:
        pass


class Author(msgspec.Struct):
    login: str
    score: float | None = None


class Push(msgspec.Struct):
    repo: str
    author: Author
    files: list[str] = []
    extra: Any = None


@dataclasses.dataclass
class Ping:
    zen: str
    at: datetime.datetime | None = None


class Nameless(msgspec.Struct, eq=False):
    a: int


@dataclasses.dataclass(eq=False)
class Uncompared:
    a: int


@pytest.mark.parametrize(
    "payload",
    [
        Push("octocat/Hello-World", Author("octocat", 1.5), ["a.py"], {"n": [1, 2.5, None]}),
        Ping("Keep it logically awesome.", datetime.datetime(2025, 6, 3, 10, tzinfo=datetime.UTC)),
    ],
    ids=["struct", "dataclass"],
)
def test_typed_payloads_come_back_as_their_type(payload: Any) -> None:
    """A Struct or dataclass comes back equal and as an instance of its class."""
    typed_codec = make_codec(type(payload), max_bytes=1000)
    returned = typed_codec.decode(typed_codec.encode(payload))
    assert returned == payload
    assert type(returned) is type(payload)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"repo": "x"}, "payload"),
        (Push("x", Author("octocat", math.nan)), "payload.author"),
        (Push("x", Author("octocat"), extra=(1, 2)), "payload.extra"),
        (Push("x", Author("octocat"), files=[1]), "payload.files[0]"),  # type: ignore[list-item]
        (Push("\ud800", Author("octocat")), "payload"),
    ],
    ids=["other type", "nan", "tuple in Any", "wrong item", "lone surrogate"],
)
def test_a_typed_payload_that_would_change_is_refused_with_its_path(payload: Any, path: str) -> None:
    """The round trip is checked for typed payloads too, and the error names the field."""
    with pytest.raises(EncodeError) as caught:
        TypedCodec(Push, max_bytes=1000).encode(payload)
    assert caught.value.path == path


def test_a_typed_payload_over_the_limit_is_too_large() -> None:
    """The limit holds for typed payloads."""
    with pytest.raises(MessageTooLarge, match="max_event_bytes is 10"):
        TypedCodec(Ping, max_bytes=10).encode(Ping("Design for failure."))


@pytest.mark.parametrize("data", [b'{"repo":1}', b'{"repo":"hunter2"}', b"hunter2", b"", b"[" * 100_000])
def test_data_that_does_not_fit_the_type_is_a_decode_error(data: bytes) -> None:
    """Typed decoding names the field and the type, and quotes nothing."""
    with pytest.raises(DecodeError) as caught:
        TypedCodec(Push, max_bytes=1000).decode(data)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("payload_type", [dict, int, Nameless, Uncompared, "Push"], ids=str)
def test_a_payload_type_must_be_comparable_and_known_to_msgspec(payload_type: Any) -> None:
    """Only Structs and dataclasses that compare by value can be checked for a round trip."""
    with pytest.raises(ConfigError, match="payload_type"):
        make_codec(payload_type, max_bytes=1000)


metas = st.builds(
    Meta,
    deliveries=st.integers(0, 2**40),
    headers=st.dictionaries(text, text),
    content_type=st.none() | text.filter(bool),
    content_encoding=st.none() | text.filter(bool),
    redriven_from=st.none() | text.filter(bool),
    unknown=st.dictionaries(
        text.filter(lambda key: key not in {"v", "d", "h", "ct", "ce", "rf"}), json_values, max_size=3
    ),
)


@given(metas)
def test_meta_comes_back_with_the_keys_that_this_release_does_not_know(meta: Meta) -> None:
    """A rewritten meta field keeps everything that was in it."""
    assert decode_meta(encode_meta(meta)) == meta


def test_the_common_meta_is_a_constant() -> None:
    """An event without headers and history carries seven bytes, and decoding them builds nothing."""
    assert encode_meta(codec.PLAIN_META) == b'{"v":1}'
    assert decode_meta(b'{"v":1}') is codec.PLAIN_META


def test_the_common_meta_of_compressed_events_is_a_constant_too() -> None:
    """Decoding it builds nothing, which is felt where a thousand of them are handed out."""
    meta = encode_meta(codec.PLAIN_META.compressed(ZSTD))
    assert decode_meta(meta) is decode_meta(bytes(bytearray(meta)))
    assert decode_meta(meta) == Meta(version=2, content_encoding=ZSTD)


def test_with_deliveries_and_redriven_change_only_what_they_say() -> None:
    """A retry raises the count, a redrive resets it and notes where the event came from."""
    meta = Meta(headers={"trace": "1"}, unknown={"x": [1]})
    assert encode_meta(meta.with_deliveries(3)) == b'{"v":1,"d":3,"h":{"trace":"1"},"x":[1]}'
    assert meta.with_deliveries(3).redriven("7-1") == Meta(
        headers={"trace": "1"}, redriven_from="7-1", unknown={"x": [1]}
    )


def test_only_a_compressed_payload_raises_the_version() -> None:
    """An older release leaves such an entry alone, and takes all others; the count stays where scripts look for it."""
    meta = Meta(deliveries=2, headers={"trace": "1"})
    assert encode_meta(meta.compressed("zstd")) == b'{"v":2,"d":2,"ce":"zstd","h":{"trace":"1"}}'
    assert encode_meta(codec.PLAIN_META.compressed("zstd")) == b'{"v":2,"ce":"zstd"}'
    assert not decode_meta(b'{"v":2,"ce":"zstd"}').is_newer
    assert decode_meta(b'{"v":2,"ce":"zstd"}').with_deliveries(1).redriven("7-1") == Meta(
        version=2, content_encoding="zstd", redriven_from="7-1"
    )


def test_a_newer_meta_is_recognised_and_kept_as_it_is() -> None:
    """A higher version is detectable even if its keys mean something else, and nothing of it is lost."""
    meta = decode_meta(b'{"v":3,"d":"three","new":{"a":1}}')
    assert meta.is_newer
    assert not codec.PLAIN_META.is_newer
    assert meta.unknown == {"d": "three", "new": {"a": 1}}
    assert decode_meta(encode_meta(meta)) == meta


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"v":"1"}', b'{"v":1,"d":"x"}', b'{"v":1,"h":{"a":1}}', b'{"v":null}', b"\xff"]
)
def test_broken_meta_is_a_decode_error(data: bytes) -> None:
    """Meta without a version, of a wrong type or no JSON at all raises DecodeError."""
    with pytest.raises(DecodeError, match="meta field is broken"):
        decode_meta(data)


@pytest.mark.parametrize("event_id", ["x", "é" * 512, "72d3162e-cc78-11e3-81ab-4c9367dc0958"])
def test_a_good_event_id_is_returned(event_id: str) -> None:
    """Any text of 1 to 512 characters is an event id."""
    assert codec.check_event_id(event_id) == event_id


@pytest.mark.parametrize("event_id", ["", "x" * 513, "\ud800", 7, b"x", None])
def test_a_bad_event_id_is_refused(event_id: Any) -> None:
    """Empty, too long, not text or not UTF-8: refused, path `event_id`."""
    with pytest.raises(EncodeError) as caught:
        codec.check_event_id(event_id)
    assert caught.value.path == "event_id"


def test_headers_are_copied() -> None:
    """A later change of the caller's mapping does not reach the event."""
    headers = {"traceparent": "00-x"}
    checked = codec.check_headers(headers)
    headers.clear()
    assert checked == {"traceparent": "00-x"}
    assert codec.check_headers(None) == {}


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"x": 1}, "headers.x"),
        ({"x": None}, "headers.x"),
        ({"x": Name("a")}, "headers.x"),
        ({"x": "\ud800"}, "headers.x"),
        ({"a-b": 1}, "headers['a-b']"),
        ({1: "x"}, "headers"),
        ([("x", "y")], "headers"),
    ],
)
def test_bad_headers_are_refused_with_their_path(headers: Any, path: str) -> None:
    """Headers are str to str; anything else names the header."""
    with pytest.raises(EncodeError) as caught:
        codec.check_headers(headers)
    assert caught.value.path == path


@pytest.mark.parametrize("delay", [0, 0.0, 1, 2.5, 86_400])
def test_a_good_delay_is_a_float(delay: float) -> None:
    """Delays are seconds, ints are taken."""
    checked = codec.check_delay(delay)
    assert (type(checked), checked) == (float, delay)


@pytest.mark.parametrize("delay", [-1, -0.001, math.nan, math.inf, True, "1", None, 10**400])
def test_a_bad_delay_is_refused(delay: Any) -> None:
    """A delay that is not a finite number of at least 0 is refused, path `delay`."""
    with pytest.raises(EncodeError) as caught:
        codec.check_delay(delay)
    assert caught.value.path == "delay"
