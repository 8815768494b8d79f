"""`ResilientQueue`: the port over two queues, Redis and the local one; which of them takes part is decided per call."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import weakref
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from streams_queue.breaker import BreakerPolicy
from streams_queue.codec import check_event_ids
from streams_queue.config import MEMORY_REQUIRES, REDIS_REQUIRES, Settings, load_config
from streams_queue.errors import BackendError, BackendTimeout, SpoolError
from streams_queue.memory_queue import EventQueue
from streams_queue.messages import Delivery, QueueStats, Receipt
from streams_queue.observer import Observer, Observers
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.resilient_queue.holding import Holding
from streams_queue.resilient_queue.memory import InMemory
from streams_queue.resilient_queue.recovery import Recovery, goes_local
from streams_queue.resilient_queue.spool import Spool
from streams_queue.two_queues import NewEvents, TwoQueues, summed

logger = logging.getLogger(__name__)

_DRAIN_AT_CLEANUP = 3.0

T = TypeVar("T")


class ResilientQueue(TwoQueues):
    """An event queue on Redis that goes on in this process while the server cannot take events.

    While it holds events locally, new ones queue behind them, and a task moves them to Redis in order as soon as the
    server takes them again. Without a spool directory local consumers get them meanwhile, and what is held dies with
    the process. With one they wait on disk for Redis, also beyond the end of the process.

    Attributes:
        settings: The configuration as it was read.
    """

    _first_id = "local:"

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
        self._waiting: set[asyncio.Timeout] = set()
        self._pair(self._local, self._redis)

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

    async def _receive(self, max_events: int, timeout: float, max_bytes: float) -> list[Delivery]:
        """Take from the server or, while the fallback is on, from either queue.

        Cancelled: No event is lost; at any moment this waits on one queue only, and takes nothing from the other.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        if self._running and not self._has_looked:
            await self._look_first()
        while self._running:
            if self._recovery.active and (
                local := await self._local.receive(max_events, timeout=0, max_bytes=max_bytes)
            ):
                self._first_deliveries.update(local)
                return local
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            found = await self._unless_local(self._redis.receive(max_events, left, max_bytes=max_bytes))
            if found is not None:
                return found
        # Give way: a loop that goes on after cleanup would stop the event loop.
        await asyncio.sleep(0)
        return []

    async def _unless_local(self, waits_for_redis: Coroutine[Any, Any, T]) -> T | None:
        """Wait for the server; None as soon as it is time to look into the local queue."""
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)
        arrival: asyncio.Task[None] | None = None
        try:
            async with scope:
                self._waiting.add(scope)
                if self._recovery.active:
                    arrival = loop.create_task(self._local.wait_for_arrival())
                    arrival.add_done_callback(lambda _: self._interrupt(scope))
                return await waits_for_redis
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

    # --- beside another queue: see streams_queue.two_queues ---

    def has_arrived(self) -> bool:
        """Whether `take_arrived` has something to take."""
        return self._running and ((self._recovery.active and self._local.has_arrived()) or self._redis.has_arrived())

    def take_arrived(self, max_events: int, max_bytes: float = math.inf) -> list[Delivery]:
        """Take as `receive` does what is here already, without awaiting."""
        if self._recovery.active and (local := self._local.take_arrived(max_events, max_bytes)):
            self._first_deliveries.update(local)
            return local
        return self._redis.take_arrived(max_events, max_bytes)

    async def wait_for_arrival(self, seconds: float = math.inf, *, slots: int = 1) -> None:
        """Wait until there may be an event to take, at most `seconds`; with 0 look once."""
        if self._running and not self._has_looked:
            await self._look_first()
        await self._unless_local(self._redis.wait_for_arrival(seconds, slots=slots))

    async def lifetime(self) -> str:
        """Return by which the queue on the server is told from all others."""
        return await self._redis.lifetime()

    async def cede(self, event_ids: Sequence[str], *, refused: bool = False) -> list[bool]:
        """Leave ids given by callers to another queue; False for each that the server has, or this process in memory.

        What waits in a spool is not looked up: it turns out to be a duplicate when it moves to the server.
        """
        free = [event_id for event_id, ceded in zip(event_ids, await self._local.cede(event_ids), strict=True) if ceded]
        ceded = dict(zip(free, await self._redis.cede(free, refused=refused), strict=True))
        return [ceded.get(event_id, False) for event_id in event_ids]

    async def take_back(self, event_ids: Sequence[str]) -> None:
        """Make ids free again that were ceded to a queue which did not get their events."""
        await self._local.take_back(event_ids)
        await self._redis.take_back(event_ids)

    # --- settling ---

    async def nack(self, delivery: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        """The event failed: retry it after `delay` seconds, or bury it past the limit. Raises LeaseLost."""
        await super().nack(delivery, delay=delay, error=error)
        self._move_leftovers(delivery)

    async def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched, at the end of their line; those no longer held are passed over."""
        try:
            await super().release(*deliveries)
        finally:
            self._move_leftovers(*deliveries)

    def _move_leftovers(self, *deliveries: Delivery) -> None:
        """Move local events to the server that became available again after the fallback had ended."""
        if self._running and not self._holding.is_empty() and any(map(self._first_deliveries.__contains__, deliveries)):
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
        # Whoever consumes here is known on the server as well.
        here = replace(here, waiting=here.waiting + self._holding.waiting(), consumers=0)
        return summed(here, await self._redis_stats())

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

    # --- ending ---

    async def cleanup(self) -> None:
        """Move what is held to the server if that works within a few seconds, and close both queues.

        What cannot be moved stays in the spool for the next process, or dies with this one; the log says how many
        events that are.
        """
        if self._running:
            self._running = False
            self._look_again()
            self._settler.take_all()
            await self._local.release(*self._first_deliveries)
            await self._recovery.finish(_DRAIN_AT_CLEANUP)
            await self._holding.close()
        await self._local.cleanup()
        await self._redis.cleanup()

    def _forked(self) -> None:
        """In a forked child: leave everything of the parent's alone, and start over."""
        # Never collected: tasks and futures of the parent's loop must not be touched here.
        _inherited.append((self._local, self._holding, self._recovery, self._looking, self._settler))
        self._start_over()


def _for_local(settings: Settings) -> Settings:
    """Return the settings of the local queue: bounded by the fallback's size, and full is full."""
    return replace(settings, max_size=min(settings.max_size, settings.fallback.max_size), overflow="reject")


_queues: weakref.WeakSet[ResilientQueue] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for queue in list(_queues):
        queue._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
