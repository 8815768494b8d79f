"""Exported events as JSON lines: docs/reference/exported-events.md. Pure.

The text of a payload stands in its line as a string, byte for byte; bytes that are no text stand there as base64. The
same holds for every other field, so that what comes back equals what was there.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from streams_queue.codec import Meta, check_headers, decode_meta, encode_meta
from streams_queue.draining.events import DEAD_FIELDS, ENTRY_FIELDS, Event, State, frame
from streams_queue.errors import DecodeError, MessageError

VERSION: Final = 1

_ID = re.compile(r"\d{1,20}-\d{1,20}")
_EXPORT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST = 10**15
_OWN = 2 * len(DEAD_FIELDS)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line.

    Attributes:
        export_id: Names the file's events wherever they are imported.
        queue: Of which queue they are: its stream's key.
    """

    export_id: str
    queue: str


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last line of a complete file: how many events are before it, by state."""

    counts: Mapping[str, int]

    @property
    def events(self) -> int:
        """How many altogether."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Line:
    """An event's line; `number` goes up from line to line and names the event in its file."""

    number: int
    event: Event = field(repr=False)


# --- writing ---


def header_line(header: Header) -> bytes:
    """Return the first line."""
    return _line({"streams_queue_events": VERSION, "export_id": header.export_id, "queue": header.queue})


def trailer_line(counts: Mapping[str, int]) -> bytes:
    """Return the last line."""
    return _line({"end": True, "events": sum(counts.values()), **counts})


def event_line(number: int, event: Event) -> bytes:
    """Return an event's line."""
    return _line({"n": number, "state": event.state.value, **_where(event), **_what(event)})


def _where(event: Event) -> dict[str, Any]:
    """Return what its place in the queue says of an event."""
    match event.state:
        case State.DELAYED:
            return {"due_at": event.due_ms / 1000 if math.isfinite(event.due_ms) else None}
        case State.WAITING:
            return {"entry_id": event.entry_id, "enqueued_at": event.added_ms / 1000}
        case _:
            return {"entry_id": event.entry_id}


def _what(event: Event) -> dict[str, Any]:
    """Return what its fields say."""
    if event.state is State.DELAYED and not event.fields:
        return {"member": _text(event.member)}
    if event.state is State.DEAD and _is_ours(event.fields):
        return _entry(event.fields[:-_OWN]) | _death(event.fields[-_OWN:])
    return _entry(event.fields)


def _is_ours(fields: Sequence[bytes]) -> bool:
    own = fields[-_OWN:]
    return len(fields) > _OWN and own[::2] == DEAD_FIELDS and all(_is_number(number) for number in own[5::2])


def _is_number(text: bytes) -> bool:
    return text.isdigit() and b"%d" % int(text) == text and len(text) < 16


def _death(own: Sequence[bytes]) -> dict[str, Any]:
    reason, error, deliveries, enqueued_ms, died_ms = own[1::2]
    return {
        "reason": _text(reason),
        "error": _text(error),
        "deliveries": int(deliveries),
        "enqueued_at": int(enqueued_ms) / 1000,
        "died_at": int(died_ms) / 1000,
    }


def _entry(fields: Sequence[bytes]) -> dict[str, Any]:
    """Return what to write of an entry's own fields: under names where they are what this package writes."""
    if list(fields[::2]) != ENTRY_FIELDS or len(fields) != 2 * len(ENTRY_FIELDS):
        return {"fields": [_text(each) for each in fields]}
    event_id, payload, meta = fields[1::2]
    return {"event_id": _text(event_id), **_for_readers(meta), "meta": _text(meta), "payload": _text(payload)}


def _for_readers(meta: bytes) -> dict[str, Any]:
    """Return what is in meta once more, for whoever reads the file; `meta` is what counts."""
    try:
        known = decode_meta(meta)
    except DecodeError:
        return {}
    return {"deliveries": known.deliveries} | ({"headers": dict(known.headers)} if known.headers else {})


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _line(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document) + b"\n"


# --- reading ---


def read_line(text: bytes) -> Header | Trailer | Line:
    """Read a line.

    Raises:
        MessageError: It is none of this format; says why, and never holds a payload.
    """
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MessageError("not a JSON object") from None
    if "streams_queue_events" in document:
        return _read_header(document)
    if document.get("end") is True:
        return _read_trailer(document)
    return Line(_read_whole(document, "n", least=1), _read_event(document))


def _read_header(document: dict[str, Any]) -> Header:
    version = document["streams_queue_events"]
    if version != VERSION:
        raise MessageError(f"the file has another version than {VERSION}, the one that this release reads")
    export_id, queue = document.get("export_id"), document.get("queue")
    if not isinstance(export_id, str) or not _EXPORT_ID.fullmatch(export_id) or not isinstance(queue, str):
        raise MessageError("the header has no export_id or no queue")
    return Header(export_id, queue)


def _read_trailer(document: dict[str, Any]) -> Trailer:
    return Trailer({state.value: _read_whole(document, state.value, least=0) for state in State})


def _read_event(document: dict[str, Any]) -> Event:
    try:
        state = State(str(document.get("state")))
    except ValueError:
        raise MessageError(f"state must be one of {', '.join(State)}") from None
    if state is State.DELAYED:
        due_ms = _read_due(document)
        if "member" in document:
            return Event(state, (), member=_read_bytes(document, "member"), due_ms=due_ms)
        return Event(state, _read_fields(document), due_ms=due_ms)
    return Event(
        state, _read_fields(document) + (_read_death(document) if state is State.DEAD else []), _read_id(document)
    )


def _read_fields(document: dict[str, Any]) -> list[bytes]:
    listed = document.get("fields")
    if listed is None:
        values = [_read_bytes(document, "event_id"), _read_bytes(document, "payload"), _read_meta(document)]
        return [part for pair in zip(ENTRY_FIELDS, values, strict=True) for part in pair]
    if not isinstance(listed, list) or not listed or len(listed) % 2:
        raise MessageError("fields must be a list of names and values in turn")
    return [_read_text(each, "fields") for each in listed]


def _read_meta(document: dict[str, Any]) -> bytes:
    if "meta" in document:
        return _read_bytes(document, "meta")
    # Those of a dead letter were counted to its end, and begin anew with a redrive.
    deliveries = 0 if "reason" in document else _read_whole(document, "deliveries", least=0, default=0)
    return encode_meta(Meta(deliveries=deliveries, headers=check_headers(document.get("headers"))))


def _read_death(document: dict[str, Any]) -> list[bytes]:
    if "reason" not in document:
        return []
    values = [
        _read_bytes(document, "reason"),
        _read_bytes(document, "error") if "error" in document else b"",
        b"%d" % _read_whole(document, "deliveries", least=0, default=0),
        b"%d" % _read_ms(document, "enqueued_at"),
        b"%d" % _read_ms(document, "died_at"),
    ]
    return [part for pair in zip(DEAD_FIELDS, values, strict=True) for part in pair]


def _read_id(document: dict[str, Any]) -> str:
    entry_id = document.get("entry_id", "")
    if not isinstance(entry_id, str) or (entry_id and not _ID.fullmatch(entry_id)):
        raise MessageError("entry_id must be written <milliseconds>-<number>")
    return entry_id


def _read_due(document: dict[str, Any]) -> float:
    return math.inf if document.get("due_at", 0) is None else _read_ms(document, "due_at")


def _read_ms(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise MessageError(f"{name} must be seconds since the epoch")
    return round(value * 1000)


def _read_bytes(document: dict[str, Any], name: str) -> bytes:
    if name not in document:
        raise MessageError(f"{name} is missing")
    return _read_text(document[name], name)


def _read_text(value: Any, name: str) -> bytes:
    if isinstance(value, dict) and list(value) == ["base64"] and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise MessageError(f"{name} is not base64") from None
    if not isinstance(value, str):
        raise MessageError(f"{name} must be a string, or an object with base64")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise MessageError(f"{name} holds a lone surrogate") from None


def _read_whole(document: dict[str, Any], name: str, *, least: int, default: int | None = None) -> int:
    value = document.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _MOST:
        raise MessageError(f"{name} must be a whole number from {least} on")
    return value


def member_of(export_id: str, line: Line) -> bytes:
    """Return an event's fields as a member of the delayed set, the same each time and unlike those of all others."""
    return line.event.member or frame(f"import-{export_id}-{line.number}".encode(), line.event.fields)
