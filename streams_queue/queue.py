"""The port: what every queue of this package promises, whichever way it keeps its events."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from streams_queue.messages import DeadLetter, Delivery, QueueStats, Receipt, WaitingEvent


@runtime_checkable
class Queue(Protocol):
    """An event queue: at least once, bounded, in order of acceptance except for retries, delays and releases.

    An event is in exactly one state: delayed, waiting, in flight, acked (gone) or dead.

    Attributes:
        max_size: The most events that may be unsettled at once; may be set at any time. 0 refuses everything.
        timeout: Default wait of `dequeue` and `receive` in seconds; may be set at any time.
    """

    max_size: int
    timeout: float

    # --- producing ---

    async def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put one event into the queue.

        Args:
            payload: A JSON object, or an instance of the queue's payload_type.
            event_id: The caller's own id, such as X-GitHub-Delivery; a second event with the same id inside
                dedup_window is not added again.
            delay: Seconds before it may be handed out; at least 0.
            headers: Short strings that travel beside the payload.

        Returns:
            True if the queue holds the event (also if it held it before); False if it is full or closed.

        Raises:
            EncodeError: The payload would not come back equal; the message names the path.
            MessageTooLarge: It is over max_event_bytes.
            BackendUnavailable: The server could not be reached within enqueue_timeout; nothing was written.
            BackendTimeout: No answer within enqueue_timeout; call again with the same event_id.
            BackendRejected: The server refused (out of memory, no permission, wrong type).
            NotDurable: The queue holds the event, but it did not reach the configured `durability` in time.
        """
        ...

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events into the queue, in order; returns one receipt per payload, in the same order.

        Nothing is sent if one of the payloads is bad. Raises as `enqueue`; then some of the events may have been
        accepted, and a second call with the same event_ids is safe.
        """
        ...

    # --- consuming ---

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        """Take the next event and settle the ones that the calling task took before.

        Args:
            timeout: Seconds to wait; None is the queue's own `timeout`, 0 returns at once, math.inf waits for ever.

        Returns:
            The payload, or None when nothing came in time or the queue is closed.

        Raises:
            UsageError: Called outside a task, or by a helper task that has already let an event escape; use `receive`.
            BackendRejected: Only for what no retry mends (wrong password, no permission, wrong type).
        """
        ...

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        """Take up to `max_events` deliveries, to be settled one by one; [] when nothing came in time.

        Payloads of more than `max_bytes` together are taken only if there is a single one.
        """
        ...

    async def ack(self, *deliveries: Delivery) -> None:
        """The events are done. Returns after the server's reply; the first settlement of an event wins."""
        ...

    def ack_soon(self, *deliveries: Delivery) -> None:
        """The events are done; tell the server with the next read, or within 5 ms. Leases are kept until it knows."""
        ...

    async def flush(self) -> None:
        """Return when the server knows of all that was done so far, what `ack_soon` and `dequeue` have kept included.

        What is in hand stays in hand, and the queue stays open.

        Raises:
            BackendTimeout: No reply within enqueue_timeout; the acks are still being sent.
        """
        ...

    async def nack(self, delivery: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        """The event failed: retry it after `delay` seconds (default: the retry policy's), or bury it past the limit.

        Raises:
            LeaseLost: The delivery no longer belongs to this consumer.
        """
        ...

    async def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched: available at once, at the end of the line, deliveries not raised.

        Deliveries that are no longer held are passed over: somebody else has them already.
        """
        ...

    async def extend(self, *deliveries: Delivery) -> None:
        """Renew the lease by hand. Raises LeaseLost if one of them is no longer held; the others are renewed."""
        ...

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Never hand the event out again without a redrive. Raises LeaseLost."""
        ...

    # --- looking ---

    async def get_queue_depth(self) -> int:
        """How many events wait to be handed to a caller; never below 0."""
        ...

    def get_queue_size(self) -> int:
        """The depth as far as this process knows it, without asking the server."""
        ...

    async def stats(self) -> QueueStats:
        """One consistent look at all figures."""
        ...

    async def check_health(self) -> dict[str, Any]:
        """Tell how the queue is; never raises for a server problem.

        Returns:
            At least `status` ("healthy", "degraded", "unhealthy"), `queue_depth`, `queue_size`, `processing`,
            `running`, `redis_connected`, `using_redis`; on failure `error`.
        """
        ...

    def is_running(self) -> bool:
        """True from construction to cleanup."""
        ...

    # --- operating ---

    async def peek(self, count: int = 10) -> list[WaitingEvent]:
        """Look at the next waiting events and then the next due delayed ones, without taking them."""
        ...

    async def dead_letters(self, count: int = 100, *, after: str | None = None) -> list[DeadLetter]:
        """List dead letters, oldest first; `after` is the dead_id of the last one seen."""
        ...

    async def redrive(self, *dead_ids: str, count: int | None = None) -> int:
        """Put dead letters back into the queue with a fresh delivery count; all of them if no id is given.

        Args:
            dead_ids: Which ones; unknown ids are passed over.
            count: With no ids: at most so many, oldest first.

        Returns:
            How many went back; a full queue takes no more.
        """
        ...

    async def purge(self, to: str = "dead") -> int:
        """Move all waiting and delayed events to the dead letters, reason `purged`; returns how many."""
        ...

    async def purge_dead(self, *dead_ids: str, who: str = "unknown") -> int:
        """Delete dead letters for good (all if no id is given), counted and logged with `who`; returns how many."""
        ...

    async def pause(self, *, intake: bool = True, delivery: bool = True) -> None:
        """Refuse new events and/or stop handing out, in all processes that share the queue, within a second."""
        ...

    async def resume(self) -> None:
        """End a pause."""
        ...

    async def cleanup(self) -> None:
        """Flush acks, give back what is unsettled, close connections. Deletes no event; twice is harmless."""
        ...

    async def __aenter__(self) -> Self:
        """Enter; connects nothing by itself."""
        ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave: acknowledge what the leaving task took if it leaves normally, then `cleanup`."""
        ...
