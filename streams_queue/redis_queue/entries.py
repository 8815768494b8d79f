"""From the raw fields of a stream entry to a delivery, or to the reason why not. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from streams_queue.codec import PLAIN_META, Codec, Meta, decode_meta
from streams_queue.compression import CannotExpandError, expand
from streams_queue.errors import DecodeError, MessageTooLarge
from streams_queue.messages import DeadLetter, Delivery, InFlightEvent, WaitingEvent

# The end of the year 9999: a calendar and an operator's terminal go no further, the ids and scores of others do.
_LAST_MS = 253_402_300_799_000

_ID = re.compile(r"[A-Za-z0-9._:/@+=~-]{1,128}")

# What we write, in the order in which we write it.
_OURS = [b"id", b"payload", b"meta"]

# As in lua/shared/entry.lua: before anything nested.
_COUNT = re.compile(rb'\{[^{}]*"d"\s*:\s*(\d+)')


@dataclass(frozen=True, slots=True)
class Broken:
    """An entry that no release can read: it goes to the dead letters."""

    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Newer:
    """An entry that cannot be read here, and may be elsewhere: it is left to a consumer that can.

    Attributes:
        version: Of its format.
        needs: What this consumer lacks.
    """

    version: int
    needs: str = "a newer release"


def fields_of(flat: Sequence[bytes]) -> dict[str, bytes]:
    """Return a flat list of names and values as a mapping; of a name that comes twice the last one counts."""
    return {name.decode("utf-8", "replace"): value for name, value in zip(flat[::2], flat[1::2], strict=False)}


def read_entry(
    entry_id: str, count: int, flat: Sequence[bytes], codec: Codec, max_bytes: int
) -> Delivery | Broken | Newer:
    """Turn an entry into a delivery.

    Args:
        entry_id: The stream's id, `<milliseconds>-<number>`.
        count: The delivery count of the pending entry, this delivery included.
        flat: Names and values as they are stored.
        codec: Reads the payload.
        max_bytes: The largest payload that is handed to a handler.
    """
    if flat[::2] == _OURS:
        event_id, payload, stored_meta = flat[1::2]
    else:
        fields = fields_of(flat)
        missing = [name for name in ("id", "payload", "meta") if name not in fields]
        if missing:
            return Broken("undecodable", f"the entry has no field {', '.join(missing)}")
        event_id, payload, stored_meta = fields["id"], fields["payload"], fields["meta"]
    meta = PLAIN_META
    try:
        meta = decode_meta(stored_meta)
        if meta is not PLAIN_META:
            if meta.is_newer:
                return Newer(meta.version)
            if not _countable(stored_meta, meta.deliveries):
                return Broken("undecodable", "the scripts cannot read the deliveries in the meta field")
        if len(payload) > max_bytes:
            return Broken("too_large", f"the payload is {len(payload)} bytes; max_event_bytes is {max_bytes}")
        if meta.content_encoding is not None:
            payload = expand(payload, meta.content_encoding, max_bytes=codec.max_bytes)
        return Delivery(
            codec.decode(payload),
            event_id.decode(),
            entry_id,
            meta.deliveries + count,
            meta.headers,
            _moment(entry_id.partition("-")[0]),
        )
    except Exception as error:  # noqa: BLE001 - a payload type may raise anything
        return _why_not(error, meta)


def _why_not(error: Exception, meta: Meta) -> Broken | Newer:
    match error:
        case DecodeError():
            return Broken("undecodable", str(error))
        case MessageTooLarge():
            return Broken("too_large", str(error))
        case CannotExpandError():
            return Newer(meta.version, str(error))
        case UnicodeDecodeError():
            return Broken("undecodable", "the id is not UTF-8")
        case _:
            # Its message may hold the payload.
            return Broken("undecodable", f"cannot be read ({type(error).__name__})")


def _countable(meta: bytes, deliveries: int) -> bool:
    """Whether the scripts find the same count where they look for it, so that retries come to an end."""
    found = _COUNT.match(meta)
    return meta.startswith(b"{") and deliveries == (int(found[1]) if found else 0)


@lru_cache(maxsize=64)
def _moment(milliseconds: str) -> float:
    """Return seconds since the epoch; of events that came together many have the same."""
    return _seconds(int(milliseconds))


def milliseconds_of(entry_id: str) -> int:
    """Return when an entry was added, in milliseconds since the epoch by the server's clock."""
    return int(entry_id.partition("-")[0])


def read_dead_letter(dead_id: str, flat: Sequence[bytes], codec: Codec) -> DeadLetter:
    """Turn an entry of the dead letters into what an operator looks at; a payload that cannot be read is None."""
    fields = fields_of(flat)
    return DeadLetter(
        dead_id=dead_id,
        event_id=_text(fields.get("id")),
        payload=_payload_or_none(fields, codec),
        reason=_text(fields.get("reason")) or "unknown",
        error=_text(fields.get("error")),
        deliveries=_number(fields.get("deliveries")),
        enqueued_at=_seconds(_number(fields.get("enqueued_ms"))),
        died_at=_seconds(_number(fields.get("died_ms"), milliseconds_of(dead_id))),
        raw=fields,
    )


def read_waiting(entry_id: str, flat: Sequence[bytes], codec: Codec) -> WaitingEvent:
    """Turn a waiting entry into what `peek` shows."""
    fields = fields_of(flat)
    return WaitingEvent(
        payload=_payload_or_none(fields, codec),
        event_id=_text(fields.get("id")),
        entry_id=entry_id,
        state="waiting",
        deliveries=_earlier_deliveries(fields),
    )


def read_delayed(due_ms: float, flat: Sequence[bytes], codec: Codec) -> WaitingEvent:
    """Turn a delayed event into what `peek` shows."""
    fields = fields_of(flat)
    return WaitingEvent(
        payload=_payload_or_none(fields, codec),
        event_id=_text(fields.get("id")),
        entry_id=None,
        state="delayed",
        due_at=_seconds(due_ms),
        deliveries=_earlier_deliveries(fields),
    )


def read_in_flight(
    entry_id: str, holder: tuple[str, int, int], flat: Sequence[bytes], codec: Codec, *, now_ms: int
) -> InFlightEvent:
    """Turn a pending entry into what an operator looks at.

    Args:
        entry_id: The stream's id.
        holder: The consumer, the milliseconds since it was handed out or renewed, and the delivery count.
        flat: Names and values as they are stored; without the payload, or without anything if the entry is gone.
        codec: Reads the payload.
        now_ms: By the server's clock.
    """
    consumer, idle_ms, count = holder
    fields = fields_of(flat)
    added_ms = milliseconds_of(entry_id)
    return InFlightEvent(
        event_id=_text(fields.get("id")),
        entry_id=entry_id,
        consumer=consumer,
        deliveries=_earlier_deliveries(fields) + count,
        enqueued_at=_seconds(added_ms),
        age=max(0, now_ms - added_ms) / 1000,
        idle=max(0, idle_ms) / 1000,
        payload=_payload_or_none(fields, codec),
        raw=fields,
    )


def shown_id(event_id: str) -> str:
    """Return an event id that may stand in a log; what looks like none may be a payload that others put there."""
    return event_id if _ID.fullmatch(event_id) else "(whose id is none)"


def digest(event_id: str) -> str:
    """Return 96 bits that stand for an event id in the dedup buckets, as 16 characters that Lua and logs can print."""
    return base64.urlsafe_b64encode(hashlib.blake2b(event_id.encode(), digest_size=12).digest()).decode()


def _payload_or_none(fields: Mapping[str, bytes], codec: Codec) -> Any:
    try:
        payload, encoding = fields["payload"], _encoding(fields)
        return codec.decode(payload if encoding is None else expand(payload, encoding, max_bytes=codec.max_bytes))
    except Exception:  # noqa: BLE001 - a payload type may raise anything; the fields are shown as they are then
        return None


def _encoding(fields: Mapping[str, bytes]) -> str | None:
    try:
        return decode_meta(fields["meta"]).content_encoding
    except (KeyError, DecodeError):
        return None


def _earlier_deliveries(fields: Mapping[str, bytes]) -> int:
    try:
        return decode_meta(fields["meta"]).deliveries
    except (KeyError, DecodeError):
        return 0


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value is not None else ""


def _number(value: bytes | None, default: int = 0) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else default


def _seconds(milliseconds: float) -> float:
    return min(max(0, milliseconds), _LAST_MS) / 1000
