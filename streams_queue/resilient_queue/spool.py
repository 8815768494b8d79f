"""Events held on disk: they survive the process, wait there for Redis in their order, and reach it once.

This is the event loop's side: what comes in while a commit is under way is committed together with the next one.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from streams_queue.config import Settings
from streams_queue.errors import BackendTimeout, SpoolError
from streams_queue.messages import Receipt, ReceiptStatus
from streams_queue.observer import Observers
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.redis_queue.producer import Batch, ForgottenBatchError
from streams_queue.resilient_queue.spool_directory import Arrival, Holdings, SpoolDirectory
from streams_queue.resilient_queue.spool_file import SpooledBatch
from streams_queue.resilient_queue.spool_thread import SpoolThread
from streams_queue.two_queues import NewEvents

logger = logging.getLogger(__name__)
T = TypeVar("T")

_Outcome = list[Receipt] | SpoolError


@dataclass(eq=False, slots=True)
class _Arriving:
    """What is to be written, and the callers that wait for it: several if they share a batch of unknown fate."""

    arrival: Arrival
    written: asyncio.Future[list[Receipt]]


class Spool:
    """Holds events in a directory.

    Args:
        path: The directory.
        settings: Of the queue: files are kept apart by its namespace and name.
        redis: The queue to which the events move.
        observers: Are told of what was put on disk, and of what had no room.
        on_found: Called on the event loop when events of a process that has ended were found.

    Attributes:
        path: The directory, absolute.
        moved: How many events have gone to Redis so far.
    """

    durable = True

    def __init__(
        self,
        path: Path,
        settings: Settings,
        redis: RedisEventQueue,
        observers: Observers,
        on_found: Callable[[], None],
    ) -> None:
        self.path = path.expanduser().absolute()
        self.words = f"a spool takes its place: events wait on disk in {self.path}"
        self._redis = redis
        self._observers = observers
        self._on_found = on_found
        self._queue_name = f"{settings.namespace}+{settings.name}"
        self._holdings = Holdings(min(settings.max_size, settings.fallback.max_size))
        self._thread: SpoolThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arriving: list[_Arriving] = []
        self._writing: list[_Arriving] = []
        self._closed = False
        self.moved = 0

    @property
    def max_size(self) -> int:
        """The most events that may be held, those of adopted files included."""
        return self._holdings.max_size

    @max_size.setter
    def max_size(self, value: int) -> None:
        self._holdings.max_size = value

    def is_empty(self) -> bool:
        """Whether nothing is held, and nothing is being written."""
        return not (self._arriving or self._writing or self._holdings.held)

    def count(self) -> int:
        """How many events are held, those of adopted files included."""
        return self._holdings.held

    def waiting(self) -> int:
        """All of them: the local queue knows of none."""
        return self._holdings.held

    def remarks(self) -> Mapping[str, str]:
        """Say where events are held, how many, and what is wrong with the directory."""
        problems = dict.fromkeys(list(self._holdings.problems.values()))
        held = f"{self.count()} events are held on disk in {self.path} until Redis takes them" if self.count() else ""
        warning = "; ".join(filter(None, (*problems, held)))
        return {"spool": str(self.path)} | ({"warning": warning} if warning else {})

    def has_problem(self) -> bool:
        """Whether something is wrong with the directory."""
        return bool(self._holdings.problems)

    # --- coming in ---

    async def look(self) -> None:
        """Adopt what dead processes left. Raises SpoolError if the directory cannot be used."""
        await self._run(partial(SpoolDirectory.look, first=True))

    async def add(self, new: NewEvents) -> list[Receipt]:
        """Put events on the disk, together with those of other callers; `full` beyond the bound.

        Cancelled: They are written all the same.

        Raises:
            MessageError: One of the payloads cannot travel; none is held.
            SpoolError: The directory cannot take them; none is held.
        """
        events = self._redis.new_events(new.payloads, new.event_ids, new.delay, new.headers)
        if self._closed:
            return [Receipt(ReceiptStatus.CLOSED, event.event_id) for event in events]
        return await self._write(Arrival(events))

    async def add_unresolved(self, new: NewEvents, error: BackendTimeout) -> list[Receipt]:  # noqa: ARG002 - in the batch
        """Hold the whole batch to which events belong that Redis may have; the first of its callers brings it."""
        batch: Batch = error.unresolved
        try:
            receipts = await self._write(Arrival(batch.events, batch))
        except SpoolError as problem:
            raise BackendTimeout(f"{str(error).rstrip('.')}; {problem}") from problem
        if receipts[0].status is ReceiptStatus.FULL:
            raise error
        return [receipts[position] for position in error.positions]

    async def _write(self, arrival: Arrival) -> list[Receipt]:
        self._follow_loop()
        arriving = self._known(arrival) or _Arriving(arrival, asyncio.get_running_loop().create_future())
        if arriving not in self._arriving and arriving not in self._writing:
            self._arriving.append(arriving)
            self._write_next()
        # The first of several callers that wait for one batch may be cancelled.
        return await asyncio.shield(arriving.written)

    def _known(self, arrival: Arrival) -> _Arriving | None:
        """Return the same batch if another of its callers has brought it; all of them learn of their fate at once."""
        if arrival.batch is None:
            return None
        return next((each for each in self._writing + self._arriving if each.arrival.batch is arrival.batch), None)

    def _write_next(self) -> None:
        """Write all that has come in, unless a commit is under way."""
        if self._arriving and not self._writing:
            self._writing, self._arriving = self._arriving, []
            job = partial(SpoolDirectory.write, arrivals=[each.arrival for each in self._writing])
            written = asyncio.wrap_future(self._started().submit(job))
            written.add_done_callback(self._written)

    def _written(self, written: asyncio.Future[list[_Outcome]]) -> None:
        done, self._writing = self._writing, []
        outcomes = [_failure(written)] * len(done) if written.cancelled() or written.exception() else written.result()
        for arriving, outcome in zip(done, outcomes, strict=True):
            self._tell_observers(outcome)
            _answer(arriving.written, outcome)
        self._write_next()

    def _tell_observers(self, outcome: _Outcome) -> None:
        statuses = [] if isinstance(outcome, SpoolError) else [receipt.status for receipt in outcome]
        if accepted := statuses.count(ReceiptStatus.ACCEPTED):
            self._observers.accepted(accepted)
        if rejected := statuses.count(ReceiptStatus.FULL):
            self._observers.rejected(rejected)

    # --- going out ---

    async def move_some(self) -> bool:
        """Send the batch that is recorded first, or record and send the oldest events; False if not all had room.

        Cancelled: The batch stays recorded, and is recognised by Redis when it is sent again.

        Raises:
            BackendError: The batch stays recorded, and is sent again as it is.
            SpoolError: The directory cannot be used.
        """
        batch = await self._run(SpoolDirectory.next_batch)
        if batch is None:
            # What is still arriving comes at the end of the commit.
            await asyncio.sleep(0)
            return True
        try:
            receipts = await self._redis.resolve(_to_send(batch, self._redis.max_size))
        except ForgottenBatchError as error:
            logger.warning(
                "The fate of %d events stays unknown (%s); sending them anew",
                len(batch.rows),
                error,
                extra={"events": len(batch.rows), "error": str(error)},
            )
            await self._run(partial(SpoolDirectory.forget, batch=batch))
            return True
        gone = [row for row, receipt in zip(batch.rows, receipts, strict=True) if receipt.held]
        await self._run(partial(SpoolDirectory.settle, batch=batch, gone=gone))
        self.moved += len(gone)
        return len(gone) == len(batch.rows)

    async def close(self) -> None:
        """Close the files; the next process finds what is still in them."""
        self._closed = True
        if self._thread is not None:
            held = await self._run(_close)
            self._thread.end()
            if held:
                logger.warning(
                    "%d events stay in %s until the next process moves them to Redis",
                    held,
                    self.path,
                    extra={"events": held, "path": str(self.path)},
                )

    # --- the thread ---

    async def _run(self, job: Callable[[SpoolDirectory], T]) -> T:
        self._follow_loop()
        return await asyncio.wrap_future(self._started().submit(job))

    def _started(self) -> SpoolThread:
        if self._thread is None:
            found = partial(_tell, weakref.ref(self))
            self._thread = SpoolThread(self.path, self._queue_name, self._holdings, found)
            # A queue that is dropped without cleanup leaves neither a thread nor a lock behind.
            weakref.finalize(self, self._thread.end).atexit = False
        return self._thread

    def _follow_loop(self) -> None:
        """Forget what a former event loop left: its callers are gone, and what they wrote is counted by the thread."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._arriving, self._writing = loop, [], []

    def found(self) -> None:
        """The thread has adopted a file: pass it on to the event loop."""
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._on_found)
            except RuntimeError:
                logger.debug("The event loop was closed meanwhile")


def _tell(spool: weakref.ref[Spool]) -> None:
    if (alive := spool()) is not None:
        alive.found()


def _to_send(batch: SpooledBatch, max_size: int) -> Batch:
    return Batch(batch.producer_id, batch.sequence, None, batch.events, max_size, maybe_written=True)


def _close(directory: SpoolDirectory) -> int:
    held = directory.held
    directory.close()
    return held


def _failure(written: asyncio.Future[list[_Outcome]]) -> SpoolError:
    """Return what to tell the callers of a commit that ended in no ordinary way."""
    cause = None if written.cancelled() else written.exception()
    return SpoolError(f"the spool failed: {cause!r}")


def _answer(waiting: asyncio.Future[list[Receipt]], outcome: _Outcome) -> None:
    if waiting.done():
        return
    if isinstance(outcome, SpoolError):
        waiting.set_exception(outcome)
        # Looked at here, in case that all who waited are gone.
        waiting.exception()
    else:
        waiting.set_result(outcome)
