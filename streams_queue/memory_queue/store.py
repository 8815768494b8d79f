"""Where the events of the in-process queue are: pure bookkeeping, synchronous, no asyncio.

Each entry is in exactly one place: `waiting`, `delayed`, `in_flight`, `moving` or `dead`; an acknowledged one in none.
"""

from __future__ import annotations

import heapq
import itertools
import math
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from streams_queue.clock import Clock
from streams_queue.codec import PLAIN_META, Meta, encode_meta
from streams_queue.config import Settings
from streams_queue.messages import Delivery, ReceiptStatus
from streams_queue.observer import Observers
from streams_queue.retry import DeadLetterIt, RetryAfter, decide_retry

TOTALS = (
    "enqueued", "acked", "retried", "dead", "rejected", "duplicates", "reclaimed", "released", "redriven", "purged",
    "dead_purged", "dropped", "lost", "state_lost",
)  # fmt: skip
_LONGEST_ERROR = 500


@dataclass(eq=False, slots=True)
class Entry:
    """One event as the queue holds it; a retry, a release and a redrive make a new entry of it.

    Attributes:
        entry_id: Unique in this queue, in order of acceptance; same form as a stream entry's id.
        event_id: Stays the same over all entries of the event.
        payload: Codec bytes.
        meta: Deliveries by earlier entries, headers.
        enqueued_at: Seconds since the epoch.
        callers_id: Whether the event_id came from the caller and is watched for duplicates.
        due: Monotonic time at which a delayed event becomes available; None if it is not delayed.
        handed_out: How often this entry was handed out.
        expires: Monotonic time at which the current delivery is reclaimed.
    """

    entry_id: str
    event_id: str
    payload: bytes
    meta: Meta
    enqueued_at: float
    callers_id: bool = False
    due: float | None = None
    handed_out: int = 0
    expires: float = math.inf

    @property
    def deliveries(self) -> int:
        """How often the event was handed out, over all its entries."""
        return self.meta.deliveries + self.handed_out

    def fields(self) -> dict[str, bytes]:
        """Return the fields of a stream entry that holds this event."""
        return {"id": self.event_id.encode(), "payload": self.payload, "meta": encode_meta(self.meta)}


@dataclass(frozen=True, slots=True)
class Buried:
    """An entry among the dead letters."""

    entry: Entry
    reason: str
    error: str
    died_at: float


class Store:
    """Events by state, and every step from one state to another.

    Args:
        settings: Limits, retry policy, overflow and dead letter rules.
        clock: Wall time for ids and dates, monotonic time for everything that waits.
        observers: Told of what happens to events.
    """

    def __init__(self, settings: Settings, clock: Clock, observers: Observers) -> None:
        self.settings = settings
        self.max_size = settings.max_size
        self.clock = clock
        self.waiting: deque[Entry] = deque()
        self.in_flight: dict[Entry, Delivery] = {}
        self.moving: dict[Entry, None] = {}
        self.dead: dict[str, Buried] = {}
        self.totals = dict.fromkeys(TOTALS, 0)
        self.dead_letters_refused = False
        self._observers = observers
        self._delayed: list[tuple[float, int, Entry]] = []
        self._recent_ids: dict[str, float] = {}
        self._ceded: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._own_ids = uuid.uuid4().hex[:12]
        self._last_id = (0, 0)

    # --- figures ---

    @property
    def held(self) -> int:
        """Events that are not settled: what max_size bounds."""
        return len(self.waiting) + len(self.in_flight) + len(self._delayed) + len(self.moving)

    @property
    def delayed(self) -> list[Entry]:
        """Delayed entries, the next due one first."""
        return [entry for _, _, entry in sorted(self._delayed)]

    def delayed_count(self) -> int:
        """How many events are delayed."""
        return len(self._delayed)

    def seconds_to_next(self) -> float:
        """How long until a delayed event is due or a delivery expires; math.inf if nothing is to come."""
        due = self._delayed[0][0] if self._delayed else math.inf
        expires = next(iter(self.in_flight)).expires if self.in_flight else math.inf
        return max(0.0, min(due, expires) - self.clock.monotonic())

    # --- time goes by ---

    def advance(self) -> int:
        """Promote delayed events, reclaim expired deliveries, forget old event ids; returns how many events came."""
        now, before = self.clock.monotonic(), len(self.waiting)
        while self._delayed and self._delayed[0][0] <= now:
            entry = heapq.heappop(self._delayed)[2]
            self.waiting.append(self._renewed(entry, entry.meta))
        self._reclaim_expired(now)
        while self._recent_ids and (oldest := next(iter(self._recent_ids.items())))[1] <= now:
            del self._recent_ids[oldest[0]]
            self._ceded.pop(oldest[0], None)
        return len(self.waiting) - before

    def _reclaim_expired(self, now: float) -> None:
        expired = list(itertools.takewhile(lambda entry: entry.expires <= now, self.in_flight))
        for entry in reversed(expired):
            delivery = self.in_flight.pop(entry)
            delivery.lease_lost = True
            self.waiting.appendleft(entry)
            self.totals["reclaimed"] += 1
            self._observers.lease_lost(delivery)

    # --- coming in ---

    def add(
        self, payload: bytes, event_id: str | None, delay: float, meta: Meta = PLAIN_META
    ) -> tuple[ReceiptStatus, str, str | None]:
        """Take one event if there is room; returns status, event id, and the entry id unless it is delayed."""
        known = event_id or self._own_id()
        if self.knows(known):
            self.totals["duplicates"] += 1
            return ReceiptStatus.DUPLICATE, known, None
        if not self._has_room():
            return ReceiptStatus.FULL, known, None
        now = self.clock.time()
        entry = Entry(self._next_id(now), known, payload, meta, now, callers_id=event_id is not None)
        if event_id is not None:
            self._recent_ids[event_id] = self.clock.monotonic() + self.settings.dedup_window
        self._put(entry, delay)
        self.totals["enqueued"] += 1
        self._observers.accepted(1)
        return ReceiptStatus.ACCEPTED, known, None if delay > 0 else entry.entry_id

    def knows(self, event_id: str | None) -> bool:
        """Tell whether a caller's event with this id came in inside dedup_window."""
        return event_id in self._recent_ids

    def cede(self, event_id: str, *, refused: bool) -> bool:
        """Leave a caller's id to another queue unless it came in here; tells whether it is ceded, now or before.

        Every attempt is counted; `refused`: its event has just been refused here as a duplicate.
        """
        ceded = event_id in self._ceded or not self.knows(event_id)
        if ceded:
            self._ceded[event_id] = self._ceded.get(event_id, 0) + 1
            self._recent_ids.setdefault(event_id, self.clock.monotonic() + self.settings.dedup_window)
        if ceded is refused:
            self.totals["duplicates"] += -1 if ceded else 1
        return ceded

    def take_back(self, event_id: str) -> None:
        """End one attempt to bring a ceded id to the other queue; with the last one the id is free again."""
        attempts = self._ceded.pop(event_id, 0) - 1
        if attempts > 0:
            self._ceded[event_id] = attempts
        elif attempts == 0:
            self._recent_ids.pop(event_id, None)

    def reject(self) -> None:
        """Count an event that was refused for good."""
        self.totals["rejected"] += 1
        self._observers.rejected(1)

    def _has_room(self) -> bool:
        while self.held >= self.max_size:
            if self.settings.overflow != "drop_oldest" or self.max_size <= 0 or not self._drop_oldest():
                return False
        return True

    def _drop_oldest(self) -> bool:
        if not self.waiting or not self._bury(self.waiting[0], "overflow"):
            return False
        self.waiting.popleft()
        return True

    def _put(self, entry: Entry, delay: float) -> None:
        if delay > 0:
            entry.due = self.clock.monotonic() + delay
            heapq.heappush(self._delayed, (entry.due, next(self._numbers), entry))
        else:
            self.waiting.append(entry)

    # --- going out ---

    def hand_out(self, count: int, max_bytes: float, decode: Callable[[bytes], object]) -> list[Delivery]:
        """Hand out up to `count` waiting events, beyond the first only while they have at most `max_bytes` together.

        One past the delivery limit goes to the dead letters instead.
        """
        deliveries: list[Delivery] = []
        size_bytes = 0
        while self.waiting and len(deliveries) < count:
            size_bytes += len(self.waiting[0].payload)
            if deliveries and size_bytes > max_bytes:
                break
            entry = self.waiting.popleft()
            if entry.deliveries >= self.settings.retry_policy.max_deliveries:
                self._bury_or_delay(entry, "crashed" if entry.handed_out else "max_retries")
            else:
                deliveries.append(self._hand_out(entry, decode))
        return deliveries

    def _hand_out(self, entry: Entry, decode: Callable[[bytes], object]) -> Delivery:
        entry.handed_out += 1
        entry.expires = self.clock.monotonic() + self.settings.max_lease
        delivery = Delivery(
            payload=decode(entry.payload),
            event_id=entry.event_id,
            entry_id=entry.entry_id,
            deliveries=entry.deliveries,
            headers=dict(entry.meta.headers),
            enqueued_at=entry.enqueued_at,
            handle=entry,
        )
        self.in_flight[entry] = delivery
        self._observers.handed_out(delivery)
        return delivery

    # --- settling ---

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether the delivery may still be settled by its owner."""
        return self.in_flight.get(delivery.handle) is delivery

    def ack(self, delivery: Delivery) -> bool:
        """The event is done, whoever holds it now; False if it was settled before."""
        entry = delivery.handle
        if self.in_flight.pop(entry, None) is None:
            if not delivery.lease_lost or entry not in self.waiting:
                return False
            self.waiting.remove(entry)
        self.totals["acked"] += 1
        self._observers.settled(delivery, "acked")
        return True

    def nack(self, delivery: Delivery, delay: float | None, error: str, *, jitter: float) -> bool:
        """Retry the event after `delay`, or bury it past the limit; False if it is not held any more."""
        if not self.holds(delivery):
            return False
        decision = decide_retry(delivery.deliveries, self.settings.retry_policy, jitter=jitter)
        match decision:
            case DeadLetterIt(reason):
                return self.dead_letter(delivery, reason, error)
            case RetryAfter(backoff):
                self._retry(delivery, backoff if delay is None else delay)
        return True

    def _retry(self, delivery: Delivery, delay: float) -> None:
        entry = delivery.handle
        del self.in_flight[entry]
        self._put(self._renewed(entry, entry.meta.with_deliveries(delivery.deliveries)), delay)
        self.totals["retried"] += 1
        self._observers.settled(delivery, "retried")

    def dead_letter(self, delivery: Delivery, reason: str, error: str = "") -> bool:
        """Bury the event, or delay it while the dead letters are full; False if it is not held any more."""
        if not self.holds(delivery):
            return False
        del self.in_flight[delivery.handle]
        outcome = "dead" if self._bury_or_delay(delivery.handle, reason, error) else "retried"
        self._observers.settled(delivery, outcome)
        return True

    def release(self, delivery: Delivery) -> bool:
        """Put the event back at the end of the line, deliveries not raised; False if it is not held any more."""
        if not self.holds(delivery):
            return False
        entry = delivery.handle
        del self.in_flight[entry]
        self.waiting.append(self._renewed(entry, entry.meta.with_deliveries(entry.deliveries - 1)))
        self.totals["released"] += 1
        self._observers.settled(delivery, "released")
        return True

    def extend(self, delivery: Delivery) -> bool:
        """Start max_lease anew; False if the event is not held any more."""
        if not self.holds(delivery):
            return False
        del self.in_flight[delivery.handle]
        delivery.handle.expires = self.clock.monotonic() + self.settings.max_lease
        self.in_flight[delivery.handle] = delivery
        return True

    # --- dead letters ---

    def _bury(self, entry: Entry, reason: str, error: str = "") -> bool:
        """Add to the dead letters, if they take it."""
        rules = self.settings.dead_letter
        while len(self.dead) >= rules.max_size:
            if rules.when_full == "refuse" or not self.dead:
                self.dead_letters_refused = True
                return False
            del self.dead[next(iter(self.dead))]
            self.totals["dropped"] += 1
        now = self.clock.time()
        self.dead[self._next_id(now)] = Buried(entry, reason, error[:_LONGEST_ERROR], now)
        self.totals["dead"] += 1
        self._observers.dead(entry.event_id, reason)
        return True

    def _bury_or_delay(self, entry: Entry, reason: str, error: str = "") -> bool:
        if self._bury(entry, reason, error):
            return True
        self._put(
            self._renewed(entry, entry.meta.with_deliveries(entry.deliveries)), self.settings.retry_policy.max_delay
        )
        return False

    def redrive(self, dead_ids: Iterable[str]) -> int:
        """Put dead letters back with a fresh count, as long as there is room; returns how many."""
        redriven = 0
        for dead_id in dead_ids:
            if dead_id in self.dead and self.held < self.max_size:
                entry = self.dead.pop(dead_id).entry
                self.waiting.append(self._renewed(entry, entry.meta.redriven(dead_id)))
                redriven += 1
        self._dead_letters_went(redriven)
        self.totals["redriven"] += redriven
        return redriven

    def purge(self) -> int:
        """Bury all waiting and delayed events, as far as the dead letters take them; returns how many."""
        before = self.totals["dead"]
        while self.waiting and self._bury(self.waiting[0], "purged"):
            self.waiting.popleft()
        while self._delayed and self._bury(self._delayed[0][2], "purged"):
            heapq.heappop(self._delayed)
        purged = self.totals["dead"] - before
        self.totals["purged"] += purged
        return purged

    def purge_dead(self, dead_ids: Iterable[str]) -> int:
        """Delete dead letters for good; returns how many."""
        deleted = sum(self.dead.pop(dead_id, None) is not None for dead_id in dead_ids)
        self._dead_letters_went(deleted)
        self.totals["dead_purged"] += deleted
        return deleted

    def _dead_letters_went(self, count: int) -> None:
        if count:
            self.dead_letters_refused = False

    # --- moving events to another queue ---

    def take_to_move(self, count: int) -> list[Entry]:
        """Take up to `count` events out of the line, oldest first, then delayed ones; they stay held until `moved`."""
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        while self._delayed and len(taken) < count:
            taken.append(heapq.heappop(self._delayed)[2])
        self.moving.update(dict.fromkeys(taken))
        return taken

    def moved(self, entries: Iterable[Entry]) -> None:
        """The other queue has them."""
        for entry in entries:
            self.moving.pop(entry, None)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """The other queue could not take them: back to where they were, in the same order."""
        for entry in reversed([entry for entry in entries if entry in self.moving]):
            del self.moving[entry]
            if entry.due is None:
                self.waiting.appendleft(entry)
            else:
                heapq.heappush(self._delayed, (entry.due, next(self._numbers), entry))

    # --- names ---

    def _renewed(self, entry: Entry, meta: Meta) -> Entry:
        """Return the event as a new entry, as the stream does it."""
        now = self.clock.time()
        return replace(
            entry, entry_id=self._next_id(now), meta=meta, enqueued_at=now, due=None, handed_out=0, expires=math.inf
        )

    def _next_id(self, now: float) -> str:
        milliseconds, sequence = int(now * 1000), 0
        if milliseconds <= self._last_id[0]:
            milliseconds, sequence = self._last_id[0], self._last_id[1] + 1
        self._last_id = milliseconds, sequence
        return f"{milliseconds}-{sequence}"

    def _own_id(self) -> str:
        return f"{self._own_ids}-{next(self._numbers):x}"

    def dead_after(self, dead_id: str | None) -> Iterator[tuple[str, Buried]]:
        """Yield dead letters, oldest first, from behind `dead_id` on (whether or not it still exists)."""
        after = _order(dead_id) if dead_id is not None else (-1, -1)
        return ((found, buried) for found, buried in self.dead.items() if _order(found) > after)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
