"""The next items of a list into the queue: within one server, or from one to another.

See docs/decisions/0100-moving-in-chunks.md and 0102-between-two-servers.md.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from streams_queue.errors import BackendUnavailable
from streams_queue.migration.commands import CHUNK_ITEMS, Chunk, SourceCommands, Step
from streams_queue.migration.judging import Judge, Unfit, Verdict
from streams_queue.migration.persisting import Persistent
from streams_queue.migration.record import Part
from streams_queue.redis_client import Command
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.commands import BatchReply
from streams_queue.redis_queue.durability import Durability, Level
from streams_queue.redis_queue.producer import NewEvent

logger = logging.getLogger(__name__)

# How long the queue's server knows a migration again that was interrupted.
_KNOWN_FOR_MS = 30 * 24 * 3600 * 1000
# And one that has ended.
_KNOWN_AFTER_MS = 60 * 1000
_LONGEST_LEVEL_WAIT = 1.0
_REFUSALS = {"F": "full", "P": "paused"}

OnUnfit = Callable[[Unfit], None]


class Mover(Protocol):
    """Moves items into the queue, the oldest first."""

    async def step(self, part: Part, at_most: int = CHUNK_ITEMS) -> Step | None:
        """Move the next items of a list; None if there is none.

        Args:
            part: Of the record: which list.
            at_most: So many items; 0 finishes only what is on the way already.

        Raises:
            BackendError: As `Persistent.do`.
            RecordLostError: The server has lost the record.
        """

    async def forget(self, producer: str) -> None:
        """Let go of what the queue's server has to know the migration again, under this producer id."""


class WithinServer:
    """Moves items out of the list and into the stream in one step of the server that has both.

    Args:
        source: Speaks to it.
        server: Does so until it works.
        judge: Of the items.
        channel: Of the queue.
        max_size: How many events the queue may hold.
        on_unfit: Is told of each item that is set aside.
    """

    def __init__(
        self,
        *,
        source: SourceCommands,
        server: Persistent,
        judge: Judge,
        channel: Channel,
        max_size: int,
        on_unfit: OnUnfit,
    ) -> None:
        self._source = source
        self._server = server
        self._judge = judge
        self._keys = channel.commands.keys
        self._max_size = max_size
        self._on_unfit = on_unfit
        self._prefix = secrets.token_hex(8)
        self._chunks = itertools.count()

    async def step(self, part: Part, at_most: int = CHUNK_ITEMS) -> Step | None:
        """Look at the next items, judge them, and move those that are still where they were. Redis: 2 round trips."""
        items = await self._server.do(lambda: self._source.look(part, count=at_most)) if at_most else []
        if not items:
            return None
        verdicts, step = await self._server.do(lambda: self._move(part, items))
        _tell(self._on_unfit, verdicts, step.aside)
        return step

    async def _move(self, part: Part, items: list[bytes]) -> tuple[list[Verdict], Step]:
        # Ids of its own for each attempt: after a lost reply the items that are found may be others that are equal.
        verdicts = self._judge.judge(items, f"{self._prefix}-{next(self._chunks):x}")
        return verdicts, await self._source.move(part, self._keys, self._max_size, items, verdicts)

    async def forget(self, producer: str) -> None:
        """There is nothing but the record."""


class BetweenServers:
    """Takes items out of the list into a staging list, sends them as a batch that is written once, and settles.

    Args:
        source: Speaks to the server that has the lists.
        source_server: Does so until it works.
        queue_server: Does so on the server that has the queue.
        judge: Of the items.
        channel: Of the queue.
        level: How durable an event has to be before it leaves the source; None: accepted.
        max_size: How many events the queue may hold.
        on_unfit: Is told of each item that is set aside.
    """

    def __init__(
        self,
        *,
        source: SourceCommands,
        source_server: Persistent,
        queue_server: Persistent,
        judge: Judge,
        channel: Channel,
        level: Level | None,
        max_size: int,
        on_unfit: OnUnfit,
    ) -> None:
        self._source = source
        self._source_server = source_server
        self._queue_server = queue_server
        self._judge = judge
        self._channel = channel
        self._max_size = max_size
        self._on_unfit = on_unfit
        self._durability = Durability(channel.producer, level, timeout=channel.commands.timeout) if level else None
        self._acknowledged: tuple[str, int] = ("", 0)

    async def step(self, part: Part, at_most: int = CHUNK_ITEMS) -> Step | None:
        """Take, send, settle. Redis: 2 round trips to the source, 1 to the queue."""
        chunk = await self._source_server.do(lambda: self._source.take(part, at_most))
        if not chunk.items:
            return None
        verdicts = self._judge.judge(chunk.items, f"{chunk.producer}-{chunk.sequence:x}-{_digest(chunk.items)}")
        events = [verdict for verdict in verdicts if isinstance(verdict, NewEvent)]
        words = await self._send(chunk, events) if events else []
        if words is None:
            return await self._send_as_another(chunk)
        outcome, status = _outcome(verdicts, words)
        settled = await self._source_server.do(lambda: self._source.settle(chunk, outcome))
        _tell(self._on_unfit, verdicts, settled.aside)
        return Step(status, settled.moved, settled.aside, chunk.planned_left)

    async def _send(self, chunk: Chunk, events: Sequence[NewEvent]) -> list[str] | None:
        """Return what became of each event; None if the server cannot tell."""
        command = self._channel.commands.enqueue_command(
            producer_id=chunk.producer,
            sequence=chunk.sequence,
            settled=chunk.sequence - 1,
            max_size=self._max_size,
            counts_rejected=False,
            specials="",
            bucket=None,
            events=[part for event in events for part in (event.event_id, event.payload, event.meta)],
            ttl_ms=_KNOWN_FOR_MS,
        )
        reply = await self._queue_server.do(lambda: self._deliver(command))
        self._check_acknowledged(chunk, reply)
        return reply.results if reply.status in ("ok", "replayed") else None

    async def _deliver(self, command: Command) -> BatchReply:
        """Send a batch once, and wait until it is as durable as asked for: only then may it leave the source."""
        commands, link = self._channel.commands, self._channel.producer
        if self._durability is not None:
            await self._durability.prepare(commands.timeout)
        reply = await commands.enqueue(link, command, timeout=commands.timeout)
        if self._durability is not None and (missing := await self._durability.missing(_LONGEST_LEVEL_WAIT)):
            raise BackendUnavailable(f"the queue holds the events, but not as durably as asked for: {missing}")
        return reply

    def _check_acknowledged(self, chunk: Chunk, reply: BatchReply) -> None:
        """Notice that the queue's server remembers less than it had confirmed."""
        producer, sequence = self._acknowledged
        known = max(0, reply.stored_sequence)
        if producer == chunk.producer and known < sequence:
            logger.error(
                "The server of the queue forgot the chunks from %d to %d of the migration, which it had acknowledged; "
                "what was not processed before is lost",
                *(known + 1, sequence),
                extra={"chunks": sequence - known},
            )
        self._acknowledged = (chunk.producer, chunk.sequence)

    async def _send_as_another(self, chunk: Chunk) -> Step:
        """Give up the producer id; the same items go out again under a new one.

        Unless another migration of the list has settled them: then there is nothing to be told.
        """
        producer = secrets.token_hex(8)
        again = await self._source_server.do(
            lambda: self._source.take(chunk.part, 0, forsaken=chunk, producer=producer)
        )
        if again.producer == producer:
            logger.error(
                "It cannot be told whether %d events of the migration had reached the queue (the server of the lists "
                "has gone back in time, or the queue was configured anew); they go out again, and may be there twice",
                len(chunk.items),
                extra={"events": len(chunk.items)},
            )
        return Step("changed", 0, 0, chunk.planned_left)

    async def forget(self, producer: str) -> None:
        """Let the queue's server forget the producer soon. Redis: 1 round trip.

        Not at once: another migration of the list may just be sending the last chunk once more.
        """
        commands, link = self._channel.commands, self._channel.producer
        expire = ("PEXPIRE", commands.keys.producer(producer), _KNOWN_AFTER_MS)
        await self._queue_server.do(lambda: link.call(expire, timeout=commands.timeout))


def _digest(items: Sequence[bytes]) -> str:
    """Return what tells a chunk from another one that a source which went back in time sends under the same sequence.

    The queue's server compares the first event's id: it must not take new items for those that it knows.
    """
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(b"%d:" % len(item))
        digest.update(item)
    return digest.hexdigest()


def _outcome(verdicts: Sequence[Verdict], words: Sequence[str]) -> tuple[list[Unfit | None], str]:
    """Return what to settle of a chunk: for its first items None (arrived) or why it is none; and what stopped it."""
    outcome: list[Unfit | None] = []
    replies = iter(words)
    for verdict in verdicts:
        if isinstance(verdict, Unfit):
            outcome.append(verdict)
        elif (word := next(replies)) in _REFUSALS:
            return outcome, _REFUSALS[word]
        else:
            outcome.append(None)
    return outcome, "ok"


def _tell(on_unfit: OnUnfit, verdicts: Sequence[Verdict], count: int) -> None:
    for unfit in itertools.islice((each for each in verdicts if isinstance(each, Unfit)), count):
        on_unfit(unfit)
