"""The port over two queues, of which one goes first: what a resilient queue and a rollout have in common.

Which of the two takes a new event, and which is read when, is for the classes that derive from `TwoQueues`. Here is
what follows from that: a delivery is settled where it came from, and an operator's verb reaches both.
"""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Awaitable, Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar

from streams_queue.errors import BackendError, UsageError
from streams_queue.messages import DeadLetter, Delivery, QueueStats, WaitingEvent
from streams_queue.queue import Queue
from streams_queue.settling import Claim, TaskSettler

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Side(Queue, Protocol):
    """What a queue has to do beyond the port to stand beside another one.

    Waiting and taking are apart, so that a caller can wait for two queues and take from one of them: what is taken
    from both at once would be in nobody's hands when the caller is cancelled.
    """

    def has_arrived(self) -> bool:
        """Whether `take_arrived` has something to take."""
        ...

    def take_arrived(self, max_events: int, max_bytes: float = math.inf) -> list[Delivery]:
        """Take as `receive` does what is here already, without awaiting."""
        ...

    async def wait_for_arrival(self, seconds: float = math.inf, *, slots: int = 1) -> None:
        """Wait until there may be an event to take, at most `seconds`; with 0 look once. Takes nothing.

        `slots` is how many events the caller has room for.
        """
        ...

    async def lifetime(self) -> str:
        """Return by which the queue is told from all others, whatever address leads to it. Raises BackendError."""
        ...

    async def cede(self, event_ids: Sequence[str], *, refused: bool = False) -> list[bool]:
        """Leave ids given by callers to the other queue, unless this one has them; False for each that it has.

        What is ceded is a duplicate here from now on, for dedup_window. `refused`: their events were just refused as
        duplicates here.
        """
        ...

    async def take_back(self, event_ids: Sequence[str]) -> None:
        """Make ids free again that were ceded to a queue which did not get their events, if nobody else ceded them."""
        ...


@dataclass(frozen=True, slots=True)
class NewEvents:
    """The arguments of one call of enqueue_many."""

    payloads: Sequence[Any]
    event_ids: Sequence[str | None]
    delay: float
    headers: Mapping[str, str] | None

    def part(self, start: int, end: int) -> NewEvents:
        """Return the events from `start` up to `end`."""
        return NewEvents(self.payloads[start:end], self.event_ids[start:end], self.delay, self.headers)

    def pick(self, positions: Sequence[int]) -> NewEvents:
        """Return the events at these positions."""
        payloads, ids = [self.payloads[at] for at in positions], [self.event_ids[at] for at in positions]
        return NewEvents(payloads, ids, self.delay, self.headers)


class TwoQueues:
    """Settles, shows and steers two queues as one; `_pair` says which ones they are."""

    timeout: float
    _first_id: ClassVar[str]
    """Stands before the ids of the first queue's dead letters."""

    def _pair(self, first: Queue, second: Queue) -> None:
        self._first, self._second = first, second
        self._first_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._settler = TaskSettler(
            ack_soon=self._ack_all,
            ack_at_task_end=partial(_ack_each, first, second, self._first_deliveries),
            give_back=self._give_back,
        )

    # --- consuming ---

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        """Take up to `max_events` deliveries from one of the two queues; [] when nothing came in time.

        Payloads of more than `max_bytes` together are taken only if there is a single one.

        Cancelled: No event is lost.

        Raises:
            UsageError: `max_events` is below 1, or `timeout` is no number.
            BackendRejected: What no retry mends.
        """
        wait = self.timeout if timeout is None else timeout
        if max_events < 1 or math.isnan(wait):
            raise UsageError(f"receive takes at least 1 event in a number of seconds, not {max_events} in {wait}")
        return await self._receive(max_events, wait, max_bytes)

    async def _receive(self, max_events: int, timeout: float, max_bytes: float) -> list[Delivery]:
        """Wait for both queues and take from one, as the class that derives from this sees fit."""
        raise NotImplementedError

    async def cleanup(self) -> None:
        """Close both queues, as said in the class that derives from this."""
        raise NotImplementedError

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        """Take the next event and settle the ones that the calling task took before; None when nothing came in time."""
        return self._dequeue(self._settler.claim(), timeout)

    async def _dequeue(self, claim: Claim, timeout: float | None) -> Any | None:
        self._settler.begin(claim)
        for delivery in await self._receive(1, self.timeout if timeout is None else timeout, math.inf):
            self._settler.returned(claim, delivery)
            return delivery.payload
        return None

    # --- settling: where a delivery came from decides where it is settled ---

    def _home(self, delivery: Delivery) -> Queue:
        return self._first if delivery in self._first_deliveries else self._second

    async def _each(
        self, deliveries: Sequence[Delivery], settle: Callable[[Queue, Sequence[Delivery]], Coroutine[Any, Any, None]]
    ) -> None:
        """Settle deliveries where they came from; those of one queue also if the other fails."""
        first, second = _parted(deliveries, self._first_deliveries)
        if first and second:
            await _all(settle(self._first, first), settle(self._second, second))
        elif deliveries:
            await settle(self._first if first else self._second, deliveries)

    async def ack(self, *deliveries: Delivery) -> None:
        """The events are done; returns after the server's reply where it has a say. The first settlement wins."""
        await self._each(deliveries, lambda queue, own: queue.ack(*own))

    def ack_soon(self, *deliveries: Delivery) -> None:
        """The events are done; the server is told with the next read, or within 5 ms."""
        self._ack_all(deliveries)

    async def flush(self) -> None:
        """Return when both queues know of all that was done so far; what is in hand stays there.

        Raises:
            BackendTimeout: No reply within enqueue_timeout; the acks are still being sent.
        """
        await self._both(lambda queue: queue.flush())

    def _ack_all(self, deliveries: Sequence[Delivery]) -> None:
        _ack_each(self._first, self._second, self._first_deliveries, deliveries)

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        task = asyncio.get_running_loop().create_task(self._give_back_each(deliveries))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _give_back_each(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self.release(*deliveries)
        except BackendError as error:
            logger.warning(
                "Could not give %d events back (%s); their leases run out",
                len(deliveries),
                error,
                extra={"events": len(deliveries), "error": str(error)},
            )

    async def nack(self, delivery: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        """The event failed: retry it after `delay` seconds, or bury it past the limit. Raises LeaseLost."""
        await self._home(delivery).nack(delivery, delay=delay, error=error)

    async def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched, at the end of their line; those no longer held are passed over."""
        await self._each(deliveries, lambda queue, own: queue.release(*own))

    async def extend(self, *deliveries: Delivery) -> None:
        """Renew the lease by hand. Raises LeaseLost if one of them is no longer held; the others are renewed."""
        await self._each(deliveries, lambda queue, own: queue.extend(*own))

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Never hand the event out again without a redrive. Raises LeaseLost."""
        await self._home(delivery).dead_letter(delivery, reason)

    # --- operating ---

    async def peek(self, count: int = 10) -> list[WaitingEvent]:
        """Look at the next events, those of the first queue before those of the second, without taking them."""
        first = await self._first.peek(count)
        return first + (await self._second.peek(count - len(first)) if count > len(first) else [])

    async def dead_letters(self, count: int = 100, *, after: str | None = None) -> list[DeadLetter]:
        """List dead letters, oldest first, those of the first queue (their ids say so) before the second's."""
        found: list[DeadLetter] = []
        if after is None or after.startswith(self._first_id):
            first = await self._first.dead_letters(count, after=after and after.removeprefix(self._first_id))
            found = [replace(letter, dead_id=self._first_id + letter.dead_id) for letter in first]
            after = None
        if len(found) < count:
            found += await self._second.dead_letters(count - len(found), after=after)
        return found

    async def redrive(self, *dead_ids: str, count: int | None = None) -> int:
        """Put dead letters back into the queue in which they died; all of them if no id is given."""
        if dead_ids:
            return await self._named(dead_ids, lambda queue, ids: queue.redrive(*ids))
        if count is None:
            return sum(await self._both(lambda queue: queue.redrive()))
        redriven = await self._first.redrive(count=count)
        return redriven + (await self._second.redrive(count=count - redriven) if redriven < count else 0)

    async def purge(self, to: str = "dead") -> int:
        """Move all waiting and delayed events of both queues to their dead letters; returns how many."""
        return sum(await self._both(lambda queue: queue.purge(to)))

    async def purge_dead(self, *dead_ids: str, who: str = "unknown") -> int:
        """Delete dead letters for good (all if no id is given); returns how many."""
        if dead_ids:
            return await self._named(dead_ids, lambda queue, ids: queue.purge_dead(*ids, who=who))
        return sum(await self._both(lambda queue: queue.purge_dead(who=who)))

    async def _named(
        self, dead_ids: Sequence[str], act: Callable[[Queue, Sequence[str]], Coroutine[Any, Any, int]]
    ) -> int:
        """Do something to dead letters where they are; returns to how many."""
        first, second = self._parted_ids(dead_ids)
        calls = [act(queue, ids) for queue, ids in ((self._first, first), (self._second, second)) if ids]
        return sum(await _all(*calls))

    def _parted_ids(self, dead_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the first queue's ids, without their prefix, and the second's."""
        prefix = self._first_id
        first = [dead_id.removeprefix(prefix) for dead_id in dead_ids if dead_id.startswith(prefix)]
        return first, [dead_id for dead_id in dead_ids if not dead_id.startswith(prefix)]

    async def pause(self, *, intake: bool = True, delivery: bool = True) -> None:
        """Refuse new events and/or stop handing out, in both queues and in all processes that share them."""
        await self._both(lambda queue: queue.pause(intake=intake, delivery=delivery))

    async def resume(self) -> None:
        """End a pause."""
        await self._both(lambda queue: queue.resume())

    async def _both(self, ask: Callable[[Queue], Coroutine[Any, Any, T]]) -> list[T]:
        """Ask both queues, each also if the other fails; raises what went wrong then."""
        return await _all(ask(self._first), ask(self._second))

    async def __aenter__(self) -> Self:
        """Enter; connects nothing by itself."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave: acknowledge what the leaving task took if it leaves normally, then `cleanup`."""
        if exc_type is None:
            self._settler.finish_current_task()
        await self.cleanup()


def summed(first: QueueStats, second: QueueStats) -> QueueStats:
    """Return the figures of two queues together; the bound is the second's, and a consumer of both counts once."""
    ages = [age for age in (first.oldest_waiting_age, second.oldest_waiting_age) if age is not None]
    names = dict.fromkeys((*first.totals, *second.totals))
    idle = [seconds for seconds in (first.consumers_idle, second.consumers_idle) if seconds is not None]
    return QueueStats(
        waiting=first.waiting + second.waiting,
        in_flight=first.in_flight + second.in_flight,
        delayed=first.delayed + second.delayed,
        dead=first.dead + second.dead,
        max_size=second.max_size,
        oldest_waiting_age=max(ages, default=None),
        consumers=max(first.consumers, second.consumers),
        consumers_idle=min(idle, default=None),
        intake_paused=first.intake_paused or second.intake_paused,
        delivery_paused=first.delivery_paused or second.delivery_paused,
        totals={name: first.totals.get(name, 0) + second.totals.get(name, 0) for name in names},
    )


async def _all(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Await all calls, each also if another fails; raises what went wrong first."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def _parted(
    deliveries: Sequence[Delivery], first_ones: Container[Delivery]
) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
    """Return the deliveries of the first queue and those of the second, each in order."""
    if not first_ones:
        return (), deliveries
    first = [delivery for delivery in deliveries if delivery in first_ones]
    return first, [delivery for delivery in deliveries if delivery not in first_ones]


def _ack_each(first: Queue, second: Queue, first_ones: Container[Delivery], deliveries: Sequence[Delivery]) -> None:
    """Acknowledge where each delivery came from; knows no `TwoQueues`, so that a task can hold it beyond one."""
    here, there = _parted(deliveries, first_ones)
    if here:
        first.ack_soon(*here)
    if there:
        second.ack_soon(*there)
