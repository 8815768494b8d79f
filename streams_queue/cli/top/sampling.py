"""One look at a queue after the other, on a connection of its own; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streams_queue.config import Settings
from streams_queue.errors import BackendError
from streams_queue.redis_client import Link, endpoint_from_url
from streams_queue.redis_queue.commands import Figures, StreamCommands
from streams_queue.redis_queue.entries import fields_of

_MOST_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRow:
    """A member of the group: what is pending for it, and how long it has been silent, in seconds."""

    name: str
    pending: int
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightRow:
    """An event in flight: who has it, for how long its lease was not renewed, how often it was handed out."""

    entry_id: str
    consumer: str
    idle: float
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRow:
    """A dead letter."""

    event_id: str
    died_at: float
    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the server said at one moment.

    Attributes:
        at: That moment by the server's clock, in seconds.
        waiting: Not handed out.
        in_flight: Handed out and not settled.
        delayed: Not due yet.
        dead: Dead letters.
        oldest_waiting: Seconds that the oldest waiting event has waited; None if nothing waits.
        oldest_in_flight: Seconds since the oldest event in flight was added; None if there is none.
        paused: What an operator has paused.
        refusal: Why the server takes no writes; empty if it does.
        totals: Counts since the queue was made.
        consumers: The busiest first.
        flights: The oldest events in flight.
        letters: The oldest dead letters.
    """

    at: float
    waiting: int
    in_flight: int
    delayed: int
    dead: int
    oldest_waiting: float | None
    oldest_in_flight: float | None
    paused: str
    refusal: str
    totals: Mapping[str, int]
    consumers: tuple[ConsumerRow, ...]
    flights: tuple[InFlightRow, ...]
    letters: tuple[DeadRow, ...]

    @property
    def held(self) -> int:
        """What `max_size` bounds."""
        return self.waiting + self.in_flight + self.delayed


class Sampler:
    """Takes samples of one queue.

    Args:
        settings: Of the queue.
    """

    def __init__(self, settings: Settings) -> None:
        endpoint = endpoint_from_url(settings.redis_url or "", connect_timeout=settings.enqueue_timeout)
        self.name = f"{settings.namespace}:{{{settings.name}}}"
        self.address = endpoint.address
        self._link = Link(endpoint)
        self._commands = StreamCommands(settings, "top", timeout=min(2.0, settings.enqueue_timeout))
        self._group = settings.group

    async def take(self, *, letters: int) -> Sample:
        """Look once, with the oldest `letters` dead letters. Redis: 2 round trips. Raises BackendError."""
        stream, group = self._commands.keys.stream, self._group
        figures = await self._commands.figures(self._link)
        lists = await self._link.call(
            ("XINFO", "CONSUMERS", stream, group),
            ("XPENDING", stream, group, "-", "+", _MOST_ROWS),
            self._commands.list_dead(letters, None),
            timeout=self._commands.timeout,
        )
        for reply in lists:
            # Before the first use there is neither stream nor group.
            if isinstance(reply, BackendError) and "no such key" not in str(reply) and "NOGROUP" not in str(reply):
                raise reply
        return sample_of(figures, *([] if isinstance(reply, BackendError) else reply for reply in lists))

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


def sample_of(figures: Figures, consumers: Sequence[Any], pending: Sequence[Any], letters: Sequence[Any]) -> Sample:
    """Put the server's replies together."""
    flights = tuple(
        InFlightRow(entry_id=_text(entry_id), consumer=_text(consumer), idle=idle_ms / 1000, deliveries=count)
        for entry_id, consumer, idle_ms, count in pending
    )
    rows = sorted(map(_consumer, consumers), key=lambda row: (-row.pending, row.idle))
    return Sample(
        at=figures.now_ms / 1000,
        waiting=max(0, figures.entries - figures.pending),
        in_flight=figures.pending,
        delayed=figures.delayed,
        dead=figures.dead,
        oldest_waiting=_age(figures.oldest_waiting, figures.now_ms),
        oldest_in_flight=_age(flights[0].entry_id if flights else "", figures.now_ms),
        paused=figures.totals.get("paused", ""),
        refusal=str(figures.refused or ""),
        totals={name: int(value) for name, value in figures.totals.items() if value.isdecimal()},
        consumers=tuple(rows),
        flights=flights,
        letters=tuple(_letter(flat) for _, flat in letters),
    )


def _consumer(flat: Sequence[Any]) -> ConsumerRow:
    fields = {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=False)}
    return ConsumerRow(name=_text(fields["name"]), pending=fields["pending"], idle=fields["idle"] / 1000)


def _letter(flat: Sequence[bytes]) -> DeadRow:
    fields = fields_of(flat)
    died_ms = fields.get("died_ms", b"")
    return DeadRow(
        event_id=_text(fields.get("id", b"")),
        died_at=int(died_ms) / 1000 if died_ms.isdigit() and len(died_ms) < 15 else 0.0,
        reason=_text(fields.get("reason", b"")),
        error=_text(fields.get("error", b"")),
    )


def _age(entry_id: str, now_ms: int) -> float | None:
    added = entry_id.partition("-")[0]
    return max(0.0, now_ms - int(added)) / 1000 if added else None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
