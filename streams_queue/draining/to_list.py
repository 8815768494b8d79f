"""Onto a Redis list: GitBridge's plan, whose consumers take from its right end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from streams_queue.codec import decode_meta, make_codec
from streams_queue.compression import expand
from streams_queue.draining.drain import Moved
from streams_queue.draining.errors import ElsewhereError
from streams_queue.draining.events import ENTRY_FIELDS, Event, State
from streams_queue.draining.stock import Stock
from streams_queue.errors import UsageError
from streams_queue.keys import PLAN_LIST
from streams_queue.redis_queue.entries import Broken, Newer, fields_of, read_entry

logger = logging.getLogger(__name__)

_NO_ENTRY = "0-0"


class ToList:
    """Pushes payloads to the left, in order, in the script that takes their events out of the queue.

    A list holds payloads and nothing else: ids, headers, deliveries, delays and the reasons of dead letters end here.
    Compressed payloads are expanded, since the plan's consumers read JSON. What cannot be read is not put there: it
    would get stuck in their second list.

    Args:
        stock: The queue's events.
        key: The list, on the queue's own server.

    Raises:
        UsageError: The key is one of the queue's own.
    """

    def __init__(self, stock: Stock, key: str = PLAN_LIST) -> None:
        if key == stock.keys.stream or key.startswith(f"{stock.keys.stream}:"):
            raise UsageError(f"{key} is a key of the queue itself; name another one for the list")
        self._stock = stock
        self._key = key
        self._drain = f"list:{key}"
        self._moved = 0
        self._codec = make_codec(None, max_bytes=stock.settings.max_event_bytes)

    @staticmethod
    def consumer() -> str:
        """Return the consumer's name: the next drain goes on with what a killed one had taken, in its order."""
        return "drain-to-list"

    async def begin(self) -> None:
        """Note on the server that this drain begins; one that is still running ends with an ElsewhereError."""
        await self._stock.note_taken_out(self._drain, 0)

    async def take_over(self, page: Sequence[Event]) -> Moved:
        """Push what can be read, and take it out of the queue. Redis: 1 round trip, 1 more for each unreadable event.

        Raises:
            ElsewhereError: Another drain to the same list has begun.
        """
        fit, payloads, unfit = [], [], 0
        for event in page:
            payload = self._payload(event)
            if isinstance(payload, bytes):
                fit.append(event)
                payloads.append(payload)
            elif event.state is State.WAITING:
                await self._put_aside(event, payload)
            else:
                unfit += 1
        answer = (
            await self._stock.settle(self._drain, self._moved, fit, to=self._key, payloads=payloads) if fit else "done"
        )
        if answer == "forgotten":
            raise ElsewhereError(f"another drain to the list {self._key} has begun")
        if answer == "changed":
            return Moved(changed=True)
        self._moved += len(fit)
        return Moved(events=fit, unfit=unfit)

    async def end(self) -> None:
        """Forget the drain."""
        await self._stock.forget(self._drain)

    def _payload(self, event: Event) -> bytes | Broken | Newer:
        """Return what to push (empty: as it is stored), or why nothing."""
        entry_id = event.entry_id or _NO_ENTRY
        settings = self._stock.settings
        read = read_entry(entry_id, 1, list(event.fields), self._codec, settings.max_event_bytes)
        if isinstance(read, Broken | Newer):
            return read
        fields = fields_of(event.fields)
        encoding = decode_meta(fields["meta"]).content_encoding
        if encoding is not None:
            return expand(fields["payload"], encoding, max_bytes=settings.max_event_bytes)
        is_plain = event.state is State.WAITING and list(event.fields[::2]) == ENTRY_FIELDS
        return b"" if is_plain else fields["payload"]

    async def _put_aside(self, event: Event, why: Broken | Newer) -> None:
        if isinstance(why, Newer):
            logger.warning(
                "Entry %s has version %d and needs %s; it is not put on the list",
                event.entry_id,
                why.version,
                why.needs,
                extra={"entry_id": event.entry_id, "version": why.version},
            )
            await self._stock.leave_to_others(event)
            return
        logger.warning(
            "Entry %s goes to the dead letters and not on the list, %s: %s",
            event.entry_id,
            why.reason,
            why.error,
            extra={"entry_id": event.entry_id, "reason": why.reason, "error": why.error},
        )
        await self._stock.bury(event, why.reason, why.error)
