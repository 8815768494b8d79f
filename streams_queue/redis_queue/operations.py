"""The operator's verbs: look at the queue, bury, redrive, purge, pause; and which queue an event id belongs to."""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from streams_queue.codec import Codec
from streams_queue.config import Settings
from streams_queue.errors import BackendError, UsageError
from streams_queue.messages import Consumer, DeadLetter, InFlight, QueueStats, WaitingEvent
from streams_queue.redis_client import passes
from streams_queue.redis_queue.commands import Figures
from streams_queue.redis_queue.entries import (
    digest,
    milliseconds_of,
    read_dead_letter,
    read_delayed,
    read_in_flight,
    read_waiting,
)
from streams_queue.redis_queue.session import Session
from streams_queue.redis_queue.size import LocalSize

logger = logging.getLogger(__name__)

_CHUNK = 500
_TOTALS = (
    *("enqueued", "acked", "retried", "released", "reclaimed", "dead", "rejected", "duplicates"),
    *("redriven", "purged", "dead_purged", "dropped", "lost", "state_lost"),
)


class Operations:
    """What operators ask of a queue, through its current session.

    Args:
        settings: Of the queue.
        codec: Reads payloads for showing them.
        size: Is corrected by every look at the server's figures.
        session: Returns the session to use.
    """

    def __init__(self, settings: Settings, codec: Codec, size: LocalSize, session: Callable[[], Session]) -> None:
        self._settings = settings
        self._codec = codec
        self._size = size
        self._session = session

    async def figures(self, patience: float) -> tuple[Figures, int]:
        """Return the server's figures and the number of waiting events. Redis: 1 round trip."""
        session = self._session()
        figures = await session.channel.retry(
            lambda: session.commands.figures(session.channel.requests), deadline=session.loop.time() + patience
        )
        waiting = max(0, figures.entries - figures.pending + session.reader.buffered)
        self._size.set(waiting)
        return figures, waiting

    async def stats(self, max_size: int) -> QueueStats:
        """Return one consistent look at all figures. Redis: 1 round trip."""
        figures, waiting = await self.figures(self._settings.enqueue_timeout)
        oldest_ms = _oldest_ms(figures.oldest_waiting, self._session().reader.oldest_buffered)
        return QueueStats(
            waiting=waiting,
            in_flight=max(0, figures.entries - waiting),
            delayed=figures.delayed,
            dead=figures.dead,
            max_size=max_size,
            oldest_waiting_age=None if oldest_ms is None else max(0, figures.now_ms - oldest_ms) / 1000,
            consumers=figures.consumers,
            consumers_idle=_idle(figures),
            intake_paused="intake" in figures.totals.get("paused", ""),
            delivery_paused="delivery" in figures.totals.get("paused", ""),
            totals={name: _total(figures.totals.get(name)) for name in _TOTALS},
        )

    async def report(self, seconds: float) -> bool:
        """Take, keep or (0) give up the office of reporting for all consumers of the queue. Redis: 1 round trip."""
        session = self._session()
        await session.channel.open()
        return await session.commands.report(session.channel.requests, seconds)

    async def health(self) -> dict[str, Any]:
        """Return what the server says of the queue, with `error` where something is wrong. Redis: 1 round trip."""
        session = self._session()
        try:
            figures, waiting = await self.figures(session.commands.timeout)
        except BackendError as error:
            return {
                "status": "unhealthy",
                "redis_connected": False,
                "queue_depth": 0,
                "processing": 0,
                "error": str(error),
            }
        health = {
            "status": "healthy",
            "redis_connected": True,
            "queue_depth": waiting,
            "processing": max(0, figures.entries - waiting),
            "delayed": figures.delayed,
            "dead": figures.dead,
            "paused": bool(figures.totals.get("paused")),
        }
        health |= _trouble(figures.refused or session.channel.outage.trouble)
        limits = self._settings.dead_letter
        if limits.when_full == "refuse" and figures.dead >= limits.max_size:
            health |= {"status": "unhealthy", "error": "the dead letters are full"}
        return health

    async def peek(self, count: int) -> list[WaitingEvent]:
        """Return the next waiting events and then the next due delayed ones. Redis: 1 round trip."""
        session = self._session()
        waiting, delayed = await self._retry(lambda: session.commands.peek(session.channel.requests, count))
        seen = [read_waiting(entry_id, flat, self._codec) for entry_id, _, flat in waiting]
        return seen + [read_delayed(due_ms, flat, self._codec) for due_ms, flat in delayed]

    async def in_flight(self, count: int, first: str | None, *, payloads: bool) -> InFlight:
        """Return all consumers, and events in flight from the entry `first` on. Redis: 1 round trip."""
        session = self._session()
        held = await self._retry(
            lambda: session.commands.in_flight(
                session.channel.requests, count, first="-" if first is None else first, payloads=payloads
            )
        )
        return InFlight(
            consumers=tuple(Consumer(name, pending, idle_ms / 1000) for name, pending, idle_ms in held.consumers),
            events=tuple(
                read_in_flight(entry_id, holder, flat, self._codec, now_ms=held.now_ms)
                for entry_id, holder, flat in held.entries
            ),
        )

    async def dead_letters(self, count: int, after: str | None) -> list[DeadLetter]:
        """Return dead letters, oldest first. Redis: 1 round trip."""
        session = self._session()
        (reply,) = await self._retry(lambda: self._call(session, session.commands.list_dead(count, after)))
        return [read_dead_letter(dead_id.decode(), flat, self._codec) for dead_id, flat in reply]

    async def redrive(self, max_size: int, dead_ids: tuple[str, ...], count: int | None) -> int:
        """Put dead letters back, in chunks; stops when the queue is full. Redis: 1 or 2 round trips per 500.

        They are named before they are moved: a request that is repeated after a lost reply moves nothing else.
        """
        given = deque(dict.fromkeys(dead_ids))
        total, left = 0, len(given) if dead_ids else (sys.maxsize if count is None else count)
        while left > 0:
            size = min(_CHUNK, left)
            chunk = [given.popleft() for _ in range(size)] if dead_ids else await self._dead_ids(size)
            redriven, full = await self._redrive_chunk(max_size, chunk)
            total, left = total + redriven, left - size
            if full or len(chunk) < size:
                break
        self._size.add(total)
        return total

    async def _dead_ids(self, count: int) -> list[str]:
        session = self._session()
        ids: list[str] = await self._retry(lambda: session.commands.dead_ids(session.channel.requests, count))
        return ids

    async def _redrive_chunk(self, max_size: int, dead_ids: Sequence[str]) -> tuple[int, bool]:
        session = self._session()
        redriven: tuple[int, bool] = await self._retry(
            lambda: session.commands.redrive(session.channel.requests, max_size, dead_ids)
        )
        return redriven

    async def purge(self, to: str) -> int:
        """Move all waiting and delayed events to the dead letters, in chunks. Redis: 1 round trip per 500."""
        if to != "dead":
            raise UsageError(f"purge moves events to 'dead', not to {to!r}; only purge_dead deletes")
        session, total = self._session(), 0
        while True:
            moved, full = await self._purge_chunk(session)
            total += moved
            if full or moved < _CHUNK:
                break
        if full:
            logger.error("The dead letters are full: purge stopped after %d events", total, extra={"events": total})
        await self.figures(self._settings.enqueue_timeout)
        return total

    async def _purge_chunk(self, session: Session) -> tuple[int, bool]:
        moved: tuple[int, bool] = await self._retry(lambda: session.commands.purge(session.channel.requests, _CHUNK))
        return moved

    async def purge_dead(self, dead_ids: tuple[str, ...], who: str) -> int:
        """Delete dead letters for good, in chunks. Redis: 1 round trip per 500."""
        session, total = self._session(), 0
        for start in range(0, max(1, len(dead_ids)), _CHUNK):
            chunk = dead_ids[start : start + _CHUNK]
            deleted: int = await self._retry(
                lambda chunk=chunk: session.commands.purge_dead(session.channel.requests, chunk)  # type: ignore[misc]
            )
            total += deleted
        logger.warning(
            "%d dead letters deleted for good, asked for by %s", total, who, extra={"events": total, "who": who}
        )
        return total

    async def count_rejected(self, count: int) -> None:
        """Add to the totals what was refused after waiting for room. Redis: 1 round trip."""
        session = self._session()
        await self._retry(lambda: self._call(session, session.commands.count_rejected(count)))

    async def set_paused(self, paused: str) -> None:
        """Pause `intake`, `delivery`, both (comma between) or nothing, for all processes. Redis: 1 round trip."""
        session = self._session()
        await self._retry(lambda: self._call(session, session.commands.set_paused(paused)))
        session.maintenance.kick()

    async def cede(self, event_ids: Sequence[str], *, refused: bool) -> list[bool]:
        """Leave ids to another queue; False for each that this one has. Redis: 1 round trip per 500."""
        session, ceded = self._session(), list[bool]()
        for start in range(0, len(event_ids), _CHUNK):
            digests = [digest(event_id) for event_id in event_ids[start : start + _CHUNK]]
            # One attempt's time and not more: who asks has an event in hand, and goes on without an answer.
            ceded += await session.channel.retry(
                lambda digests=digests: session.commands.cede(session.channel.requests, digests, refused=refused),  # type: ignore[misc]
                deadline=session.loop.time() + session.commands.timeout,
            )
        return ceded

    async def take_back(self, event_ids: Sequence[str]) -> None:
        """Take ids back that the other queue did not get. Redis: 1 round trip per 500, sent once."""
        session = self._session()
        await session.channel.open()
        for start in range(0, len(event_ids), _CHUNK):
            digests = [digest(event_id) for event_id in event_ids[start : start + _CHUNK]]
            await session.commands.take_back(session.channel.requests, digests)

    async def _retry(self, attempt: Callable[[], Any]) -> Any:
        session = self._session()
        return await session.channel.retry(attempt, deadline=session.loop.time() + self._settings.enqueue_timeout)

    @staticmethod
    async def _call(session: Session, command: tuple[str | bytes | int, ...]) -> list[Any]:
        replies = await session.channel.requests.call(command, timeout=session.commands.timeout)
        for reply in replies:
            if isinstance(reply, BackendError):
                raise reply
        return replies


def _trouble(error: BackendError | None) -> dict[str, str]:
    """Return what to say of a server that answers and yet does not do everything, or did not a moment ago."""
    if error is None or not passes(error):
        return {}
    return {"status": "degraded", "error": str(error)}


def _total(written: str | None) -> int:
    """Return a count as it is stored; what somebody else wrote in its place counts as nothing."""
    return int(written) if written is not None and re.fullmatch(r"-?[0-9]{1,19}", written) else 0


def _idle(figures: Figures) -> float | None:
    """Return for how long no consumer has left a sign of life; what somebody else wrote in its place counts as none."""
    alive_ms = _total(figures.totals.get("alive_ms"))
    return max(0, figures.now_ms - alive_ms) / 1000 if alive_ms else None


def _oldest_ms(first_unread: str, buffered: str | None) -> int | None:
    """Return when the oldest waiting event was added; one that is prefetched here waits as well."""
    ids = [entry_id for entry_id in (first_unread, buffered) if entry_id]
    return min(map(milliseconds_of, ids), default=None)
