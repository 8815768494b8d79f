"""What travels: deliveries to a handler, receipts to a producer, dead letters and figures to an operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

Payload = dict[str, Any]


class ReceiptStatus(StrEnum):
    """What became of an enqueued event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"
    PAUSED = "paused"
    CLOSED = "closed"


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The answer to one enqueued event.

    Attributes:
        status: `accepted` (the queue holds it now), `duplicate` (it held this event_id already), `full`,
            `paused` (an operator stopped the intake), `closed`.
        event_id: The caller's id, or the one that the queue made.
        entry_id: The id of the stream entry; None for a delayed event, which has none yet, and for one not accepted.
    """

    status: ReceiptStatus
    event_id: str
    entry_id: str | None = None

    @property
    def held(self) -> bool:
        """Whether the queue holds the event, through this call or an earlier one: what `enqueue` returns."""
        return self.status is ReceiptStatus.ACCEPTED or self.status is ReceiptStatus.DUPLICATE


class Delivery(msgspec.Struct, eq=False, weakref=True):
    """One handing-out of an event, to be settled exactly once with ack, nack, release or dead_letter.

    Attributes:
        payload: The event as it was enqueued.
        event_id: Stays the same over retries, releases and redrives.
        entry_id: The id of the entry that holds the event now; changes with each retry.
        deliveries: How often the event has been handed out, this time included; releases are not counted.
        headers: What the producer gave along.
        enqueued_at: When this entry was added, seconds since the epoch, by the server's clock.
        lease_lost: True once the queue knows that this consumer no longer holds the event.
        handle: The queue's own record of what it handed out; of no use to a caller.
    """

    payload: Any
    event_id: str
    entry_id: str
    deliveries: int
    headers: Mapping[str, str] = {}
    enqueued_at: float = 0.0
    lease_lost: bool = False
    handle: Any = None

    def __repr__(self) -> str:
        """Name the event; a payload belongs in no log."""
        return f"Delivery({self.event_id!r}, entry_id={self.entry_id!r}, deliveries={self.deliveries})"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that will not be handed out again unless an operator redrives it.

    Attributes:
        dead_id: Names the dead letter to `redrive` and `purge_dead`.
        event_id: The event's own id; empty if the entry had none.
        payload: The event; None if it could not be decoded (see `raw`).
        reason: One word for the table: `max_retries`, `rejected`, `overflow`, `purged`, `undecodable`, `crashed`, …
        error: What the handler or the decoder said, shortened.
        deliveries: How often it had been handed out.
        enqueued_at: When its last entry was added, seconds since the epoch.
        died_at: When it became a dead letter, seconds since the epoch.
        raw: The entry's fields as they are stored.
    """

    dead_id: str
    event_id: str
    payload: Any
    reason: str
    error: str
    deliveries: int
    enqueued_at: float
    died_at: float
    raw: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event seen by `peek`: still in the queue, not handed out by looking at it.

    Attributes:
        payload: The event; None if it could not be decoded.
        event_id: The event's own id; empty if the entry had none.
        entry_id: The stream entry; None for a delayed event.
        state: `waiting` or `delayed`.
        due_at: When a delayed event becomes available, seconds since the epoch; None if it is waiting.
        deliveries: How often it has been handed out so far.
    """

    payload: Any
    event_id: str
    entry_id: str | None
    state: str
    due_at: float | None = None
    deliveries: int = 0


@dataclass(frozen=True, slots=True)
class Consumer:
    """Somebody who takes events, as the server knows them.

    Attributes:
        name: `<host>-<pid>-<random>`, new at each start.
        in_flight: How many events it holds, prefetched ones included.
        idle: Seconds since the server last heard of it.
    """

    name: str
    in_flight: int
    idle: float


@dataclass(frozen=True, slots=True)
class InFlightEvent:
    """An event that was handed out and is not settled.

    Attributes:
        event_id: The event's own id; empty if the entry had none, or is gone.
        entry_id: The stream entry.
        consumer: The name of the one that holds it.
        deliveries: How often it has been handed out, this time included.
        enqueued_at: When this entry was added, seconds since the epoch, by the server's clock.
        age: Seconds since then.
        idle: Seconds since it was handed out or its lease was last renewed.
        payload: The event, where it was asked for; None if it could not be decoded (see `raw`).
        raw: The entry's fields as they are stored; without the payload where that was not asked for.
    """

    event_id: str
    entry_id: str
    consumer: str
    deliveries: int
    enqueued_at: float
    age: float
    idle: float
    payload: Any = None
    raw: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class InFlight:
    """One look at who holds what: all consumers of the group, and the events in flight, oldest entries first."""

    consumers: tuple[Consumer, ...]
    events: tuple[InFlightEvent, ...]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One consistent look at a queue.

    Attributes:
        waiting: Events not yet handed to a caller; what this process has prefetched counts here.
        in_flight: Events handed out and not settled, in all processes.
        delayed: Events and retries that are not due yet.
        dead: Dead letters kept.
        max_size: The bound on waiting + in flight + delayed.
        oldest_waiting_age: Seconds since the oldest waiting event was added; None if nothing waits.
        consumers: How many consumers the group knows, those of ended processes included for some minutes.
        consumers_idle: Seconds since the server last heard of any consumer, which each lets it do every second, busy or
            not; None if it never did.
        intake_paused: Whether new events are refused.
        delivery_paused: Whether handing out is stopped.
        totals: Counts since the queue was created: enqueued, acked, retried, dead, rejected, duplicates,
            reclaimed, released, redriven, purged, dropped, lost, state_lost.
    """

    waiting: int
    in_flight: int
    delayed: int
    dead: int
    max_size: int
    oldest_waiting_age: float | None = None
    consumers: int = 0
    consumers_idle: float | None = None
    intake_paused: bool = False
    delivery_paused: bool = False
    totals: Mapping[str, int] = field(default_factory=dict)

    @property
    def paused(self) -> bool:
        """Whether intake or handing out is paused."""
        return self.intake_paused or self.delivery_paused
