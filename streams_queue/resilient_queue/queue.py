"""`ResilientQueue`: the port over two queues, Redis and the local one; which of them takes part is decided per call."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import weakref
from collections.abc import Awaitable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streams_queue.breaker import BreakerPolicy
from streams_queue.codec import check_event_ids
from streams_queue.config import MEMORY_REQUIRES, REDIS_REQUIRES, Settings, load_config
from streams_queue.errors import BackendError, BackendTimeout, SpoolError
from streams_queue.memory_queue import EventQueue
from streams_queue.messages import DeadLetter, Delivery, QueueStats, Receipt, WaitingEvent
from streams_queue.observer import Observer, Observers
from streams_queue.queue import Queue
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.resilient_queue.holding import Holding, NewEvents
from streams_queue.resilient_queue.memory import InMemory
from streams_queue.resilient_queue.recovery import Recovery, goes_local
from streams_queue.resilient_queue.spool import Spool
from streams_queue.settling import Claim, TaskSettler

logger = logging.getLogger(__name__)

_DRAIN_AT_CLEANUP = 3.0
_LOCAL_ID = "local:"


class ResilientQueue:
    """An event queue on Redis that goes on in this process while the server cannot take events.

    While it holds events locally, new ones queue behind them, and a task moves them to Redis in order as soon as the
    server takes them again. Without a spool directory local consumers get them meanwhile, and what is held dies with
    the process. With one they wait on disk for Redis, also beyond the end of the process.

    Attributes:
        settings: The configuration as it was read.
    """

    def __init__(
        self,
        config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        observers: Iterable[Observer] = (),
        redis_queue: RedisEventQueue | None = None,
        async_queue: EventQueue | None = None,
        payload_type: type | None = None,
        breaker: BreakerPolicy | None = None,
    ) -> None:
        """Set both queues up; connects nothing.

        Args:
            config: As for the two queues; `fallback.max_size` bounds what is held locally, and in the directory
                `fallback.spool` it survives the process.
            observers: Are told what happens in both queues, and when the fallback begins and ends. An event that moves
                to Redis is accepted twice: by the local queue and by Redis; from a spool once, when it is on disk.
            redis_queue: Made elsewhere, to be used instead of one of its own.
            async_queue: Likewise for the local one.
            payload_type: A msgspec Struct or a dataclass that payloads are instances of; None takes JSON objects.
            breaker: How often the server is tried again.

        Raises:
            ConfigError: Something is missing or wrong.
        """
        settings = load_config(config, require=MEMORY_REQUIRES if redis_queue else REDIS_REQUIRES)
        self.settings = settings
        told = self._told = tuple(observers)
        self._redis = redis_queue or RedisEventQueue(settings, observers=told, payload_type=payload_type)
        self._redis.keep_unresolved = True
        self.observers = self._observers = Observers(told)
        self._payload_type = payload_type
        self._breaker_policy = breaker or BreakerPolicy()
        self._given_local = async_queue
        self._known = QueueStats(waiting=0, in_flight=0, delayed=0, dead=0, max_size=settings.max_size)
        self._running = True
        self._start_over()
        _queues.add(self)

    def _start_over(self) -> None:
        """Begin with nothing held: at construction, and in a forked child, where what is held is the parent's."""
        self._local = self._given_local or EventQueue(
            _for_local(self.settings), observers=self._told, payload_type=self._payload_type
        )
        self._holding: Holding = self._new_holding()
        self._recovery = Recovery(self._redis, self._holding, self._observers, self._breaker_policy, self._look_again)
        self._has_looked = False
        self._looking: asyncio.Task[None] | None = None
        self._local_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
        self._waiting: set[asyncio.Timeout] = set()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._settler = TaskSettler(
            ack_soon=self._ack_all,
            ack_at_task_end=partial(_ack_each, self._redis, self._local, self._local_deliveries),
            give_back=self._give_back,
        )

    def _new_holding(self) -> Holding:
        spool = self.settings.fallback.spool
        if spool is None:
            return InMemory(self._local, self._redis, self._payload_type)
        return Spool(Path(spool), self.settings, self._redis, self._observers, self._found)

    def _found(self) -> None:
        self._recovery.found()

    # --- attributes ---

    @property
    def redis_queue(self) -> RedisEventQueue:
        """The queue on the server."""
        return self._redis

    @property
    def async_queue(self) -> EventQueue:
        """The queue in this process."""
        return self._local

    @property
    def using_redis(self) -> bool:
        """Whether a new event goes to the server."""
        return not self._recovery.active

    @property
    def held_locally(self) -> int:
        """How many events this process holds until the server takes them."""
        return self._holding.count()

    @property
    def max_size(self) -> int:
        """The most events that may be unsettled on the server; fallback.max_size bounds those held here as well."""
        return self._redis.max_size

    @max_size.setter
    def max_size(self, value: int) -> None:
        self._redis.max_size = value
        self._holding.max_size = min(value, self.settings.fallback.max_size)

    @property
    def timeout(self) -> float:
        """Default wait of `dequeue` and `receive` in seconds."""
        return self._redis.timeout

    @timeout.setter
    def timeout(self, value: float) -> None:
        self._redis.timeout = self._local.timeout = value

    # --- producing ---

    async def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put one event on the server, or into this process while the server cannot take it.

        Returns:
            True if one of the queues holds it; False if the one in charge is full, or the queue is closed. That the
            server is full is no reason to hold an event locally.

        Raises:
            MessageError: The payload cannot travel.
            BackendTimeout: The outcome is unknown, and there is no room to hold the event until it is known.
            BackendRejected: The server refuses for good (no permission, wrong type, wrong password).
            SpoolError: The server cannot take the event now, and the spool directory cannot either.
        """
        if self._running and not self._has_looked:
            await self._look_first()
        if self._running and self._recovery.lets_through():
            try:
                held = await self._redis.enqueue(payload, event_id=event_id, delay=delay, headers=headers)
            except BackendError as error:
                receipts = await self._hold_after(error, NewEvents([payload], [event_id], delay, headers))
                return receipts[0].held
            self._recovery.succeeded()
            return held
        receipts = await self._hold(NewEvents([payload], [event_id], delay, headers))
        return receipts[0].held

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events on the server, or into this process, in order; one receipt each. Raises as `enqueue`."""
        given = list(payloads)
        new = NewEvents(given, check_event_ids(event_ids, len(given)), delay, headers)
        if self._running and not self._has_looked:
            await self._look_first()
        if not (self._running and self._recovery.lets_through()):
            return await self._hold(new)
        try:
            receipts = await self._redis.enqueue_many(given, event_ids=new.event_ids, delay=delay, headers=headers)
        except BackendError as error:
            return await self._hold_after(error, new)
        self._recovery.succeeded()
        return receipts

    async def _hold_after(self, error: BackendError, new: NewEvents) -> list[Receipt]:
        """Hold what Redis did not take, or may have taken; the first events of the call may be there already."""
        if not goes_local(error):
            raise error
        receipts = list(error.receipts)
        self._recovery.failed(error)
        start = len(receipts)
        if isinstance(error, BackendTimeout) and error.unresolved is not None:
            start += len(error.positions)
            try:
                receipts += await self._holding.add_unresolved(new.part(len(receipts), start), error)
            finally:
                self._recovery.work()
        return receipts + (await self._hold(new.part(start, len(new.payloads))) if start < len(new.payloads) else [])

    async def _hold(self, new: NewEvents) -> list[Receipt]:
        try:
            return await self._holding.add(new)
        finally:
            if self._running:
                self._recovery.work()

    async def _look_first(self) -> None:
        """See to it that what a dead process left goes before anything of this one; several callers look once."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="streams_queue.look")
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            await self._holding.look()
        except SpoolError as error:
            # It has been logged, check_health shows it, and while the server works nothing needs the spool.
            logger.debug("Events that an earlier process left were not looked for (%s)", error)
        self._has_looked = True
        self._recovery.found()

    # --- consuming ---

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        """Take the next event and settle the ones that the calling task took before; None when nothing came in time."""
        return self._dequeue(self._settler.claim(), timeout)

    async def _dequeue(self, claim: Claim, timeout: float | None) -> Any | None:
        self._settler.begin(claim)
        for delivery in await self.receive(1, timeout):
            self._settler.returned(claim, delivery)
            return delivery.payload
        return None

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        """Take up to `max_events` deliveries from the server or, while the fallback is on, from either queue.

        Payloads of more than `max_bytes` together are taken only if there is a single one.

        Cancelled: No event is lost; at any moment this waits on one queue only, and takes nothing from the other.
        """
        wait = self.timeout if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + wait
        if self._running and not self._has_looked:
            await self._look_first()
        while self._running:
            if self._recovery.active and (
                local := await self._local.receive(max_events, timeout=0, max_bytes=max_bytes)
            ):
                self._local_deliveries.update(local)
                return local
            found = await self._receive_from_redis(max_events, deadline, max_bytes)
            if found is not None:
                return found
        return []

    async def _receive_from_redis(self, max_events: int, deadline: float, max_bytes: float) -> list[Delivery] | None:
        """Wait for events on the server; None as soon as it is time to look into the local queue."""
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)
        arrival: asyncio.Task[None] | None = None
        try:
            async with scope:
                self._waiting.add(scope)
                if self._recovery.active:
                    arrival = loop.create_task(self._local.wait_for_arrival())
                    arrival.add_done_callback(lambda _: self._interrupt(scope))
                timeout = max(0.0, deadline - loop.time())
                return await self._redis.receive(max_events, timeout, max_bytes=max_bytes)
        except TimeoutError:
            return None
        finally:
            self._waiting.discard(scope)
            if arrival is not None:
                arrival.cancel()

    def _interrupt(self, scope: asyncio.Timeout) -> None:
        if scope in self._waiting:
            self._waiting.discard(scope)
            scope.reschedule(asyncio.get_running_loop().time())

    def _look_again(self) -> None:
        """Let every waiting consumer find out anew where events may come from."""
        for scope in list(self._waiting):
            self._interrupt(scope)

    # --- settling: where a delivery came from decides where it is settled ---

    def _home(self, delivery: Delivery) -> Queue:
        return self._local if delivery in self._local_deliveries else self._redis

    def _parted(self, deliveries: Sequence[Delivery]) -> tuple[Sequence[Delivery], list[Delivery]]:
        return _parted(deliveries, self._local_deliveries)

    async def ack(self, *deliveries: Delivery) -> None:
        """The events are done; returns after the server's reply where it has a say. The first settlement wins."""
        remote, local = self._parted(deliveries)
        await self._local.ack(*local)
        if remote:
            await self._redis.ack(*remote)

    def ack_soon(self, *deliveries: Delivery) -> None:
        """The events are done; the server is told with the next read, or within 5 ms."""
        self._ack_all(deliveries)

    async def flush(self) -> None:
        """Return when the server knows of all that was done so far. What is held locally is moved by itself.

        Raises:
            BackendTimeout: No reply within enqueue_timeout; the acks are still being sent.
        """
        await self._redis.flush()

    def _ack_all(self, deliveries: Sequence[Delivery]) -> None:
        _ack_each(self._redis, self._local, self._local_deliveries, deliveries)

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
        self._move_leftovers(delivery)

    async def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched, at the end of their line; those no longer held are passed over."""
        remote, local = self._parted(deliveries)
        await self._local.release(*local)
        if remote:
            await self._redis.release(*remote)
        if local:
            self._move_leftovers(local[0])

    async def extend(self, *deliveries: Delivery) -> None:
        """Renew the lease by hand. Raises LeaseLost if one of them is no longer held; the others are renewed."""
        remote, local = self._parted(deliveries)
        try:
            await self._local.extend(*local)
        finally:
            if remote:
                await self._redis.extend(*remote)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Never hand the event out again without a redrive. Raises LeaseLost."""
        await self._home(delivery).dead_letter(delivery, reason)

    def _move_leftovers(self, delivery: Delivery) -> None:
        """Move a local event to the server that became available again after the fallback had ended."""
        if self._running and delivery in self._local_deliveries and not self._holding.is_empty():
            self._recovery.work()

    # --- looking ---

    async def get_queue_depth(self) -> int:
        """How many events wait here and on the server; while that cannot be reached, its last known depth counts."""
        stats = await self.stats()
        return stats.waiting

    def get_queue_size(self) -> int:
        """The depth as far as this process knows it, without asking the server."""
        return self._redis.get_queue_size() + self._local.get_queue_size() + self._holding.waiting()

    async def stats(self) -> QueueStats:
        """Both queues together; the figures of a server that cannot be reached are the last known ones."""
        here = await self._local.stats()
        here = replace(here, waiting=here.waiting + self._holding.waiting())
        return _sum(await self._redis_stats(), here)

    async def _redis_stats(self) -> QueueStats:
        if not self._recovery.unreachable:
            try:
                self._known = await self._redis.stats()
            except BackendError as error:
                if not goes_local(error):
                    raise
        return self._known

    async def check_health(self) -> dict[str, Any]:
        """Tell how both queues are; never raises for a server problem.

        Returns:
            The port's keys, and `held_locally`, `held_durable` (False: it dies with the process), with a spool `spool`
            (the directory), and `warning` where something is held or the directory cannot be used. `status` is
            "degraded" while something is held or the server or the spool is not in use, "unhealthy" when there is no
            room left either.
        """
        redis = await self._redis.check_health()
        local = await self._local.stats()
        return {
            **redis,
            "status": self._status(redis),
            "queue_depth": redis.get("queue_depth", 0) + local.waiting + self._holding.waiting(),
            "queue_size": self.get_queue_size(),
            "processing": redis.get("processing", 0) + local.in_flight,
            "running": self.is_running(),
            "using_redis": self.using_redis,
            "held_locally": self._holding.count(),
            "held_durable": self._holding.durable,
            **self._holding.remarks(),
        }

    def _status(self, redis: Mapping[str, Any]) -> str:
        held, problem = self._holding.count(), self._holding.has_problem()
        if not self._running or (held and held >= self._holding.max_size):
            return "unhealthy"
        if redis.get("redis_connected") and self.using_redis and not held:
            return "degraded" if problem else str(redis["status"])
        return "unhealthy" if problem else "degraded"

    def is_running(self) -> bool:
        """True from construction to cleanup."""
        return self._running

    # --- operating ---

    async def peek(self, count: int = 10) -> list[WaitingEvent]:
        """Look at the next events, those of this process before those of the server, without taking them."""
        local = await self._local.peek(count)
        return local + (await self._redis.peek(count - len(local)) if count > len(local) else [])

    async def dead_letters(self, count: int = 100, *, after: str | None = None) -> list[DeadLetter]:
        """List dead letters, oldest first, those of this process (ids beginning with `local:`) before the server's."""
        found: list[DeadLetter] = []
        if after is None or after.startswith(_LOCAL_ID):
            local = await self._local.dead_letters(count, after=after and after.removeprefix(_LOCAL_ID))
            found = [replace(letter, dead_id=_LOCAL_ID + letter.dead_id) for letter in local]
            after = None
        if len(found) < count:
            found += await self._redis.dead_letters(count - len(found), after=after)
        return found

    async def redrive(self, *dead_ids: str, count: int | None = None) -> int:
        """Put dead letters back into the queue in which they died; all of them if no id is given."""
        if dead_ids:
            remote, local = _parted_ids(dead_ids)
            redriven = await self._local.redrive(*local) if local else 0
            return redriven + (await self._redis.redrive(*remote) if remote else 0)
        redriven = await self._local.redrive(count=count)
        left = None if count is None else count - redriven
        return redriven if left == 0 else redriven + await self._redis.redrive(count=left)

    async def purge(self, to: str = "dead") -> int:
        """Move all waiting and delayed events of both queues to their dead letters; returns how many."""
        return await self._local.purge(to) + await self._redis.purge(to)

    async def purge_dead(self, *dead_ids: str, who: str = "unknown") -> int:
        """Delete dead letters for good (all if no id is given); returns how many."""
        if not dead_ids:
            return await self._local.purge_dead(who=who) + await self._redis.purge_dead(who=who)
        remote, local = _parted_ids(dead_ids)
        deleted = await self._local.purge_dead(*local, who=who) if local else 0
        return deleted + (await self._redis.purge_dead(*remote, who=who) if remote else 0)

    async def pause(self, *, intake: bool = True, delivery: bool = True) -> None:
        """Refuse new events and/or stop handing out, here and in all processes that share the server's queue."""
        await self._local.pause(intake=intake, delivery=delivery)
        await self._redis.pause(intake=intake, delivery=delivery)

    async def resume(self) -> None:
        """End a pause."""
        await self._local.resume()
        await self._redis.resume()

    async def cleanup(self) -> None:
        """Move what is held to the server if that works within a few seconds, and close both queues.

        What cannot be moved stays in the spool for the next process, or dies with this one; the log says how many
        events that are.
        """
        if self._running:
            self._running = False
            self._look_again()
            self._settler.take_all()
            await self._local.release(*self._local_deliveries)
            await self._recovery.finish(_DRAIN_AT_CLEANUP)
            await self._holding.close()
        await self._local.cleanup()
        await self._redis.cleanup()

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

    def _forked(self) -> None:
        """In a forked child: leave everything of the parent's alone, and start over."""
        # Never collected: tasks and futures of the parent's loop must not be touched here.
        _inherited.append((self._local, self._holding, self._recovery, self._looking, self._settler))
        self._start_over()


def _for_local(settings: Settings) -> Settings:
    """Return the settings of the local queue: bounded by the fallback's size, and full is full."""
    return replace(settings, max_size=min(settings.max_size, settings.fallback.max_size), overflow="reject")


def _parted(
    deliveries: Sequence[Delivery], local_ones: Container[Delivery]
) -> tuple[Sequence[Delivery], list[Delivery]]:
    """Return the deliveries of Redis and the local ones, each in order."""
    if not local_ones:
        return deliveries, []
    local = [delivery for delivery in deliveries if delivery in local_ones]
    return [delivery for delivery in deliveries if delivery not in local_ones], local


def _ack_each(
    redis: RedisEventQueue, local: EventQueue, local_ones: Container[Delivery], deliveries: Sequence[Delivery]
) -> None:
    """Acknowledge where each delivery came from; knows no ResilientQueue, so that a task can hold it beyond one."""
    remote, here = _parted(deliveries, local_ones)
    if here:
        local.ack_soon(*here)
    if remote:
        redis.ack_soon(*remote)


def _parted_ids(dead_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the server's ids and the local ones, these without their prefix."""
    local = [dead_id.removeprefix(_LOCAL_ID) for dead_id in dead_ids if dead_id.startswith(_LOCAL_ID)]
    return [dead_id for dead_id in dead_ids if not dead_id.startswith(_LOCAL_ID)], local


def _sum(redis: QueueStats, local: QueueStats) -> QueueStats:
    """Return the figures of both queues together; the bound and the consumers are the server's."""
    ages = [age for age in (redis.oldest_waiting_age, local.oldest_waiting_age) if age is not None]
    return QueueStats(
        waiting=redis.waiting + local.waiting,
        in_flight=redis.in_flight + local.in_flight,
        delayed=redis.delayed + local.delayed,
        dead=redis.dead + local.dead,
        max_size=redis.max_size,
        oldest_waiting_age=max(ages, default=None),
        consumers=redis.consumers,
        consumers_idle=redis.consumers_idle,
        paused=redis.paused or local.paused,
        totals={name: redis.totals.get(name, 0) + local.totals.get(name, 0) for name in {*redis.totals, *local.totals}},
    )


_queues: weakref.WeakSet[ResilientQueue] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for queue in list(_queues):
        queue._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
