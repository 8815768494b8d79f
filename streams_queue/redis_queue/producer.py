"""Enqueueing: calls join the batch that is forming while others are on their way; every batch is written once.

A producer has an id and numbers its batches. The server keeps the last numbers and their replies, so that a batch may
be sent again after a lost reply, and one that comes late is refused. While all is well a few batches are outstanding at
a time, sent without a task; the server writes none whose predecessor it has not. At the first failure a task sends what
is unanswered again, one after the other and in order. See docs/decisions/0004-idempotent-producer.md.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import msgspec

from streams_queue.config import Settings
from streams_queue.errors import (
    BackendError,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    NotDurable,
    QueueClosed,
    StateError,
)
from streams_queue.messages import Receipt, ReceiptStatus
from streams_queue.observer import Observers
from streams_queue.redis_client import Argument, Command, OnReply, expire_in, worth_retrying
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.commands import PRODUCER_TTL_MS, BatchReply, milliseconds
from streams_queue.redis_queue.durability import Durability, Level
from streams_queue.redis_queue.entries import digest
from streams_queue.redis_queue.size import LocalSize

logger = logging.getLogger(__name__)

MAX_BATCH_EVENTS = 500
MAX_BATCH_BYTES = 4 * 1024 * 1024
# So many batches are on their way at a time, beyond the first one only if they have so many events: the server is busy
# with one while the next is packed, and still has few to look at.
WINDOW = 4
_WORTH_SENDING = 32
# One call's events go in such pieces where several batches may be on the way.
PIECE_EVENTS = 100
_STATUS = {
    "D": ReceiptStatus.DUPLICATE,
    "F": ReceiptStatus.FULL,
    "P": ReceiptStatus.PAUSED,
    "L": ReceiptStatus.ACCEPTED,
}
_REFUSED = ("F", "P")
_LATER = "L"
# Waits for a level are cut into such pieces, in seconds: after each one, replicas that have left no longer count.
_LONGEST_WAIT = 0.25
_SHORTEST_WAIT = 0.01


class ForgottenBatchError(StateError):
    """The server can no longer tell what became of the batch."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event on its way in, encoded.

    Attributes:
        event_id: The caller's id, or one that the queue made.
        payload: Encoded.
        meta: Encoded.
        delay: Seconds before it may be handed out.
        deduplicated: Whether the id is the caller's, and so to be kept for the dedup window.
    """

    event_id: str
    payload: bytes
    meta: bytes
    delay: float = 0.0
    deduplicated: bool = False


@dataclass(eq=False, slots=True)
class _Call:
    """One caller's events, the future on which it waits, and where in their batch the events are."""

    events: Sequence[NewEvent]
    deadline: float
    reply: asyncio.Future[list[Receipt]]
    size_bytes: int = 0
    positions: range = range(0)


@dataclass(eq=False, slots=True)
class Batch:
    """Events that are written together or not at all, under one sequence of one producer.

    Attributes:
        maybe_written: Whether a copy may have been written: none of its events may go into another batch.
        is_moved: Whether it was accepted elsewhere before: what has no room is sent again, and not counted as rejected.
        answer: What the server last said of it, while it is not known to be as durable as asked for.
        missing: What was missing to that when it was last looked at.
        calls: Who waits for it.
        timer: Ends the wait for its reply.
        settled: The last batch of which nobody waits for an answer any more; those between it and this one are on their
            way, and this one is written only after them. None: there are none.
    """

    producer_id: str
    sequence: int
    bucket: int | None
    events: Sequence[NewEvent]
    max_size: int
    maybe_written: bool = False
    is_moved: bool = False
    answer: BatchReply | None = None
    missing: str = "it was not known how far the batch had got"
    calls: list[_Call] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    settled: int | None = None

    @property
    def size(self) -> int:
        """How many events it holds."""
        return len(self.events)

    @property
    def specials(self) -> str:
        """The delays and digests of those events that have one, for lua/enqueue.lua."""
        return "".join(
            [
                f"{index},{milliseconds(event.delay) if event.delay else ''},"
                f"{digest(event.event_id) if event.deduplicated else ''};"
                for index, event in enumerate(self.events, 1)
                if event.delay or event.deduplicated
            ]
        )

    def arguments(self) -> list[Argument]:
        """Return id, payload and meta of all events in turn."""
        return [part for event in self.events for part in (event.event_id, event.payload, event.meta)]

    def receipts(self, results: Sequence[str]) -> list[Receipt]:
        """Return one receipt per event for the script's words."""
        accepted, other = ReceiptStatus.ACCEPTED, _STATUS
        return [
            Receipt(other[word], event.event_id) if word in other else Receipt(accepted, event.event_id, word)
            for event, word in zip(self.events, results, strict=True)
        ]


class Producer:
    """Writes events for one session.

    Attributes:
        id: Under which the server keeps the last batches; never crosses a fork.
        keep_unresolved: Whether a batch whose fate stays unknown is kept, to be sent again verbatim with `resolve`.
    """

    def __init__(
        self,
        channel: Channel,
        observers: Observers,
        settings: Settings,
        *,
        size: LocalSize,
        attempt_timeout: float,
        level: Level | None,
    ) -> None:
        self._channel = channel
        self._observers = observers
        self._size = size
        self._attempt_timeout = attempt_timeout
        self._enqueue_timeout = settings.enqueue_timeout
        self._durability = Durability(channel.producer, level, timeout=attempt_timeout) if level else None
        self._forming: deque[_Call] = deque()
        self._forming_events = 0
        self._on_the_way: deque[Batch] = deque()
        self._is_crowded = False
        self._later: asyncio.Handle | None = None
        self._refused = 0
        self._sender: asyncio.Task[None] | None = None
        self._closed = False
        self.keep_unresolved = False
        self.max_size = 0
        self._lifetime = ""
        self._start_over()

    def _start_over(self) -> None:
        self.id = secrets.token_hex(8)
        self._sequence = 0
        self._confirmed = 0
        self._confirmed_at = time.monotonic()
        self._confirmed_counts: deque[tuple[int, int]] = deque(maxlen=1000)

    def add(self, events: Sequence[NewEvent], deadline: float) -> asyncio.Future[list[Receipt]]:
        """Write events, in order, together with those of other callers; what is returned gets their receipts.

        Args:
            events: One piece of `in_batches`.
            deadline: By the event loop's clock.

        Redis: 1 round trip per batch; 1 more, and the wait, for a durability level.
        Cancelled: The batch is sent all the same; the caller does not learn what became of it.

        Raises:
            BackendUnavailable: Not sent before the deadline.
            BackendTimeout: Sent, and no answer before the deadline.
            BackendRejected: Refused.
            NotDurable: Written, and not as durable as asked for before the deadline.
        """
        if self._closed:
            raise QueueClosed
        size_bytes = sum([len(event.payload) for event in events])
        call = _Call(events, deadline, asyncio.get_running_loop().create_future(), size_bytes)
        self._forming.append(call)
        self._forming_events += len(events)
        self._go_on()
        return call.reply

    async def resolve(self, batch: Batch) -> list[Receipt]:
        """Send a batch of unknown fate again, verbatim; return what became of its events, then or now.

        Raises:
            ForgottenBatchError: It was not written now, and nobody knows whether it was before.
            BackendError: As `add`; the fate stays unknown.
        """
        batch.maybe_written = batch.is_moved = True
        # By today's clock, however long it has lain: what came in meanwhile has to be recognised.
        batch.bucket = self._bucket(batch.events)
        loop = asyncio.get_running_loop()
        if self._durability is None:
            reply = await self._send(batch, loop.time() + self._attempt_timeout)
        else:
            # One caller for all events; it learns here, and not through its future, that they are in the queue.
            deadline = loop.time() + self._enqueue_timeout
            call = _Call(batch.events, deadline, loop.create_future(), positions=range(batch.size))
            batch.calls = [call]
            reply = await self._send_durably(self._durability, batch)
            if call.reply.done():
                return self._resolved(call.reply.result())
        if not _is_answer(reply):
            raise ForgottenBatchError(
                f"batch {batch.sequence} of producer {batch.producer_id} cannot be resolved: {reply.status}"
            )
        return self._resolved(batch.receipts(reply.results))

    def _resolved(self, receipts: list[Receipt]) -> list[Receipt]:
        self._size.add(sum([receipt.entry_id is not None for receipt in receipts]))
        return receipts

    async def finish(self, timeout: float) -> None:
        """Take no more events; wait up to `timeout` seconds until those that were taken are written."""
        self._closed = True
        if waiting := [call.reply for call in self._calls() if not call.reply.done()]:
            await asyncio.wait(waiting, timeout=timeout)

    def close(self) -> None:
        """Stop at once. Callers that still wait learn that the outcome is unknown."""
        self._closed = True
        if self._sender is not None:
            self._sender.cancel()
        self._forsake()

    def _calls(self) -> list[_Call]:
        return [*(call for batch in self._on_the_way for call in batch.calls), *self._forming]

    def _forsake(self) -> None:
        _fail(self._calls(), BackendTimeout)
        self._on_the_way.clear()
        self._forming.clear()
        self._forming_events = 0

    # --- while all is well: batches go out as soon as it is worth it, and each reply settles one ---

    def _go_on(self) -> None:
        """Send what has formed, if it is time to."""
        if self._sender is not None or self._refused or (self._on_the_way and self._forming_events < _WORTH_SENDING):
            return
        if self._may_post():
            if self._on_the_way or not self._is_crowded or self._forming_events >= _WORTH_SENDING:
                self._post_ripe()
            elif self._forming and self._later is None:
                # Others that wait for their turn in the event loop are about to come, too.
                self._later = asyncio.get_running_loop().call_soon(self._post_what_came)
        elif self._forming and not self._on_the_way:
            self._send_by_task()

    def _post_what_came(self) -> None:
        self._later = None
        if self._sender is None and not self._refused and self._may_post():
            self._post_ripe()
        else:
            self._go_on()

    def _post_ripe(self) -> None:
        while self._forming and self._is_time():
            self._post()

    def _may_post(self) -> bool:
        return self._durability is None and self._channel.is_open and self._channel.producer.is_open

    def _is_time(self) -> bool:
        """Whether the server is idle, or there is enough to send ahead of its replies and room on the way."""
        if not self._on_the_way:
            return True
        # What is kept when its fate is unknown is one batch.
        window = 1 if self.keep_unresolved else WINDOW
        return len(self._on_the_way) < window and self._forming_events >= _WORTH_SENDING

    def _post(self) -> None:
        calls = self._next_calls()
        if not calls:
            return
        batch = self._make_batch(calls)
        if self._on_the_way:
            batch.settled = self._on_the_way[0].sequence - 1
        self._on_the_way.append(batch)
        self._is_crowded = len(calls) > 1
        left = _first_deadline(calls) - asyncio.get_running_loop().time()
        reply = OnReply(self._observers.telling("enqueue", partial(self._replied, batch)))
        try:
            self._channel.producer.post(self._command(batch), to=[reply])
        except BackendError as error:
            self._in_doubt(error)
            return
        batch.timer = expire_in(max(0.01, min(self._attempt_timeout, left)), reply)

    def _replied(self, batch: Batch, reply: Any) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        if self._sender is not None or batch not in self._on_the_way:
            return
        try:
            answer = self._channel.commands.enqueue_reply(reply)
        except BackendRejected:
            self._was_refused()
            return
        except BackendError as error:
            self._in_doubt(error)
            return
        if answer.status == "gap":
            self._was_refused()
        elif batch is not self._on_the_way[0] or not _is_answer(answer):
            self._in_doubt(None)
        else:
            self._on_the_way.popleft()
            self._heard()
            self._settle(batch, answer)
            self._go_on()

    def _was_refused(self) -> None:
        """A batch was not written, so neither are those after it: when all have said so, a task sends them anew."""
        self._refused += 1
        if self._refused == len(self._on_the_way):
            self._forming.extendleft(reversed([call for batch in self._on_the_way for call in batch.calls]))
            self._forming_events = sum(len(call.events) for call in self._forming)
            self._on_the_way.clear()
            self._send_by_task()

    def _in_doubt(self, error: BackendError | None) -> None:
        """What is on the way may have been written or not: a task sends it again, verbatim."""
        if self._sender is not None:
            return
        for batch in self._on_the_way:
            batch.maybe_written = True
        if error is not None:
            self._channel.failed(error)
        self._send_by_task()

    # --- at the beginning, in trouble and for a durability level: one task, one batch after the other ---

    def _send_by_task(self) -> None:
        self._sender = asyncio.create_task(self._send_all(), name="streams_queue.producer")

    async def _send_all(self) -> None:
        calls: list[_Call] = []
        try:
            if self._on_the_way:
                # A connection that owes an answer is not asked again.
                await self._channel.producer.close()
            while self._on_the_way:
                self._on_the_way[0].settled = None
                await self._deliver(self._on_the_way[0])
                self._on_the_way.popleft()
            while calls := self._next_calls():
                await self._deliver(self._make_batch(calls))
                if self._may_post():
                    break
        except BaseException:
            _fail(calls, BackendTimeout)
            self._forsake()
            raise
        finally:
            self._sender, self._refused = None, 0
        self._go_on()

    def _next_calls(self) -> list[_Call]:
        calls: list[_Call] = []
        events = size_bytes = 0
        while self._forming:
            call = self._forming[0]
            events += len(call.events)
            size_bytes += call.size_bytes
            if calls and (events > MAX_BATCH_EVENTS or size_bytes > MAX_BATCH_BYTES):
                break
            self._forming.popleft()
            self._forming_events -= len(call.events)
            if not call.reply.done():
                calls.append(call)
        return calls

    async def _deliver(self, batch: Batch) -> None:
        """Send a batch until it is answered, refused, or nobody waits for it any more."""
        loop, backoff = asyncio.get_running_loop(), self._channel.backoff()
        while waiting := [call for call in batch.calls if not call.reply.done()]:
            try:
                if self._durability is None:
                    reply = await self._send(batch, _first_deadline(batch.calls))
                else:
                    reply = await self._send_durably(self._durability, batch)
            except BackendError as error:
                batch.missing = str(error)
                if not worth_retrying(error):
                    self._give_up(batch, waiting, error)
                    break
                wait = backoff.next()
                self._expire(batch, error, before=loop.time() + wait)
                if not batch.maybe_written and any(map(_was_told, batch.calls)):
                    # Who was told that nothing was written must not find it written later.
                    batch = self._make_batch([call for call in batch.calls if not _was_told(call)])
                await asyncio.sleep(wait)
            else:
                self._settle(batch, reply)
                return
        if batch.answer is not None:
            self._note(batch, batch.answer)

    def _make_batch(self, calls: list[_Call]) -> Batch:
        if time.monotonic() - self._confirmed_at > PRODUCER_TTL_MS / 1000 - 600 and not self._on_the_way:
            self._start_over()
        self._sequence += 1
        events: list[NewEvent] = []
        for call in calls:
            call.positions = range(len(events), len(events) + len(call.events))
            events += call.events
        return Batch(self.id, self._sequence, self._bucket(events), events, self.max_size, calls=calls)

    def _bucket(self, events: Sequence[NewEvent]) -> int | None:
        """Return the time bucket for the ids of a batch that is sent now; None if it has none to remember."""
        deduplicated = any(event.deduplicated for event in events)
        return self._channel.commands.bucket() if deduplicated else None

    def _command(self, batch: Batch) -> Command:
        return self._channel.commands.enqueue_command(
            producer_id=batch.producer_id,
            sequence=batch.sequence,
            settled=batch.sequence - 1 if batch.settled is None else batch.settled,
            max_size=batch.max_size,
            counts_rejected=not batch.is_moved,
            specials=batch.specials,
            bucket=batch.bucket,
            events=batch.arguments(),
        )

    async def _send(self, batch: Batch, deadline: float) -> BatchReply:
        """Send a batch once; whether that may have written it is noted in the batch."""
        try:
            await self._channel.open(deadline=deadline)
            timeout = max(0.01, min(self._attempt_timeout, deadline - asyncio.get_running_loop().time()))
            reply = await self._channel.commands.enqueue(self._channel.producer, self._command(batch), timeout=timeout)
        except BackendError as error:
            batch.maybe_written |= isinstance(error, BackendTimeout)
            self._channel.failed(error)
            raise
        self._heard()
        return reply

    def _heard(self) -> None:
        self._channel.outage.ended()
        self._channel.intake.ended()

    async def _send_durably(self, durability: Durability, batch: Batch) -> BatchReply:
        """Send a batch once and wait until it is as durable as asked for; whose time is up before gets NotDurable."""
        loop, calls = asyncio.get_running_loop(), batch.calls
        async with durability.turn:
            deadline = _first_deadline(calls)
            await self._prepare(durability, deadline)
            reply = await self._send(batch, deadline)
            if not _is_answer(reply):
                return reply
            batch.answer, batch.maybe_written = reply, True
            self._answer([call for call in calls if not _is_held(call, reply)], batch.receipts(reply.results))
            while not all(call.reply.done() for call in calls):
                left = _first_deadline(calls) - loop.time()
                batch.missing = await self._missing(durability, min(max(left, _SHORTEST_WAIT), _LONGEST_WAIT))
                if not batch.missing:
                    break
                self._expire(batch, BackendUnavailable(), before=loop.time())
        return reply

    async def _prepare(self, durability: Durability, deadline: float) -> None:
        try:
            await self._channel.open(deadline=deadline)
            left = deadline - asyncio.get_running_loop().time()
            await durability.prepare(max(_SHORTEST_WAIT, min(self._attempt_timeout, left)))
        except BackendError as error:
            self._channel.failed(error)
            raise

    async def _missing(self, durability: Durability, seconds: float) -> str:
        try:
            return await durability.missing(seconds)
        except BackendError as error:
            self._channel.failed(error)
            raise

    def _expire(self, batch: Batch, error: BackendError, *, before: float) -> None:
        """Tell callers whose time is up; when the batch is to be kept, all of them: it is out of our hands then."""
        expired = [call for call in batch.calls if call.deadline <= before]
        if expired:
            keep = batch.maybe_written and self.keep_unresolved
            self._give_up(batch, batch.calls if keep else expired, _last_word(error))

    def _give_up(self, batch: Batch, calls: list[_Call], refusal: BackendError) -> None:
        """The server refuses; that says nothing of an earlier copy whose fate is unknown."""
        if batch.answer is not None:
            self._fall_short(batch, calls, batch.answer)
        elif not batch.maybe_written:
            _fail(calls, refusal)
        elif self.keep_unresolved:
            self._start_over()
            self._hand_over(batch, calls)
        else:
            _fail(calls, BackendTimeout)

    def _hand_over(self, batch: Batch, calls: list[_Call]) -> None:
        for call in calls:
            error = BackendTimeout()
            error.unresolved, error.positions = batch, tuple(call.positions)
            _fail([call], error)

    def _fall_short(self, batch: Batch, calls: Sequence[_Call], answer: BatchReply) -> None:
        receipts = batch.receipts(answer.results)
        for call in calls:
            message = f"the event is in the queue, but not as durable as asked for: {batch.missing}"
            _fail([call], NotDurable(message, [receipts[position] for position in call.positions]))

    def _settle(self, batch: Batch, reply: BatchReply) -> None:
        if not _is_answer(reply):
            _fail(
                batch.calls,
                StateError(f"the server answered {reply.status} to batch {batch.sequence} of {batch.producer_id}"),
            )
            return
        self._note(batch, reply)
        self._answer(batch.calls, batch.receipts(reply.results))

    def _note(self, batch: Batch, reply: BatchReply) -> None:
        """Note what the server has taken."""
        others = [word for word in reply.results if word in _STATUS]
        accepted = batch.size - len(others) + others.count(_LATER)
        self._check_confirmed(reply)
        if accepted:
            self._confirmed, self._confirmed_at = batch.sequence, time.monotonic()
            self._confirmed_counts.append((batch.sequence, accepted))
            self._observers.accepted(accepted)
            self._size.add(batch.size - len(others))
        if reply.held >= 0:
            self._channel.last_held = reply.held
            self._size.at_most(reply.held)

    def _answer(self, calls: Sequence[_Call], receipts: list[Receipt]) -> None:
        for call in calls:
            if not call.reply.done():
                call.reply.set_result(receipts[call.positions.start : call.positions.stop])

    def _check_confirmed(self, reply: BatchReply) -> None:
        """Notice that the server remembers less than it had confirmed: acknowledged batches were lost."""
        # Who opened the queue anew has told of everything that the server lost with its state.
        told, self._lifetime = self._lifetime != self._channel.lifetime, self._channel.lifetime
        held, self._channel.held_before = max(self._channel.last_held, self._channel.held_before), 0
        if self._confirmed == 0 or reply.stored_sequence >= self._confirmed:
            return
        confirmed = sum(count for sequence, count in self._confirmed_counts if sequence > reply.stored_sequence)
        self._confirmed_counts.clear()
        events = min(confirmed, held)
        if told or not events:
            return
        logger.error(
            "The server forgot batches %d to %d of producer %s, which it had acknowledged: up to %d events, those that "
            "were not processed before, are lost (failover, restart or FLUSHALL)",
            *(reply.stored_sequence + 1, self._confirmed, self.id, events),
            extra={"producer": self.id, "events": events},
        )
        self._observers.lost(events, "acknowledged_batches")


def in_batches(events: Sequence[NewEvent], at_most: int = MAX_BATCH_EVENTS) -> Iterator[Sequence[NewEvent]]:
    """Cut one call's events into pieces of so many and, but for a larger event, MAX_BATCH_BYTES."""
    sizes = [len(event.payload) for event in events]
    start = 0
    while start < len(events):
        fitting = bisect_right(list(accumulate(sizes[start : start + at_most])), MAX_BATCH_BYTES)
        end = start + max(1, fitting)
        yield events[start:end]
        start = end


def _last_word(error: BackendError) -> BackendError:
    """Return what to tell a caller whose time is up before anything was written, and why."""
    return error if isinstance(error, BackendRejected) else BackendUnavailable(str(error))


def _first_deadline(calls: Sequence[_Call]) -> float:
    """Return the earliest deadline of those who still wait; long past if nobody does."""
    return min((call.deadline for call in calls if not call.reply.done()), default=0.0)


def _is_answer(reply: BatchReply) -> bool:
    """Whether the reply says what became of the events."""
    return reply.status in ("ok", "replayed")


def _is_held(call: _Call, reply: BatchReply) -> bool:
    """Whether the queue holds any of the caller's events, through this batch or an earlier one."""
    return any(reply.results[position] not in _REFUSED for position in call.positions)


def _was_told(call: _Call) -> bool:
    return call.reply.done() and not call.reply.cancelled()


def _fail(calls: Sequence[_Call], error: BackendError | type[BackendError]) -> None:
    for call in calls:
        if not call.reply.done():
            call.reply.set_exception(error() if isinstance(error, type) else error)
