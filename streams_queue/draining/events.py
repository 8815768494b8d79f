"""Events on their way out or in: the fields as they are stored, never decoded and encoded again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from streams_queue.codec import decode_meta, encode_meta
from streams_queue.errors import DecodeError

ENTRY_FIELDS = [b"id", b"payload", b"meta"]
DEAD_FIELDS = [b"reason", b"error", b"deliveries", b"enqueued_ms", b"died_ms"]

_LONGEST_LENGTH = 10


class State(StrEnum):
    """Where in the queue an event is."""

    WAITING = "waiting"
    DELAYED = "delayed"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Event:
    """One event with everything that the queue keeps of it.

    Attributes:
        state: Where it is, or goes to.
        fields: Names and values in turn; none for a member of the delayed set that no release wrote.
        entry_id: Of the stream's entry or the dead letter; empty if it has none, or is to get a new one.
        member: Of the delayed set.
        due_ms: When a delayed event is due, by the server's clock.
        count: The delivery count of the pending entry, for an event that was taken.
    """

    state: State
    fields: Sequence[bytes] = field(repr=False)
    entry_id: str = ""
    member: bytes = field(default=b"", repr=False)
    due_ms: float = 0
    count: int = 0

    @property
    def payload(self) -> bytes | None:
        """The payload as it is stored."""
        return self._field(b"payload")

    @property
    def handed_out(self) -> int:
        """How often earlier entries of the event were handed out; 0 where that cannot be read."""
        try:
            return decode_meta(self._field(b"meta") or b"").deliveries
        except DecodeError:
            return 0

    @property
    def added_ms(self) -> int:
        """When its entry was added; 0 if it has none."""
        return int(self.entry_id.partition("-")[0] or 0)

    def _field(self, wanted: bytes) -> bytes | None:
        return next(
            (value for name, value in zip(self.fields[::2], self.fields[1::2], strict=False) if name == wanted), None
        )


def taken(entry_id: str, count: int, fields: Sequence[bytes]) -> Event:
    """Return a waiting event that a drain has taken; its deliveries to others count, the one to the drain does not."""
    return Event(State.WAITING, _counted(fields, count - 1), entry_id, count=count)


def _counted(fields: Sequence[bytes], crashes: int) -> Sequence[bytes]:
    if crashes <= 0 or list(fields[::2]) != ENTRY_FIELDS:
        return fields
    try:
        meta = decode_meta(fields[5])
    except DecodeError:
        return fields
    if meta.is_newer:
        return fields
    return [*fields[:5], encode_meta(meta.with_deliveries(meta.deliveries + crashes))]


def delayed(member: bytes, due_ms: float) -> Event:
    """Return a delayed event."""
    return Event(State.DELAYED, unframe(member) or (), member=member, due_ms=due_ms)


def dead(dead_id: str, fields: Sequence[bytes]) -> Event:
    """Return a dead letter."""
    return Event(State.DEAD, fields, dead_id)


# --- members of the delayed set, as in lua/shared/frame.lua -----------------------------------------------------------


def frame(prefix: bytes, fields: Sequence[bytes]) -> bytes:
    """Return a member: the prefix and each field as `<length>:<bytes>`."""
    return b"".join(b"%d:%s" % (len(part), part) for part in (prefix, *fields))


def unframe(member: bytes) -> list[bytes] | None:
    """Return the fields of a member, or None if it was not written by `frame`."""
    parts: list[bytes] = []
    position = 0
    while position < len(member):
        colon = member.find(b":", position, position + _LONGEST_LENGTH + 1)
        digits = member[position:colon] if colon > position else b""
        if not digits.isdigit() or colon + int(digits) >= len(member):
            return None
        position = colon + 1 + int(digits)
        parts.append(member[colon + 1 : position])
    return parts[1:] if len(parts) >= 3 and len(parts) % 2 else None
