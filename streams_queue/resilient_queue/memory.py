"""Events held in this process and nowhere else: they die with it, and local consumers get them meanwhile.

All of them lie in the local queue. Events that are on their way to Redis, and those of batches whose fate is unknown,
are taken out of its line but stay counted there, so that one bound covers everything.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streams_queue.codec import make_codec
from streams_queue.errors import BackendError, BackendTimeout
from streams_queue.memory_queue import Entry, EventQueue
from streams_queue.messages import Receipt, ReceiptStatus
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.redis_queue.producer import ForgottenBatchError
from streams_queue.two_queues import NewEvents

logger = logging.getLogger(__name__)

_BATCH = 200


@dataclass(eq=False, slots=True)
class _Unresolved:
    """A batch that Redis may have or not, and the entries here that stand for its events, by their position in it."""

    batch: Any
    entries: dict[int, Entry]


class InMemory:
    """Holds events in the local queue.

    Args:
        local: The queue in which they lie; local consumers take from it what nobody is about to move.
        redis: The queue to which they move.
        payload_type: As for the two queues.

    Attributes:
        moved: How many events have gone to Redis so far.
    """

    durable = False
    words = "what it holds dies with this process"

    def __init__(self, local: EventQueue, redis: RedisEventQueue, payload_type: type | None) -> None:
        self._local = local
        self._redis = redis
        self._codec = make_codec(payload_type, max_bytes=local.settings.max_event_bytes)
        self._unresolved: deque[_Unresolved] = deque()
        self._is_moving = False
        self.moved = 0

    @property
    def max_size(self) -> int:
        """The most events that may be held."""
        return self._local.max_size

    @max_size.setter
    def max_size(self, value: int) -> None:
        self._local.max_size = value

    def is_empty(self) -> bool:
        """Whether nothing is left to move; what local consumers have in hand does not count."""
        return not (self._is_moving or self._unresolved or self._local.has_events_to_move())

    def count(self) -> int:
        """How many events would die with this process now, those in the hands of local consumers included."""
        return self._local.held()

    def waiting(self) -> int:
        """None: the local queue counts them all."""
        return 0

    def remarks(self) -> Mapping[str, str]:
        """Say how many events would die with this process."""
        held = self.count()
        return {"warning": f"{held} events are held in this process only and die with it"} if held else {}

    def has_problem(self) -> bool:
        """Memory is always there."""
        return False

    async def look(self) -> None:
        """An earlier process left nothing."""

    async def close(self) -> None:
        """Say how many events are lost."""
        if held := self.count():
            logger.error("%d events were held in this process only and die with it", held, extra={"events": held})

    async def add(self, new: NewEvents) -> list[Receipt]:
        """Hold events at the end of the line; `full` beyond the bound."""
        return await self._local.enqueue_many(
            new.payloads, event_ids=new.event_ids, delay=new.delay, headers=new.headers
        )

    async def add_unresolved(self, new: NewEvents, error: BackendTimeout) -> list[Receipt]:
        """Hold events that Redis may have: out of the line until `move_some` knows, then at its front or gone."""
        if self.count() + len(new.payloads) > self._local.max_size:
            raise error
        ids = [error.unresolved.events[position].event_id for position in error.positions]
        receipts = await self.add(NewEvents(new.payloads, ids, new.delay, new.headers))
        entries = self._take_out({receipt.event_id for receipt in receipts if receipt.status is ReceiptStatus.ACCEPTED})
        positions = dict(zip(ids, error.positions, strict=True))
        self._keep(error.unresolved, {positions[entry.event_id]: entry for entry in entries})
        return receipts

    def _take_out(self, event_ids: Container[str]) -> list[Entry]:
        """Take events out of the line, wherever in it they are; nothing is awaited since they came in."""
        line = self._local.take_to_move(sys.maxsize)
        self._local.put_back([entry for entry in line if entry.event_id not in event_ids])
        return [entry for entry in line if entry.event_id in event_ids]

    def _keep(self, batch: Any, entries: Mapping[int, Entry]) -> None:
        """Note which entries stand for which events of a batch, which several callers may share."""
        for known in self._unresolved:
            if known.batch is batch:
                known.entries.update(entries)
                return
        self._unresolved.append(_Unresolved(batch, dict(entries)))

    # --- moving ---

    async def move_some(self) -> bool:
        """Move the next events to Redis; what is moved again, its event_id keeps from being added twice."""
        if self._unresolved:
            return await self._resolve(self._unresolved[0])
        entries = self._local.take_to_move(_BATCH)
        self._is_moving = True
        try:
            for _, group in itertools.groupby(entries, key=lambda entry: (entry.due, entry.meta.headers)):
                if not await self._send(list(group)):
                    return False
        finally:
            self._local.put_back([entry for entry in entries if not self._is_unresolved(entry)])
            self._is_moving = False
        return True

    def _is_unresolved(self, entry: Entry) -> bool:
        return any(entry in unresolved.entries.values() for unresolved in self._unresolved)

    async def _resolve(self, unresolved: _Unresolved) -> bool:
        entries = unresolved.entries
        try:
            receipts: list[Receipt] = await self._redis.resolve(unresolved.batch)
        except ForgottenBatchError as error:
            # The server has forgotten this producer; the event ids still keep all but the first copy out.
            logger.warning(
                "The fate of %d events stays unknown (%s); sending them anew",
                len(entries),
                error,
                extra={"events": len(entries), "error": str(error)},
            )
            taken = []
        else:
            taken = [entry for position, entry in entries.items() if receipts[position].held]
        self._unresolved.popleft()
        self._went(taken)
        self._local.put_back([entries[position] for position in sorted(entries)])
        return True

    async def _send(self, entries: Sequence[Entry]) -> bool:
        """Send entries that have the same delay and headers; False if there was not room for all of them."""
        try:
            receipts = await self._redis.enqueue_many(
                [self._codec.decode(entry.payload) for entry in entries],
                event_ids=[entry.event_id for entry in entries],
                delay=self._local.seconds_left(entries[0]),
                headers=entries[0].meta.headers or None,
            )
        except BackendError as error:
            self._went(_held(entries, error.receipts))
            if isinstance(error, BackendTimeout) and error.unresolved is not None:
                unknown = entries[len(error.receipts) :]
                self._keep(error.unresolved, dict(zip(error.positions, unknown, strict=False)))
            raise
        taken = _held(entries, receipts)
        self._went(taken)
        return len(taken) == len(entries)

    def _went(self, entries: Sequence[Entry]) -> None:
        self._local.moved(entries)
        self.moved += len(entries)


def _held(entries: Sequence[Entry], receipts: Sequence[Receipt]) -> list[Entry]:
    """Return those of the entries that Redis has, as far as the receipts go."""
    return [entry for entry, receipt in zip(entries, receipts, strict=False) if receipt.held]
