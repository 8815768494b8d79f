"""EventQueue: the port on an in-process store."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from streams_queue.clock import Clock, SystemClock
from streams_queue.codec import PLAIN_META, Meta, check_delay, check_event_ids, check_headers, make_codec
from streams_queue.config import Settings, load_config
from streams_queue.errors import LeaseLost, UsageError
from streams_queue.memory_queue.store import Buried, Entry, Store
from streams_queue.memory_queue.waiters import Waiters
from streams_queue.messages import DeadLetter, Delivery, QueueStats, Receipt, ReceiptStatus, WaitingEvent
from streams_queue.observer import Observer, Observers
from streams_queue.settling import Claim, TaskSettler

logger = logging.getLogger(__name__)

_SYSTEM_CLOCK = SystemClock()


class EventQueue:
    """An event queue in this process, for tests, small deployments and as the fallback of the resilient queue.

    Its events die with the process; everything else is as on Redis. It starts no task and no thread. Use it from one
    event loop at a time.

    Args:
        config: The mapping of webhook_config.yaml, or loaded Settings; `type` is ignored.
        observers: Plug-ins that are told what happens.
        payload_type: A msgspec Struct or dataclass that payloads are instances of; None is JSON objects.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | Settings,
        *,
        observers: Iterable[Observer] = (),
        payload_type: type[Any] | None = None,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self.settings = load_config(config)
        self.timeout = self.settings.timeout
        self._codec = make_codec(payload_type, max_bytes=self.settings.max_event_bytes)
        self._clock = clock
        self.observers = Observers(observers)
        self._store = store = Store(self.settings, clock, self.observers)
        self._arrivals = Waiters()
        self._room = room = Waiters()
        self._intake_paused = False
        self._delivery_paused = False
        self._closed = False
        self._warned = False

        def ack_at_task_end(deliveries: Sequence[Delivery]) -> None:
            room.wake(sum(map(store.ack, deliveries)))

        self._settler = TaskSettler(
            ack_soon=self._ack_all, ack_at_task_end=ack_at_task_end, give_back=self._release_all
        )

    @property
    def max_size(self) -> int:
        """The most events that may be unsettled at once; may be set at any time."""
        return self._store.max_size

    @max_size.setter
    def max_size(self, max_size: int) -> None:
        more = max_size - self._store.max_size
        self._store.max_size = max_size
        self._room.wake(more)

    # --- producing ---

    async def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put one event into the queue; True if it holds the event now, False if it is full, paused or closed."""
        receipts = await self._put([payload], [event_id], delay, headers)
        return receipts[0].held

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events into the queue, in order; one receipt per payload. Nothing is added if one is bad."""
        return await self._put(payloads, event_ids, delay, headers)

    async def _put(
        self,
        payloads: Iterable[Any],
        event_ids: Sequence[str | None] | None,
        delay: float,
        headers: Mapping[str, str] | None,
    ) -> list[Receipt]:
        encoded = [self._codec.encode(payload) for payload in payloads]
        ids = check_event_ids(event_ids, len(encoded))
        seconds = check_delay(delay)
        checked = check_headers(headers)
        meta = Meta(headers=checked) if checked else PLAIN_META
        deadline = self._clock.monotonic() + self._patience()
        receipts = [
            await self._add(data, event_id, seconds, meta, deadline)
            for data, event_id in zip(encoded, ids, strict=True)
        ]
        if not all(receipt.held for receipt in receipts):
            await asyncio.sleep(0)
        return receipts

    def _patience(self) -> float:
        return self.timeout if self.settings.overflow == "block" else 0.0

    async def _add(self, data: bytes, event_id: str | None, delay: float, meta: Meta, deadline: float) -> Receipt:
        while True:
            receipt = self._try_to_add(data, event_id, delay, meta)
            left = deadline - self._clock.monotonic()
            if receipt.status is not ReceiptStatus.FULL or left <= 0:
                break
            await self._room.wait(left)
        if receipt.status is ReceiptStatus.FULL:
            self._store.reject()
        return receipt

    def _try_to_add(self, data: bytes, event_id: str | None, delay: float, meta: Meta) -> Receipt:
        if self._closed:
            self._warn_once()
            return Receipt(ReceiptStatus.CLOSED, event_id or "")
        self._advance()
        if self._intake_paused and not self._store.knows(event_id):
            return Receipt(ReceiptStatus.PAUSED, event_id or "")
        status, known, entry_id = self._store.add(data, event_id, delay, meta)
        if status is ReceiptStatus.ACCEPTED and delay > 0:
            # It may be due sooner than any waiter expects, and nobody knows who will be waiting then.
            self._arrivals.wake_all()
        elif status is ReceiptStatus.ACCEPTED:
            self._arrivals.wake(1)
        return Receipt(status, known, entry_id)

    # --- consuming ---

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        """Take the next event and settle the ones that the calling task took before; None when nothing came in time."""
        return self._dequeue(self._settler.claim(), timeout)

    async def _dequeue(self, claim: Claim, timeout: float | None) -> Any | None:
        self._settler.begin(claim)
        for delivery in await self._take(1, timeout):
            self._settler.returned(claim, delivery)
            return delivery.payload
        return None

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        """Take up to `max_events` deliveries, to be settled one by one; [] when nothing came in time.

        Payloads of more than `max_bytes` together are taken only if there is a single one.
        """
        if max_events < 1:
            raise UsageError(f"receive takes at least 1 event, not {max_events}")
        return await self._take(max_events, timeout, max_bytes)

    async def _take(self, max_events: int, timeout: float | None, max_bytes: float = math.inf) -> list[Delivery]:
        """Wait for events and take them; nothing is awaited after the taking, so that a cancelled caller loses none."""
        deadline = self._clock.monotonic() + (self.timeout if timeout is None else timeout)
        while not self._closed:
            deliveries = self._take_now(max_events, max_bytes)
            left = deadline - self._clock.monotonic()
            if deliveries:
                return deliveries
            if left <= 0:
                # Give way here and where the queue refuses, or a loop that calls again would stop the event loop.
                await asyncio.sleep(0)
                return []
            await self._arrivals.wait(left if self._delivery_paused else min(left, self._seconds_to_look_again()))
        self._warn_once()
        await asyncio.sleep(0)
        return []

    def _seconds_to_look_again(self) -> float:
        # What is handed out while somebody waits expires max_lease later at the earliest.
        return min(self._store.seconds_to_next(), self.settings.max_lease)

    def _take_now(self, max_events: int, max_bytes: float) -> list[Delivery]:
        self._advance()
        if self._delivery_paused:
            return []
        return self._store.hand_out(max_events, max_bytes, self._codec.decode)

    async def ack(self, *deliveries: Delivery) -> None:
        """The events are done; the first settlement of an event wins."""
        self._ack_all(deliveries)

    def ack_soon(self, *deliveries: Delivery) -> None:
        """The events are done; in this process that is at once."""
        self._ack_all(deliveries)

    async def flush(self) -> None:
        """Nothing to wait for: what is done is known at once."""

    def _ack_all(self, deliveries: Sequence[Delivery]) -> None:
        self._room.wake(sum(map(self._store.ack, deliveries)))

    async def nack(self, delivery: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        """The event failed: retry it after `delay` seconds, or bury it past the limit. Raises LeaseLost."""
        seconds = None if delay is None else check_delay(delay)
        self._advance()
        self._owned(self._store.nack(delivery, seconds, error or "", jitter=random.random()))

    async def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched, at the end of the line; those no longer held are passed over."""
        self._advance()
        self._release_all(deliveries)

    def _release_all(self, deliveries: Sequence[Delivery]) -> None:
        self._arrivals.wake(sum(map(self._store.release, deliveries)))

    async def extend(self, *deliveries: Delivery) -> None:
        """Start max_lease anew. Raises LeaseLost if one of them is no longer held; the others are renewed."""
        self._advance()
        lost = [delivery for delivery in deliveries if not self._store.extend(delivery)]
        self._owned(not lost)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Never hand the event out again without a redrive. Raises LeaseLost."""
        self._advance()
        self._owned(self._store.dead_letter(delivery, reason))

    def _owned(self, owned: bool) -> None:
        if not owned:
            raise LeaseLost
        # What was retried may be due sooner than any waiter expects; what was buried left room.
        self._arrivals.wake_all()
        self._room.wake(1)

    def _advance(self) -> None:
        self._arrivals.wake(self._store.advance())

    # --- looking ---

    async def get_queue_depth(self) -> int:
        """How many events wait to be handed to a caller."""
        return self.get_queue_size()

    def get_queue_size(self) -> int:
        """The same as the depth, without awaiting."""
        self._advance()
        return len(self._store.waiting)

    async def stats(self) -> QueueStats:
        """One consistent look at all figures."""
        store = self._store
        self._advance()
        oldest = store.waiting[0] if store.waiting else None
        return QueueStats(
            waiting=len(store.waiting),
            in_flight=len(store.in_flight) + len(store.moving),
            delayed=store.delayed_count(),
            dead=len(store.dead),
            max_size=store.max_size,
            oldest_waiting_age=None if oldest is None else max(0.0, self._clock.time() - oldest.enqueued_at),
            consumers=0 if self._closed else 1,
            intake_paused=self._intake_paused,
            delivery_paused=self._delivery_paused,
            totals=dict(store.totals),
        )

    async def check_health(self) -> dict[str, Any]:
        """Tell how the queue is: unhealthy when it is closed, or when its full dead letters refuse more."""
        stats = await self.stats()
        problem = self._problem()
        return {
            "status": "unhealthy" if problem else "healthy",
            "queue_depth": stats.waiting,
            "queue_size": stats.waiting,
            "processing": stats.in_flight,
            "delayed": stats.delayed,
            "dead": stats.dead,
            "paused": stats.paused,
            "running": self.is_running(),
            "redis_connected": False,
            "using_redis": False,
            **({"error": problem} if problem else {}),
        }

    def _problem(self) -> str:
        if self._closed:
            return "the queue is closed"
        return "the dead letters are full" if self._store.dead_letters_refused else ""

    def is_running(self) -> bool:
        """True from construction to cleanup."""
        return not self._closed

    # --- operating ---

    async def peek(self, count: int = 10) -> list[WaitingEvent]:
        """Look at the next waiting events and then the next due delayed ones, without taking them."""
        self._advance()
        line = itertools.chain(self._store.waiting, self._store.delayed)
        return [self._seen(entry) for entry in itertools.islice(line, count)]

    def _seen(self, entry: Entry) -> WaitingEvent:
        waits = entry.due is None
        return WaitingEvent(
            payload=self._codec.decode(entry.payload),
            event_id=entry.event_id,
            entry_id=entry.entry_id if waits else None,
            state="waiting" if waits else "delayed",
            due_at=None if entry.due is None else self._clock.time() + entry.due - self._clock.monotonic(),
            deliveries=entry.deliveries,
        )

    async def dead_letters(self, count: int = 100, *, after: str | None = None) -> list[DeadLetter]:
        """List dead letters, oldest first; `after` is the dead_id of the last one seen."""
        found = itertools.islice(self._store.dead_after(after), count)
        return [self._told(dead_id, buried) for dead_id, buried in found]

    def _told(self, dead_id: str, buried: Buried) -> DeadLetter:
        entry = buried.entry
        return DeadLetter(
            dead_id=dead_id,
            event_id=entry.event_id,
            payload=self._codec.decode(entry.payload),
            reason=buried.reason,
            error=buried.error,
            deliveries=entry.deliveries,
            enqueued_at=entry.enqueued_at,
            died_at=buried.died_at,
            raw=entry.fields(),
        )

    async def redrive(self, *dead_ids: str, count: int | None = None) -> int:
        """Put dead letters back into the queue with a fresh delivery count; returns how many there was room for."""
        redriven = self._store.redrive(dead_ids or list(itertools.islice(self._store.dead, count)))
        self._arrivals.wake(redriven)
        return redriven

    async def purge(self, to: str = "dead") -> int:
        """Move all waiting and delayed events to the dead letters, reason `purged`; returns how many."""
        if to != "dead":
            raise UsageError(f"purge moves events to 'dead', not to {to!r}; only purge_dead deletes")
        self._advance()
        purged = self._store.purge()
        self._room.wake(purged)
        return purged

    async def purge_dead(self, *dead_ids: str, who: str = "unknown") -> int:
        """Delete dead letters for good (all if no id is given); returns how many."""
        deleted = self._store.purge_dead(dead_ids or list(self._store.dead))
        logger.warning(
            "%d dead letters deleted for good, asked for by %s", deleted, who, extra={"events": deleted, "who": who}
        )
        return deleted

    async def pause(self, *, intake: bool = True, delivery: bool = True) -> None:
        """Refuse new events and/or stop handing out; the last call says what is paused."""
        self._intake_paused, self._delivery_paused = intake, delivery
        if not delivery:
            self._arrivals.wake_all()

    async def resume(self) -> None:
        """End a pause."""
        self._intake_paused = self._delivery_paused = False
        self._arrivals.wake_all()

    async def cleanup(self) -> None:
        """Give back what is unsettled and close; twice is harmless."""
        if self._closed:
            return
        self._settler.take_all()
        self._release_all(list(self._store.in_flight.values()))
        self._closed = True
        self._arrivals.wake_all()
        self._room.wake_all()
        if self._store.held:
            logger.warning(
                "An in-process queue was closed with %d events; they die with it",
                self._store.held,
                extra={"events": self._store.held},
            )

    async def __aenter__(self) -> Self:
        """Enter; there is nothing to connect."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave: acknowledge what the leaving task took if it leaves normally, then `cleanup`."""
        if exc_type is None:
            self._settler.finish_current_task()
        await self.cleanup()

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("The queue is closed: it takes no events and hands out none")

    # --- beside another queue: see streams_queue.two_queues ---

    def has_arrived(self) -> bool:
        """Whether `take_arrived` has something to take."""
        self._advance()
        return bool(self._store.waiting) and not (self._delivery_paused or self._closed)

    def take_arrived(self, max_events: int, max_bytes: float = math.inf) -> list[Delivery]:
        """Take as `receive` does what is there, without awaiting."""
        return [] if self._closed else self._take_now(max_events, max_bytes)

    async def lifetime(self) -> str:
        """Return by which this queue is told from all others."""
        return f"in memory at {id(self)}"

    async def cede(self, event_ids: Sequence[str], *, refused: bool = False) -> list[bool]:
        """Leave ids given by callers to another queue, unless this one has them; False for each that it has."""
        self._advance()
        return [self._store.cede(event_id, refused=refused) for event_id in event_ids]

    async def take_back(self, event_ids: Sequence[str]) -> None:
        """Make ids free again that were ceded to a queue which did not get their events."""
        for event_id in event_ids:
            self._store.take_back(event_id)

    # --- moving events to another queue: for the resilient queue, which drains this one into Redis ---

    def held(self) -> int:
        """How many events are here and not settled: waiting, delayed, in flight and moving."""
        return self._store.held

    def has_events_to_move(self) -> bool:
        """Tell, without awaiting, whether events wait here, delayed ones included."""
        self._advance()
        return bool(self._store.waiting) or self._store.delayed_count() > 0

    def take_to_move(self, count: int) -> list[Entry]:
        """Take up to `count` events out of the line: the oldest waiting ones first, then delayed ones.

        They count as held until `moved` or `put_back` is called with them. `seconds_left` tells the delay of each.
        """
        self._advance()
        return self._store.take_to_move(count)

    def seconds_left(self, entry: Entry) -> float:
        """How long a taken event is still to be delayed; 0 if it is available."""
        return 0.0 if entry.due is None else max(0.0, entry.due - self._clock.monotonic())

    def moved(self, entries: Sequence[Entry]) -> None:
        """The other queue has confirmed them; they are gone from here."""
        self._store.moved(entries)
        self._room.wake(len(entries))

    def put_back(self, entries: Sequence[Entry]) -> None:
        """The other queue could not take them: they are at the front again, in the same order."""
        self._store.put_back(entries)
        self._arrivals.wake(len(entries))

    async def wait_for_arrival(self, seconds: float = math.inf, *, slots: int = 1) -> None:  # noqa: ARG002 - see below
        """Wait until an event may be waiting here, at most `seconds`; look with `has_arrived` or `receive`.

        How many `slots` the caller has makes no difference: nothing is fetched ahead.
        """
        if not self.has_arrived():
            soonest = math.inf if self._delivery_paused else self._seconds_to_look_again()
            await self._arrivals.wait(min(seconds, soonest))
