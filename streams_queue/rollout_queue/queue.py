"""`RolloutQueue`: the port over an old and a new queue, between which a team moves a share at a time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streams_queue.breaker import BreakerPolicy
from streams_queue.codec import check_event_ids, make_codec
from streams_queue.config import ROLLOUT_REQUIRES, RolloutSettings, Settings, load_config
from streams_queue.errors import BackendError, BackendTimeout, NotDurable, StreamsQueueError
from streams_queue.kinds import class_for
from streams_queue.messages import Delivery, QueueStats, Receipt, ReceiptStatus
from streams_queue.observer import Observer, Observers
from streams_queue.redis_client import passes
from streams_queue.rollout_queue.ownership import Ownership
from streams_queue.rollout_queue.routing import Route
from streams_queue.rollout_queue.turns import Turns
from streams_queue.two_queues import NewEvents, Side, TwoQueues, summed

logger = logging.getLogger(__name__)

_Receipts = list[Receipt | None]


class RolloutQueue(TwoQueues):
    """Two queues in one: a share of the new events goes to the new one, the rest to the old one, and both are read.

    The share is of keys, such as repositories, so that the events of one key stay together while the share stays as it
    is. An event id is held once, whichever queue it was first sent to. Each queue keeps what it holds, and goes on
    while the other one cannot be reached.

    Attributes:
        settings: The configuration as it was read; those of the two queues are in `settings.rollout`.
        observers: Are told what happens in both queues.
    """

    _first_id = "old:"

    def __init__(
        self,
        config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        observers: Iterable[Observer] = (),
        payload_type: type | None = None,
    ) -> None:
        """Set both queues up; connects nothing.

        Args:
            config: With a section `rollout`; `type` is ignored.
            observers: Are told what happens in both queues.
            payload_type: A msgspec Struct or a dataclass that payloads are instances of; None takes JSON objects.

        Raises:
            ConfigError: Something is missing or wrong.
        """
        self.settings = load_config(config, require=ROLLOUT_REQUIRES)
        self._told = tuple(observers)
        self.observers = Observers(self._told)
        self._payload_type = payload_type
        self._route = Route(self._rollout.percentage, self._rollout.key)
        self._running = True
        self._warned = False
        self._known = [_nothing(self._rollout.old), _nothing(self._rollout.new)]
        self._start_over()
        _queues.add(self)

    @property
    def _rollout(self) -> RolloutSettings:
        assert self.settings.rollout is not None  # noqa: S101 - load_config has seen to it
        return self.settings.rollout

    def _start_over(self) -> None:
        """Begin with nothing held: at construction, and in a forked child, where what is held is the parent's."""
        self._old, self._new = self._make(self._rollout.old), self._make(self._rollout.new)
        self._ownership = Ownership(self._old, self._new, BreakerPolicy())
        self._turns = Turns(self._old, self._new)
        self._pair(self._old, self._new)

    def _make(self, settings: Settings) -> Side:
        queue_class: Any = class_for(settings.type)
        queue: Side = queue_class(settings, observers=self._told, payload_type=self._payload_type)
        return queue

    # --- attributes ---

    @property
    def old_queue(self) -> Side:
        """The queue that events come from."""
        return self._old

    @property
    def new_queue(self) -> Side:
        """The queue that events are to go to."""
        return self._new

    @property
    def percentage(self) -> float:
        """The share of keys whose events go to the new queue, 0 to 100; may be set at any time, for this process."""
        return self._route.percentage

    @percentage.setter
    def percentage(self, value: float) -> None:
        if not 0 <= value <= 100:
            raise ValueError(f"percentage must be from 0 to 100, not {value}")
        self._route = Route(value, self._rollout.key)

    @property
    def max_size(self) -> int:
        """The most events that may be unsettled in each of the two queues at once; may be set at any time."""
        return self._new.max_size

    @max_size.setter
    def max_size(self, value: int) -> None:
        self._old.max_size = self._new.max_size = value

    @property
    def timeout(self) -> float:
        """Default wait of `dequeue` and `receive` in seconds; may be set at any time."""
        return self._new.timeout

    @timeout.setter
    def timeout(self, value: float) -> None:
        self._old.timeout = self._new.timeout = value

    # --- producing ---

    async def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put one event into the queue that its key belongs to, or the one that has had its event_id.

        Returns:
            True if one of the queues holds it; False if the one in charge is full or paused, or both are closed.

        Raises as the queue in charge does.

        Redis: What that queue does; with an event_id that goes to the new queue one round trip to the old one before.
        Cancelled: The event may be in the queue or not; a second call is safe with the same event_id.
        """
        if event_id is None and self._running:
            queue = self._new if self._route.goes_to_new(payload, None) else self._old
            return await queue.enqueue(payload, delay=delay, headers=headers)
        receipts = await self._put(NewEvents([payload], check_event_ids([event_id], 1), delay, headers))
        return receipts[0].held

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events into the queues that they belong to; one receipt each. Nothing is sent if one is bad.

        Both queues are sent their events at the same time, each in order.

        Raises as `enqueue`, what went wrong first. `receipts` of the error are those of the first events, up to one
        whose fate is not known; events after that may have been accepted as well.
        """
        given = list(payloads)
        return await self._put(NewEvents(given, check_event_ids(event_ids, len(given)), delay, headers))

    async def _put(self, new: NewEvents) -> list[Receipt]:
        if not self._running:
            await self._refuse()
            return [Receipt(ReceiptStatus.CLOSED, event_id or "") for event_id in new.event_ids]
        to_new = [self._route.goes_to_new(*event) for event in zip(new.payloads, new.event_ids, strict=True)]
        parts = [[at for at, goes in enumerate(to_new) if goes is side] for side in (False, True)]
        receipts: _Receipts = [None] * len(new.payloads)
        if not parts[1]:
            error = await self._put_old(new, parts[0], receipts)
        elif not parts[0]:
            error = await self._put_new(new, parts[1], receipts)
        else:
            self._check_payloads(new, parts)
            both = await asyncio.gather(self._put_old(new, parts[0], receipts), self._put_new(new, parts[1], receipts))
            error = both[0] or both[1]
        if error is not None:
            raise _about(error, receipts)
        return [receipt for receipt in receipts if receipt is not None]

    def _check_payloads(self, new: NewEvents, parts: Sequence[Sequence[int]]) -> None:
        """Raise MessageError if one of the payloads cannot travel, before the others are sent."""
        for settings, positions in zip((self._rollout.old, self._rollout.new), parts, strict=True):
            codec = make_codec(self._payload_type, max_bytes=settings.max_event_bytes)
            for at in positions:
                codec.encode(new.payloads[at])

    async def _put_old(self, new: NewEvents, positions: Sequence[int], receipts: _Receipts) -> BackendError | None:
        """Send events to the old queue; what it refuses as a duplicate may be ceded, and belongs to the new one."""
        error = await _send(self._old, new, positions, receipts)
        refused = [at for at in positions if _has_status(receipts[at], ReceiptStatus.DUPLICATE)]
        if not refused:
            return error
        try:
            ceded = await self._ownership.cede_refused([_id(new, at) for at in refused])
        except BackendError as unanswered:
            _forget(refused, receipts)
            return error or unanswered
        moved = [at for at, is_ceded in zip(refused, ceded, strict=True) if is_ceded]
        return await self._put_ceded(new, moved, receipts) or error

    async def _put_new(self, new: NewEvents, positions: Sequence[int], receipts: _Receipts) -> BackendError | None:
        """Send events to the new queue whose ids the old one has not seen."""
        named = [at for at in positions if new.event_ids[at] is not None]
        if not named:
            return await _send(self._new, new, positions, receipts)
        try:
            ceded = await self._ownership.cede([_id(new, at) for at in named])
        except BackendError as error:
            return error
        if ceded is None:
            return await _send(self._new, new, positions, receipts)
        for at, is_ceded in zip(named, ceded, strict=True):
            receipts[at] = None if is_ceded else Receipt(ReceiptStatus.DUPLICATE, _id(new, at))
        return await self._put_ceded(new, [at for at in positions if receipts[at] is None], receipts)

    async def _put_ceded(self, new: NewEvents, positions: Sequence[int], receipts: _Receipts) -> BackendError | None:
        """Send events to the new queue; the ids of those that it certainly did not take are free again."""
        if not positions:
            return None
        _forget(positions, receipts)
        try:
            error = await _send(self._new, new, positions, receipts)
        except StreamsQueueError:
            await self._take_back(new, positions)
            raise
        sent = isinstance(error, BackendTimeout)
        left = [at for at in positions if not (sent if (receipt := receipts[at]) is None else receipt.held)]
        await self._take_back(new, left)
        return error

    async def _take_back(self, new: NewEvents, positions: Sequence[int]) -> None:
        if event_ids := [event_id for at in positions if (event_id := new.event_ids[at]) is not None]:
            await self._ownership.take_back(event_ids)

    # --- consuming ---

    async def _receive(self, max_events: int, timeout: float, max_bytes: float) -> list[Delivery]:
        """Take from the old queue first, and from each in its turn; the log says if one of them refuses for good.

        Cancelled: No event is lost; this waits for both queues and takes from one.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while self._running:
            if taken := await self._take(max_events, max_bytes):
                return taken
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            # However short the wait, both have been asked once.
            await self._turns.wait(left, max_events)
            if not left:
                return await self._take(max_events, max_bytes)
        await self._refuse()
        return []

    async def _take(self, max_events: int, max_bytes: float) -> list[Delivery]:
        queue, taken = await self._turns.take(max_events, max_bytes)
        if queue is self._old:
            self._first_deliveries.update(taken)
        return taken

    # --- looking ---

    async def get_queue_depth(self) -> int:
        """How many events wait in both queues; while one cannot be reached, its last known depth counts."""
        return (await self.stats()).waiting

    def get_queue_size(self) -> int:
        """The depth as far as this process knows it, without asking a server."""
        return self._old.get_queue_size() + self._new.get_queue_size()

    async def stats(self) -> QueueStats:
        """Both queues together; the figures of one that cannot be reached are the last known ones.

        `max_size` bounds each of the two. Raises BackendError if neither can be reached.
        """
        found = await asyncio.gather(self._old.stats(), self._new.stats(), return_exceptions=True)
        errors = [outcome for outcome in found if isinstance(outcome, BaseException)]
        for error in errors:
            if len(errors) == len(found) or not (isinstance(error, BackendError) and passes(error)):
                raise error
        self._known = [
            known if isinstance(new, BaseException) else new for known, new in zip(self._known, found, strict=True)
        ]
        return summed(*self._known)

    async def may_report(self, seconds: float) -> bool:
        """Tell if this process is to report the queues' figures; asked of the one that processes share."""
        for queue in (self._new, self._old):
            shared: Any = getattr(queue, "redis_queue", queue)
            if hasattr(shared, "may_report"):
                return bool(await shared.may_report(seconds))
        return True

    async def check_health(self) -> dict[str, Any]:
        """Tell how both queues are; never raises for a server problem.

        Returns:
            The port's keys for both together, `percentage`, and each queue's own answer as `old` and `new`. `status` is
            that of the queue that is worse off; but while one cannot be reached and the other works, "degraded".
            `error` says of which queue it speaks.
        """
        old, new = await asyncio.gather(self._old.check_health(), self._new.check_health())
        on_servers = [health for health in (old, new) if health["using_redis"] or "redis" in health]
        errors = [f"{name}: {health['error']}" for name, health in (("old", old), ("new", new)) if "error" in health]
        return {
            "status": self._status(old, new),
            "queue_depth": old["queue_depth"] + new["queue_depth"],
            "queue_size": self.get_queue_size(),
            "processing": old["processing"] + new["processing"],
            "delayed": old.get("delayed", 0) + new.get("delayed", 0),
            "dead": old.get("dead", 0) + new.get("dead", 0),
            "paused": bool(old.get("paused") or new.get("paused")),
            "running": self._running,
            "redis_connected": bool(on_servers) and all(health["redis_connected"] for health in on_servers),
            "using_redis": bool(on_servers),
            "percentage": self.percentage,
            "old": old,
            "new": new,
            **({"error": "; ".join(errors)} if errors else {}),
        }

    def _status(self, *sides: Mapping[str, Any]) -> str:
        statuses = {health["status"] for health in sides}
        if statuses == {"healthy"}:
            return "healthy"
        stuck = [health for health in sides if health["status"] == "unhealthy" and _answers(health)]
        return "unhealthy" if stuck or statuses == {"unhealthy"} else "degraded"

    def is_running(self) -> bool:
        """True from construction to cleanup."""
        return self._running

    # --- ending ---

    async def cleanup(self) -> None:
        """Flush acks, give back what is unsettled and close both queues. Deletes no event; twice is harmless."""
        if self._running:
            self._running = False
            self._settler.take_all()
            self._turns.close()
        await self._both(lambda queue: queue.cleanup())

    async def _refuse(self) -> None:
        """Say once that the queue is closed, and give way: a loop that calls it all the same would stop all others."""
        await asyncio.sleep(0)
        if not self._warned:
            self._warned = True
            logger.warning("The queue is closed: it takes no events and hands out none")

    def _forked(self) -> None:
        """In a forked child: leave everything of the parent's alone, and start over."""
        # Never collected: tasks and futures of the parent's loop must not be touched here.
        _inherited.append((self._old, self._new, self._turns, self._settler, self._giving_back))
        self._start_over()


async def _send(queue: Side, new: NewEvents, positions: Sequence[int], receipts: _Receipts) -> BackendError | None:
    """Send the events at these positions and note their receipts; returns what kept the queue from taking all of them.

    Of a NotDurable, `durable` is made a position: that of the first event that did not get as far.
    """
    part = new.pick(positions)
    error: BackendError | None = None
    found: Sequence[Receipt]
    try:
        found = await queue.enqueue_many(
            part.payloads, event_ids=part.event_ids, delay=part.delay, headers=part.headers
        )
    except BackendError as failed:
        error, found = failed, failed.receipts
    for at, receipt in zip(positions, found, strict=False):
        receipts[at] = receipt
    if isinstance(error, NotDurable):
        error = NotDurable(str(error), durable=positions[min(error.durable, len(positions) - 1)])
    return error


def _forget(positions: Sequence[int], receipts: _Receipts) -> None:
    """Note that it is not known, or not any more, what became of the events at these positions."""
    for at in positions:
        receipts[at] = None


def _about(error: BackendError, receipts: _Receipts) -> BackendError:
    """Return the error with the receipts of the events before the first one whose fate is not known."""
    known = [receipt for receipt in itertools.takewhile(lambda receipt: receipt is not None, receipts) if receipt]
    if isinstance(error, NotDurable):
        return NotDurable(str(error), known, durable=min(error.durable, len(known)))
    error.receipts = tuple(known)
    return error


def _has_status(receipt: Receipt | None, status: ReceiptStatus) -> bool:
    return receipt is not None and receipt.status is status


def _id(new: NewEvents, at: int) -> str:
    """Return the id that a caller gave to the event at this position."""
    return new.event_ids[at] or ""


def _answers(health: Mapping[str, Any]) -> bool:
    """Whether what a queue says of itself comes from where it keeps its events."""
    return not health["using_redis"] or bool(health["redis_connected"])


def _nothing(settings: Settings) -> QueueStats:
    return QueueStats(waiting=0, in_flight=0, delayed=0, dead=0, max_size=settings.max_size)


_queues: weakref.WeakSet[RolloutQueue] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for queue in list(_queues):
        queue._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
