"""RedisEventQueue: the port on Redis Streams."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import random
import secrets
import weakref
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from streams_queue.codec import (
    PLAIN_META,
    Meta,
    check_delay,
    check_event_id,
    check_event_ids,
    check_headers,
    encode_meta,
    make_codec,
)
from streams_queue.compression import check_compression
from streams_queue.config import MEMORY_REQUIRES, REDIS_REQUIRES, Settings, load_config
from streams_queue.errors import BackendError, LeaseLost, NotDurable, QueueClosed, UsageError
from streams_queue.messages import DeadLetter, Delivery, InFlight, QueueStats, Receipt, ReceiptStatus, WaitingEvent
from streams_queue.observer import Observer, Observers
from streams_queue.redis_client import Endpoint, endpoint_from_client
from streams_queue.redis_queue.channel import endpoint_of
from streams_queue.redis_queue.leases import Lease, Stage
from streams_queue.redis_queue.operations import Operations
from streams_queue.redis_queue.packing import packed
from streams_queue.redis_queue.producer import MAX_BATCH_EVENTS, PIECE_EVENTS, Batch, NewEvent, in_batches
from streams_queue.redis_queue.session import Session
from streams_queue.redis_queue.size import LocalSize
from streams_queue.retry import DeadLetterIt, decide_retry
from streams_queue.settling import Claim, TaskSettler

logger = logging.getLogger(__name__)

# Of one enqueue_many, so many batches are on their way to the sender at a time.
_BATCHES_AHEAD = 8
_FULL = (ReceiptStatus.FULL, ReceiptStatus.PAUSED)
_POLL_FULL = (0.01, 0.1)
_PAUSES = {(True, True): "intake,delivery", (True, False): "intake", (False, True): "delivery"}
_ERROR_LENGTH = 500


class RedisEventQueue:
    """An event queue on a Redis stream with a consumer group: at least once, bounded, shared by many processes.

    Making one does no I/O. It may be used after a fork and from one event loop after another; each time it starts a new
    session with a consumer name and connections of its own.

    Args:
        config: The mapping of webhook_config.yaml, a path to it, or loaded Settings; `type` is ignored.
        client: A redis-py asyncio client made elsewhere; connections are opened with its class and settings.
        observers: Plug-ins that are told what happens.
        payload_type: A msgspec Struct or dataclass that payloads are instances of; None is JSON objects.

    Raises:
        ConfigError: The configuration or the client cannot be used.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str] | Settings | None = None,
        *,
        client: Any = None,
        observers: Iterable[Observer] = (),
        payload_type: type[Any] | None = None,
    ) -> None:
        self.settings = load_config(config, require=REDIS_REQUIRES if client is None else MEMORY_REQUIRES)
        self.max_size = self.settings.max_size
        self.timeout = self.settings.timeout
        self.keep_unresolved = False
        self._endpoint = _endpoint(self.settings, client)
        self._codec = make_codec(payload_type, max_bytes=self.settings.max_event_bytes)
        self._compression = check_compression(self.settings.compression)
        self.observers = self._observers = Observers(observers)
        self._size = LocalSize()
        self._operations = Operations(self.settings, self._codec, self._size, self._current)
        self._event_ids = itertools.count()
        self._closed = False
        self._warned = False
        self._start_over()
        _queues.add(self)

    def _start_over(self) -> None:
        """Begin without a session: at construction and in a forked child."""
        self._session: Session | None = None
        self._id_prefix = secrets.token_hex(8)
        self._settler = TaskSettler(
            ack_soon=self._ack_soon, ack_at_task_end=_ack_at_task_end, give_back=self._give_back
        )

    def _current(self) -> Session:
        """Return the session of the running event loop, a new one if need be. Raises QueueClosed after cleanup."""
        if self._closed:
            raise QueueClosed
        session = self._session
        if session is not None and not session.is_over and session.loop is asyncio.get_running_loop():
            return session
        if session is not None and not session.is_over:
            if not session.loop.is_closed():
                raise UsageError("the queue is in use by another event loop; make one queue per loop")
            session.abandon()
        session = self._session = Session(self.settings, self._endpoint, self._codec, self._observers, self._size)
        session.producer.keep_unresolved = self.keep_unresolved
        # A queue that is dropped without cleanup must not keep what it held.
        self._finalizer = weakref.finalize(self, Session.abandon, session)
        self._finalizer.atexit = False
        return session

    # --- producing ---

    async def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put one event into the queue; True if it holds the event (now, or already), False if it is full or closed.

        Redis: 1 round trip, shared with all calls that come while the one before is on its way; for a durability level
            1 more and the wait.
        Cancelled: The event may be in the queue or not.

        Raises:
            EncodeError: The payload would not come back equal; the message names the path.
            MessageTooLarge: It is over max_event_bytes.
            BackendUnavailable: No connection within enqueue_timeout; nothing was written.
            BackendTimeout: No answer within enqueue_timeout; call again with the same event_id.
            BackendRejected: The server refused (out of memory, no permission, wrong type), or cannot do what
                `durability` asks for; nothing was written.
            NotDurable: The queue holds the event, and it did not reach `durability` within enqueue_timeout.
        """
        seconds, meta = check_delay(delay) if delay else 0.0, _meta(headers)
        event = self._new_event(payload, None if event_id is None else check_event_id(event_id), seconds, meta)
        return (await self._put((event,)))[0].held

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events into the queue, in order; one receipt per payload. Nothing is sent if one is bad.

        Redis: 1 round trip per 100 events, several on the way at a time, or per 500 where that cannot be.
        Raises as `enqueue`; then some events may have been accepted. NotDurable has
        the receipts of all that were sent.
        """
        given = list(payloads)
        return await self._put(self.new_events(given, event_ids, delay, headers))

    def new_events(
        self,
        payloads: Sequence[Any],
        event_ids: Sequence[str | None] | None,
        delay: float,
        headers: Mapping[str, str] | None,
    ) -> list[NewEvent]:
        """Return events as they travel. Raises MessageError if one of them cannot."""
        ids = check_event_ids(event_ids, len(payloads))
        seconds, meta = check_delay(delay), _meta(headers)
        if event_ids is None and self._compression is None:
            name = f"{self._id_prefix}-%x"
            numbered = zip(self._codec.encode_all(payloads), self._event_ids, strict=False)
            return [NewEvent(name % number, data, meta, seconds) for data, number in numbered]
        return [self._new_event(*each, seconds, meta) for each in zip(payloads, ids, strict=True)]

    def _new_event(self, payload: Any, event_id: str | None, delay: float, meta: bytes) -> NewEvent:
        made = f"{self._id_prefix}-{next(self._event_ids):x}" if event_id is None else event_id
        event = NewEvent(made, self._codec.encode(payload), meta, delay, event_id is not None)
        return event if self._compression is None else packed(event, self._compression)

    async def _put(self, events: Sequence[NewEvent]) -> list[Receipt]:
        if self._closed:
            await self._refuse()
            return [Receipt(ReceiptStatus.CLOSED, event.event_id) for event in events]
        if self.settings.overflow == "block":
            receipts = await self._put_patiently(events)
        elif len(events) == 1:
            receipts = await self._put_next(events, ())
        else:
            receipts = await self._put_at_once(events)
        full = ReceiptStatus.FULL
        if refused := sum([receipt.status is full for receipt in receipts]):
            self._observers.rejected(refused)
            if self.settings.overflow == "block":
                await self._count_rejected(refused)
        return receipts

    async def _count_rejected(self, refused: int) -> None:
        """Count for the totals; the caller's answer stands, whatever becomes of the count."""
        try:
            await self._operations.count_rejected(refused)
        except (BackendError, QueueClosed) as error:
            logger.debug("%d refusals were not counted (%s)", refused, error)

    async def _put_at_once(self, events: Sequence[NewEvent]) -> list[Receipt]:
        # Who keeps what did not get through has to know exactly which events that are, and with a level nothing is sent
        # after what missed it: one batch after the other.
        if not self.keep_unresolved and self.settings.durability == "accepted":
            return await self._put_ahead(in_batches(events, PIECE_EVENTS))
        receipts: list[Receipt] = []
        for batch in in_batches(events):
            receipts += await self._put_next(batch, receipts)
        return receipts

    async def _put_ahead(self, batches: Iterator[Sequence[NewEvent]]) -> list[Receipt]:
        """Put batches, each on its way while those before are; an error says what became of those before it."""
        receipts: list[Receipt] = []
        for first in batches:
            session, deadline = self._ready()
            ahead = itertools.chain((first,), itertools.islice(batches, _BATCHES_AHEAD - 1))
            replies = [session.producer.add(batch, deadline) for batch in ahead]
            try:
                for reply in replies:
                    receipts += await reply
            except BackendError as error:
                error.receipts = tuple(receipts)
                raise
            finally:
                for reply in replies:
                    # After an error nobody waits for the others any more; what is not on its way yet stays here.
                    if not reply.cancel() and not reply.cancelled():
                        reply.exception()
        return receipts

    async def _put_next(self, events: Sequence[NewEvent], before: Sequence[Receipt]) -> list[Receipt]:
        """Put one batch; an error says what became of the events of the same call that came before it."""
        session, deadline = self._ready()
        try:
            return await session.producer.add(events, deadline)
        except NotDurable as error:
            raise error.after(before) from None
        except BackendError as error:
            error.receipts = tuple(before)
            raise

    def _ready(self) -> tuple[Session, float]:
        """Return the session that puts events, and until when it may try."""
        session = self._current()
        session.producer.max_size = self.max_size
        return session, session.loop.time() + self.settings.enqueue_timeout

    async def _put_patiently(self, events: Sequence[NewEvent]) -> list[Receipt]:
        """Wait for room, up to `timeout`: what does not fit is tried again, and holds back only what comes after it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        receipts: list[Receipt] = []
        while len(receipts) < len(events) and not self._closed:
            start = len(receipts)
            tried = await self._put_next(next(in_batches(events[start : start + MAX_BATCH_EVENTS])), receipts)
            receipts += itertools.takewhile(lambda receipt: receipt.status not in _FULL, tried)
            if len(receipts) == start + len(tried):
                continue
            if loop.time() >= deadline:
                break
            await asyncio.sleep(min(random.uniform(*_POLL_FULL), max(0.0, deadline - loop.time())))
        left = ReceiptStatus.CLOSED if self._closed else ReceiptStatus.FULL
        return receipts + [Receipt(left, event.event_id) for event in events[len(receipts) :]]

    async def resolve(self, unresolved: Batch) -> list[Receipt]:
        """Send a batch again whose fate was unknown, verbatim; one receipt per event of the batch.

        Redis: 1 round trip. It is written at most once, however often it is sent. Raises as `enqueue`.
        """
        return await self._current().producer.resolve(unresolved)

    # --- consuming ---

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        """Take the next event and settle the ones that the calling task took before; None when nothing came in time.

        While the server cannot be reached it reconnects until `timeout`, and returns None then.

        Redis: nothing while events are prefetched; else 1 round trip that acknowledges and reads.
        Cancelled: No event is lost; the ones before are acknowledged.

        Raises:
            UsageError: Called outside a task, or by a helper task that has already let an event escape; use `receive`.
            BackendRejected: What no retry mends: wrong password, no permission, wrong type.
        """
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

        Redis, Cancelled, Raises: as `dequeue`; UsageError if max_events is below 1.
        """
        if max_events < 1:
            raise UsageError(f"receive takes at least 1 event, not {max_events}")
        return await self._take(max_events, timeout, max_bytes)

    async def _take(self, max_events: int, timeout: float | None, max_bytes: float = math.inf) -> list[Delivery]:
        if self._closed:
            await self._refuse()
            return []
        seconds = self.timeout if timeout is None else timeout
        if math.isnan(seconds):
            raise UsageError("timeout must be a number of seconds, not NaN")
        session = self._current()
        session.start_consuming()
        return await session.reader.take(max_events, seconds, max_bytes)

    # --- beside another queue: see streams_queue.two_queues ---

    def has_arrived(self) -> bool:
        """Whether `take_arrived` has something to take."""
        session = self._session
        return session is not None and not session.is_over and session.reader.has_arrived()

    def take_arrived(self, max_events: int, max_bytes: float = math.inf) -> list[Delivery]:
        """Take as `receive` does what was prefetched, without awaiting."""
        return self._current().reader.take_arrived(max_events, max_bytes) if self.has_arrived() else []

    async def wait_for_arrival(self, seconds: float = math.inf, *, slots: int = 1) -> None:
        """Wait until there may be an event to take, at most `seconds`; with 0 ask the server once.

        Redis: 1 round trip, which acknowledges and reads. Cancelled: Nothing is taken. Raises as `receive`.
        """
        session = self._current()
        session.start_consuming()
        await session.reader.wait_for_arrival(slots, seconds)

    async def lifetime(self) -> str:
        """Return by which the queue on the server is told from all others, as long as that keeps its state.

        Redis: nothing while the queue is open, else 1 round trip. Raises BackendError.
        """
        session = self._current()
        await session.channel.open()
        return session.channel.lifetime

    async def cede(self, event_ids: Sequence[str], *, refused: bool = False) -> list[bool]:
        """Leave ids given by callers to another queue, unless this one has them; False for each that it has.

        Args:
            event_ids: What is ceded is a duplicate here from now on, for dedup_window.
            refused: Whether this queue has just refused their events as duplicates; for the totals.

        Redis: 1 round trip per 500. Cancelled: They may be ceded or not. Raises BackendError.
        """
        return await self._operations.cede(event_ids, refused=refused)

    async def take_back(self, event_ids: Sequence[str]) -> None:
        """Make ids free again that were ceded to a queue which did not get their events.

        Those that somebody else has ceded as well stay as they are.

        Redis: 1 round trip per 500. Cancelled: They may stay ceded. Raises BackendError.
        """
        await self._operations.take_back(event_ids)

    # --- settling ---

    async def ack(self, *deliveries: Delivery) -> None:
        """The events are done; the first settlement of an event wins, finished work needs no ownership.

        Redis: 1 round trip, shared with other acks of the moment.
        Cancelled: The events are acknowledged all the same.

        Raises:
            BackendTimeout: No reply within enqueue_timeout; the acks are still being sent, and the leases kept.
        """
        session = self._current()
        deadline = session.loop.time() + self.settings.enqueue_timeout
        leases = [_adopted(lease, session) for lease in self._leases(deliveries)]
        await session.settlements.ack(leases, deadline)

    def ack_soon(self, *deliveries: Delivery) -> None:
        """The events are done; tell the server with the next read, or within 5 ms. Leases are kept until it knows."""
        self._ack_soon(deliveries)

    async def flush(self) -> None:
        """Return when the server knows of all that was done so far, what `ack_soon` and `dequeue` have kept included.

        Redis: 1 round trip, shared with other acks of the moment; none if it knows already.
        Cancelled: The acks are sent all the same.

        Raises:
            BackendTimeout: No reply within enqueue_timeout; the acks are still being sent, and the leases kept.
        """
        session = self._session
        if session is None or session.is_over or session.loop is not asyncio.get_running_loop():
            return
        await session.settlements.confirmed(session.loop.time() + self.settings.enqueue_timeout)

    async def nack(self, delivery: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        """The event failed: retry it after `delay` seconds (default: the retry policy's), or bury it past the limit.

        Redis: 1 round trip. Cancelled: It is carried out all the same. Raises LeaseLost, BackendError.
        """
        decision = decide_retry(delivery.deliveries, self.settings.retry_policy, jitter=random.random())
        if isinstance(decision, DeadLetterIt):
            await self._bury(delivery, decision.reason, error or "")
            return
        seconds = decision.delay if delay is None else check_delay(delay)
        session, lease = self._held(delivery)
        deadline = session.loop.time() + self.settings.enqueue_timeout
        await session.settlements.nack(lease, delay=seconds, deadline=deadline)
        if seconds:
            session.maintenance.due_in(seconds)

    async def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched, at the end of the line; those no longer held are passed over.

        Redis: 1 round trip per 500. Cancelled: They are given back all the same. Raises BackendError.
        """
        session = self._current()
        deadline = session.loop.time() + self.settings.enqueue_timeout
        leases = [lease for lease in self._leases(deliveries) if lease.session is session]
        await asyncio.shield(session.settlements.run(session.settlements.release(leases, deadline=deadline)))

    async def extend(self, *deliveries: Delivery) -> None:
        """Renew the lease by hand. Raises LeaseLost if one of them is no longer held; the others are renewed.

        Redis: 1 round trip.
        """
        session = self._current()
        leases = self._leases(deliveries)
        ours = [lease for lease in leases if lease.session is session and lease.stage is Stage.IN_HAND]
        deadline = session.loop.time() + self.settings.enqueue_timeout
        lost = await session.settlements.extend(ours, deadline=deadline) if ours else []
        if lost or len(ours) < len(leases):
            raise LeaseLost

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Never hand the event out again without a redrive. Raises LeaseLost, BackendError.

        Redis: 1 round trip. Cancelled: It is carried out all the same.
        """
        await self._bury(delivery, reason, "")

    async def _bury(self, delivery: Delivery, reason: str, error: str) -> None:
        session, lease = self._held(delivery)
        deadline = session.loop.time() + self.settings.enqueue_timeout
        await session.settlements.dead_letter(
            lease, reason=_printable(reason), error=_printable(error)[:_ERROR_LENGTH], deadline=deadline
        )

    def _held(self, delivery: Delivery) -> tuple[Session, Lease]:
        """Return session and lease of a delivery. Raises LeaseLost if an earlier session or another process had it."""
        session = self._current()
        (lease,) = self._leases((delivery,))
        if lease.session is not session:
            raise LeaseLost
        return session, lease

    def _leases(self, deliveries: Iterable[Delivery]) -> list[Lease]:
        leases = [delivery.handle for delivery in deliveries]
        for lease in leases:
            if not isinstance(lease, Lease):
                raise UsageError("this delivery was handed out by another queue")
        return leases

    def _ack_soon(self, deliveries: Sequence[Delivery]) -> None:
        leases = self._leases(deliveries)
        session = self._session
        if session is not None and all(lease.session is session for lease in leases):
            session.ack_soon(leases)
            return
        for earlier, earlier_leases in _by_session(deliveries):
            earlier.ack_soon(earlier_leases)

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for session, leases in _by_session(deliveries):
            session.give_back(leases)

    # --- looking ---

    async def get_queue_depth(self) -> int:
        """How many events wait to be handed to a caller; never below 0.

        Redis: 1 round trip. What this process has prefetched counts as waiting, what others have as in flight.
        """
        _, waiting = await self._operations.figures(self.settings.enqueue_timeout)
        return waiting

    def get_queue_size(self) -> int:
        """The depth as far as this process knows it: follows its own operations and every look at the server."""
        return self._size.value

    async def stats(self) -> QueueStats:
        """One consistent look at all figures. Redis: 1 round trip."""
        return await self._operations.stats(self.max_size)

    async def may_report(self, seconds: float) -> bool:
        """Tell if this process is to report the queue's figures, and for `seconds` no other one; 0 gives that up.

        Redis: 1 round trip. Raises BackendError.
        """
        return await self._operations.report(seconds)

    async def check_health(self) -> dict[str, Any]:
        """Tell how the queue is; never raises for a server problem. Redis: 1 round trip."""
        if self._closed:
            health = {"status": "unhealthy", "redis_connected": False, "queue_depth": 0, "processing": 0}
            health["error"] = "the queue is closed"
        else:
            health = await self._operations.health()
        health |= {"queue_size": self.get_queue_size(), "running": self.is_running()}
        return health | {"using_redis": True, "redis": self._endpoint.address}

    def is_running(self) -> bool:
        """True from construction to cleanup."""
        return not self._closed

    # --- operating ---

    async def peek(self, count: int = 10) -> list[WaitingEvent]:
        """Look at the next waiting events and then the next due delayed ones, without taking them."""
        return await self._operations.peek(count)

    async def in_flight(self, count: int = 100, *, first: str | None = None, payloads: bool = False) -> InFlight:
        """Look at who holds what: all consumers, and at most `count` events in flight, oldest entries first.

        Redis: 1 round trip. Raises BackendError.

        Args:
            count: At least 1.
            first: The entry id from which on events are listed; None: the oldest one.
            payloads: Whether to fetch and decode the payloads, too.
        """
        return await self._operations.in_flight(count, first, payloads=payloads)

    async def dead_letters(self, count: int = 100, *, after: str | None = None) -> list[DeadLetter]:
        """List dead letters, oldest first; `after` is the dead_id of the last one seen."""
        return await self._operations.dead_letters(count, after)

    async def redrive(self, *dead_ids: str, count: int | None = None) -> int:
        """Put dead letters back with a fresh delivery count; returns how many there was room for."""
        return await self._operations.redrive(self.max_size, dead_ids, count)

    async def purge(self, to: str = "dead") -> int:
        """Move all waiting and delayed events to the dead letters, reason `purged`; returns how many."""
        return await self._operations.purge(to)

    async def purge_dead(self, *dead_ids: str, who: str = "unknown") -> int:
        """Delete dead letters for good (all if no id is given); returns how many."""
        return await self._operations.purge_dead(dead_ids, who)

    async def pause(self, *, intake: bool = True, delivery: bool = True) -> None:
        """Refuse new events and/or stop handing out, in all processes that share the queue, within a second."""
        await self._operations.set_paused(_PAUSES.get((intake, delivery), ""))

    async def resume(self) -> None:
        """End a pause."""
        await self._operations.set_paused("")

    async def cleanup(self) -> None:
        """Flush acks, give back what is unsettled, leave the group, close. Deletes no event; twice is harmless.

        Redis: a handful of round trips; bounded to a few seconds if the server does not answer.
        """
        if self._closed:
            return
        self._closed = True
        self._settler.take_all()
        session = self._session
        if session is None or session.is_over:
            return
        if session.loop is asyncio.get_running_loop():
            await session.finish()
        else:
            session.abandon()

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

    async def _refuse(self) -> None:
        """Say once that the queue is closed, and give way: a loop that calls it all the same would stop all others."""
        await asyncio.sleep(0)
        if not self._warned:
            self._warned = True
            logger.warning("The queue is closed: it takes no events and hands out none")

    def _forked(self) -> None:
        """In a forked child: leave everything of the parent's alone, and start over."""
        if self._session is not None:
            self._finalizer.detach()
            # Never collected: closing a connection or task of the parent's loop here would reach into the parent.
            _inherited.append((self._session, self._settler))
        self._start_over()


def _endpoint(settings: Settings, client: Any) -> Endpoint:
    return endpoint_of(settings) if client is None else endpoint_from_client(client)


def _meta(headers: Mapping[str, str] | None) -> bytes:
    """Return the meta field of new events. Raises EncodeError."""
    checked = check_headers(headers)
    return encode_meta(Meta(headers=checked) if checked else PLAIN_META)


def _by_session(deliveries: Iterable[Delivery]) -> list[tuple[Session, list[Lease]]]:
    grouped: dict[Session, list[Lease]] = {}
    for delivery in deliveries:
        grouped.setdefault(delivery.handle.session, []).append(delivery.handle)
    return list(grouped.items())


def _adopted(lease: Lease, session: Session) -> Lease:
    """Return the lease, or for one of an earlier session what lets this session acknowledge the same entry."""
    if lease.session is session:
        return lease
    return Lease(session, lease.entry_id, lease.count, delivery=lease.delivery, stage=Stage.LOST)


def _ack_at_task_end(deliveries: Sequence[Delivery]) -> None:
    for session, leases in _by_session(deliveries):
        session.ack_at_task_end(leases)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


_queues: weakref.WeakSet[RedisEventQueue] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for queue in list(_queues):
        queue._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
