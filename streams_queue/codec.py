"""Payloads and meta to bytes and back: decode(encode(x)) == x, type by type, or a clear error that names the path.

Why it is built as it is, with figures: docs/decisions/0010-payload-codec.md. Nothing here knows of Redis or asyncio.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final, NoReturn, Protocol

import msgspec
import msgspec.inspect

from streams_queue.errors import ConfigError, DecodeError, EncodeError, MessageTooLarge
from streams_queue.messages import Payload

# The deepest nesting that is taken. It is a constant, so that what one process accepted another can read, however deep
# its own stack happens to be; GitHub's payloads have 8 levels.
MAX_DEPTH: Final = 200
MAX_EVENT_ID_LENGTH: Final = 512
# The latest that is understood. What is written is 1, but for a compressed payload 2: an older release leaves it alone.
META_VERSION: Final = 2

# Before 0.20 the errors of msgspec were no ValueErrors.
_UNREADABLE: Final = (ValueError, RecursionError, msgspec.MsgspecError)
_CANNOT_ENCODE: Final = (TypeError, OverflowError, *_UNREADABLE)

# Values of these come back as they are, whatever they are.
_PLAIN_TYPES: Final = frozenset((int, bool, type(None)))

_encode_json = msgspec.json.encode
_decode_json = msgspec.json.decode


class Codec(Protocol):
    """Turns payloads into bytes and back without changing them.

    Attributes:
        max_bytes: The largest encoded payload that is taken.
    """

    max_bytes: int

    def encode(self, payload: Any) -> bytes:
        """Return the bytes that travel.

        Raises:
            EncodeError: The payload would not come back equal; `path` says where.
            MessageTooLarge: The bytes are more than the queue takes.
        """
        ...

    def encode_all(self, payloads: Sequence[Any]) -> list[bytes]:
        """Return what `encode` returns of each, sooner. Raises as `encode`, for the first that is bad."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the payload. Raises DecodeError, whose message holds nothing of the payload."""
        ...


def make_codec(payload_type: type[Any] | None, *, max_bytes: int) -> Codec:
    """Return the codec for JSON objects, or for a msgspec Struct or dataclass. Raises ConfigError for other types."""
    return JsonCodec(max_bytes=max_bytes) if payload_type is None else TypedCodec(payload_type, max_bytes=max_bytes)


class JsonCodec:
    """Payloads are dicts with string keys; inside: dict, list, str, int, finite float, bool and None, nothing else.

    Args:
        max_bytes: The largest encoded payload that is taken.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes

    def encode(self, payload: Any) -> bytes:
        """Return compact JSON. Raises EncodeError or MessageTooLarge."""
        if type(payload) is not dict:
            raise EncodeError("payload", f"must be a dict, not {_type_name(payload)}")
        try:
            # First, although it lets too much through: it ends at a circular reference, which the walk would not.
            data = _encode_json(payload)
        except _CANNOT_ENCODE as error:
            _refuse(payload, error)
        if len(data) > self.max_bytes:
            _refuse_size(data, self.max_bytes)
        if not _comes_back_equal(payload, MAX_DEPTH):
            _refuse(payload)
        return data

    def encode_all(self, payloads: Sequence[Any]) -> list[bytes]:
        """Return compact JSON of each. Raises EncodeError or MessageTooLarge for the first that is bad."""
        try:
            encoded = [_encode_json(payload) for payload in payloads]
        except _CANNOT_ENCODE:
            encoded = []
        if (
            len(encoded) == len(payloads)
            and _all_come_back_equal(payloads)
            and max(map(len, encoded), default=0) <= self.max_bytes
        ):
            return encoded
        return [self.encode(payload) for payload in payloads]

    def decode(self, data: bytes) -> Payload:
        """Return the payload. Raises DecodeError."""
        payload = _decode(data)
        if type(payload) is not dict:
            raise DecodeError(f"the payload is not a JSON object but {_type_name(payload)}")
        return payload


class TypedCodec:
    """Payloads are instances of one msgspec Struct or dataclass; what comes back equals what went in.

    Args:
        payload_type: The class; it needs an `__eq__` of its own, by which the round trip is judged.
        max_bytes: The largest encoded payload that is taken.
    """

    def __init__(self, payload_type: type[Any], *, max_bytes: int) -> None:
        _check_payload_type(payload_type)
        self.payload_type = payload_type
        self.max_bytes = max_bytes
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(payload_type)

    def encode(self, payload: Any) -> bytes:
        """Return compact JSON. Raises EncodeError or MessageTooLarge."""
        if type(payload) is not self.payload_type:
            raise EncodeError("payload", f"must be {self.payload_type.__name__}, not {_type_name(payload)}")
        try:
            data = _encode_json(payload)
            returned = self._decoder.decode(data)
        except _CANNOT_ENCODE as error:
            raise EncodeError(_path_in(error), f"would not come back as it is ({type(error).__name__})") from None
        if len(data) > self.max_bytes:
            _refuse_size(data, self.max_bytes)
        if returned != payload:
            raise EncodeError(_first_difference(payload, returned), "would not come back equal")
        return data

    def encode_all(self, payloads: Sequence[Any]) -> list[bytes]:
        """Return compact JSON of each. Raises EncodeError or MessageTooLarge for the first that is bad."""
        return [self.encode(payload) for payload in payloads]

    def decode(self, data: bytes) -> Any:
        """Return an instance of the payload type. Raises DecodeError."""
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            raise DecodeError(f"{_path_in(error)}: does not fit {self.payload_type.__name__}") from None
        except _UNREADABLE as error:
            raise DecodeError(_why_not_json(error)) from None


# --- JSON payloads: the fast check, and the slow one that says what is wrong -----------------------------------------


def _all_come_back_equal(payloads: Sequence[Any]) -> bool:
    for payload in payloads:  # noqa: SIM110 - a generator would be felt
        if type(payload) is not dict or not _comes_back_equal(payload, MAX_DEPTH):
            return False
    return True


def _comes_back_equal(container: Any, levels: int) -> bool:  # noqa: C901 - see below
    """Tell whether a dict or list holds only what JSON leaves as it is; subclasses would come back bare."""
    # One loop for each of the two: this is where half the time of an enqueue goes.
    if type(container) is dict:
        for key, value in container.items():
            if type(key) is not str:
                return False
            kind = type(value)
            if kind is str or kind in _PLAIN_TYPES:
                continue
            if kind is dict or kind is list:
                if levels <= 1 or not _comes_back_equal(value, levels - 1):
                    return False
            elif kind is not float or not math.isfinite(value):
                return False
        return True
    for value in container:
        kind = type(value)
        if kind is str or kind in _PLAIN_TYPES:
            continue
        if kind is dict or kind is list:
            if levels <= 1 or not _comes_back_equal(value, levels - 1):
                return False
        elif kind is not float or not math.isfinite(value):
            return False
    return True


def _refuse(payload: Payload, error: BaseException | None = None) -> NoReturn:
    """Raise the EncodeError for the first thing in the payload that cannot travel."""
    for path, problem in _problems(payload, "payload", ()):
        raise EncodeError(path, problem) from None
    raise EncodeError("payload", f"cannot be encoded ({type(error).__name__})") from None


def _problems(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Walk depth first and yield (path, problem); `above` holds the identities of the containers around the value."""
    if type(value) is not dict and type(value) is not list:
        yield from ((path, problem) for problem in _leaf_problems(value))
    elif id(value) in above:
        yield path, "refers back to a container that holds it"
    elif len(above) >= MAX_DEPTH:
        yield _shortened(path), f"is nested deeper than {MAX_DEPTH} levels"
    elif type(value) is list:
        for index, item in enumerate(value):
            yield from _problems(item, f"{path}[{index}]", (*above, id(value)))
    elif type(value) is dict:
        for key, item in value.items():
            yield from ((path, f"has the key {problem}") for problem in _key_problems(key))
            yield from _problems(item, _member(path, key), (*above, id(value)))


def _leaf_problems(value: Any) -> Iterator[str]:
    kind = type(value)
    if kind is str:
        if _has_lone_surrogate(value):
            yield "holds a lone surrogate, which UTF-8 cannot carry"
    elif kind is float:
        if not math.isfinite(value):
            yield f"is {value}, which JSON cannot carry"
    elif kind is int:
        if _too_long_to_print(value):
            yield "is an int with more digits than Python reads or writes (sys.get_int_max_str_digits)"
    elif kind is not bool and value is not None:
        yield f"is {_type_name(value)}, which would come back as another type"


def _key_problems(key: Any) -> Iterator[str]:
    if type(key) is not str:
        yield f"{_shortened(repr(key))} of type {_type_name(key)}; keys must be str"
    elif _has_lone_surrogate(key):
        yield f"{key!a} with a lone surrogate, which UTF-8 cannot carry"


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _too_long_to_print(number: int) -> bool:
    try:
        str(number)
    except ValueError:
        return True
    return False


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _member(path: str, key: object) -> str:
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{_shortened(ascii(key))}]"


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}…{text[-30:]}"


def _refuse_size(data: bytes, max_bytes: int) -> NoReturn:
    raise MessageTooLarge(f"the payload is {len(data)} bytes; max_event_bytes is {max_bytes}")


# --- decoding --------------------------------------------------------------------------------------------------------


def _decode(data: bytes) -> Any:
    try:
        return _decode_json(data)
    except msgspec.ValidationError:
        return _decode_large_numbers(data)
    except _UNREADABLE as error:
        raise DecodeError(_why_not_json(error)) from None


def _decode_large_numbers(data: bytes) -> Any:
    """Decode with the standard library, which reads ints that msgspec finds too long, such as -10**4299."""
    try:
        return json.loads(data.decode(), parse_float=_finite, parse_constant=_finite)
    except _UNREADABLE as error:
        raise DecodeError(f"not a JSON value that Python can hold ({type(error).__name__})") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(number)
    return number


def _why_not_json(error: Exception) -> str:
    # What msgspec says of broken JSON is a fixed phrase and a position; of a wrong value it may quote the value.
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
        return f"not JSON: {error}"
    if isinstance(error, RecursionError):
        return "not readable: nested too deep"
    return f"not JSON ({type(error).__name__})"


# --- typed payloads --------------------------------------------------------------------------------------------------


def _check_payload_type(payload_type: Any) -> None:
    is_class = isinstance(payload_type, type)
    if is_class and issubclass(payload_type, msgspec.Struct):
        compares_by_value = payload_type.__struct_config__.eq
    elif is_class and dataclasses.is_dataclass(payload_type):
        compares_by_value = "__eq__" in vars(payload_type)
    else:
        raise ConfigError(f"payload_type must be a msgspec Struct or a dataclass, not {payload_type!r}")
    if not compares_by_value:
        raise ConfigError(f"payload_type {payload_type.__name__} must compare by value (eq=True)")


def make_instance(payload: Mapping[str, Any], payload_type: type[Any]) -> Any:
    """Return an instance of a payload type that has the values of a mapping.

    Raises:
        EncodeError: A value is missing, or of another type, or one that the type has no field for and would be dropped.
    """
    fields = _fields_of(payload_type)
    _refuse_names(payload.keys() - fields.keys(), f"{payload_type.__name__} has no field for")
    _refuse_names({name for name, required in fields.items() if required} - payload.keys(), "lacks")
    try:
        return msgspec.convert(payload, payload_type)
    except _UNREADABLE as error:
        raise EncodeError(_path_in(error), f"does not fit {payload_type.__name__}") from None


def _fields_of(payload_type: type[Any]) -> dict[str, bool]:
    """Return which keys a JSON object for a payload type may have, and whether it has to."""
    described: Any = msgspec.inspect.type_info(payload_type)
    return {field.encode_name: field.required for field in described.fields}


def _refuse_names(names: Set[object], problem: str) -> None:
    if names:
        raise EncodeError("payload", f"{problem} {', '.join(sorted(_shortened(str(name)) for name in names))}")


def _path_in(error: Exception) -> str:
    """Return the path that msgspec names at the end of its messages, as a path below `payload`."""
    found = re.search(r"at `\$([^`]*)`$", str(error))
    return f"payload{found[1]}" if found else "payload"


def _first_difference(sent: Any, returned: Any) -> str:
    names = type(sent).__struct_fields__ if isinstance(sent, msgspec.Struct) else _dataclass_fields(sent)
    for name in names:
        if getattr(sent, name) != getattr(returned, name):
            return f"payload.{name}"
    return "payload"


def _dataclass_fields(value: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(value))


# --- what travels beside the payload ---------------------------------------------------------------------------------


def check_event_id(event_id: str) -> str:
    """Return the caller's event id. Raises EncodeError with the path `event_id` if it cannot travel or is too long."""
    if not isinstance(event_id, str):
        raise EncodeError("event_id", f"must be a str, not {_type_name(event_id)}")
    if not 1 <= len(event_id) <= MAX_EVENT_ID_LENGTH:
        raise EncodeError("event_id", f"must have 1 to {MAX_EVENT_ID_LENGTH} characters, not {len(event_id)}")
    if _has_lone_surrogate(event_id):
        raise EncodeError("event_id", "holds a lone surrogate, which UTF-8 cannot carry")
    return event_id


def check_event_ids(event_ids: Sequence[str | None] | None, count: int) -> list[str | None]:
    """Return one id or None per payload. Raises EncodeError if they are not `count`, or one cannot travel."""
    if event_ids is None:
        return [None] * count
    if len(event_ids) != count:
        raise EncodeError("event_ids", f"must be as many as the payloads, {count}, not {len(event_ids)}")
    return [None if event_id is None else check_event_id(event_id) for event_id in event_ids]


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of the headers, {} for None. Raises EncodeError with a path such as `headers.traceparent`."""
    if headers is None:
        return {}
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise EncodeError("headers", f"must be a mapping of str to str, not {_type_name(headers)}")
    for name, value in headers.items():
        if type(name) is str and type(value) is str and name.isascii() and value.isascii():
            # As nearly all are; nothing can be wrong with them.
            continue
        for problem in _key_problems(name):
            raise EncodeError("headers", f"has the key {problem}")
        path = _member("headers", name)
        if type(value) is not str:
            raise EncodeError(path, f"must be a str, not {_type_name(value)}")
        for problem in _leaf_problems(value):
            raise EncodeError(path, problem)
    return dict(headers)


def check_delay(delay: float) -> float:
    """Return the delay in seconds as a float. Raises EncodeError with the path `delay` unless finite and >= 0."""
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise EncodeError("delay", f"must be a number of seconds, not {_type_name(delay)}")
    if not 0 <= delay <= _LONGEST_DELAY:
        raise EncodeError("delay", f"must be between 0 and {_LONGEST_DELAY:.0f} seconds")
    return float(delay)


# A hundred years, so that a due time always fits what a server or an event loop computes with.
_LONGEST_DELAY: Final = 100 * 365.25 * 86_400


class Meta(msgspec.Struct, frozen=True):
    """What the `meta` field of an entry says about the event beside it.

    Attributes:
        version: Of this format; one above META_VERSION was written by a newer release, and only `unknown` is filled.
        deliveries: How often the event had been handed out by earlier entries.
        headers: What the producer gave along.
        content_type: What the payload is, if not JSON.
        content_encoding: How the payload is compressed, if it is.
        redriven_from: The dead letter that this event was, if an operator put it back.
        unknown: Keys that this release does not know; kept when the entry is written again.
    """

    version: int = 1
    deliveries: int = 0
    headers: Mapping[str, str] = {}
    content_type: str | None = None
    content_encoding: str | None = None
    redriven_from: str | None = None
    unknown: Mapping[str, Any] = {}

    @property
    def is_newer(self) -> bool:
        """Whether a newer release wrote it: leave the entry to one that can read it."""
        return self.version > META_VERSION

    def with_deliveries(self, deliveries: int) -> Meta:
        """Return the same meta with another count of deliveries so far."""
        return msgspec.structs.replace(self, deliveries=deliveries)

    def compressed(self, encoding: str) -> Meta:
        """Return the meta of the same event with its payload compressed."""
        return msgspec.structs.replace(self, version=2, content_encoding=encoding)

    def redriven(self, dead_id: str) -> Meta:
        """Return the meta of this event put back from the dead letters: count 0, and where it came from."""
        return msgspec.structs.replace(self, deliveries=0, redriven_from=dead_id)


PLAIN_META: Final = Meta()
_PLAIN_META_BYTES: Final = b'{"v":1}'
# The other one that most events have, where payloads are compressed.
_COMPRESSED_META: Final = PLAIN_META.compressed("zstd")
_COMPRESSED_META_BYTES: Final = b'{"v":2,"ce":"zstd"}'


def encode_meta(meta: Meta) -> bytes:
    """Return the meta field; keys at their defaults are left out."""
    if meta is PLAIN_META:
        return _PLAIN_META_BYTES
    fields: dict[str, Any] = {
        "v": meta.version,
        "d": meta.deliveries,
        "ce": meta.content_encoding,
        "h": meta.headers,
        "ct": meta.content_type,
        "rf": meta.redriven_from,
    }
    return _encode_json({**{name: value for name, value in fields.items() if value}, **meta.unknown})


def decode_meta(data: bytes) -> Meta:
    """Return what a meta field says. Raises DecodeError if it is broken; a newer one is returned, see `is_newer`."""
    if data == _PLAIN_META_BYTES:
        return PLAIN_META
    if data == _COMPRESSED_META_BYTES:
        return _COMPRESSED_META
    try:
        fields = _decode_json(data, type=dict[str, Any])
        version = msgspec.convert(fields.pop("v", None), int)
        known = {} if version > META_VERSION else {name: fields.pop(name) for name in _META_FIELDS if name in fields}
        return msgspec.convert(
            {_META_FIELDS[name]: value for name, value in known.items()} | {"version": version, "unknown": fields}, Meta
        )
    except _UNREADABLE as error:
        raise DecodeError(f"the meta field is broken ({type(error).__name__})") from None


_META_FIELDS: Final = {
    "d": "deliveries",
    "ce": "content_encoding",
    "h": "headers",
    "ct": "content_type",
    "rf": "redriven_from",
}
