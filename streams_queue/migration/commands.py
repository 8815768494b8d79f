"""What the migration's scripts take, and what their replies mean. Nothing here waits, retries or decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streams_queue.errors import StateError
from streams_queue.keys import QueueKeys
from streams_queue.migration.asked import Asked
from streams_queue.migration.judging import Unfit, Verdict
from streams_queue.migration.record import Part, Record, read_record
from streams_queue.redis_client import Argument, Command, Link, script

# What one script looks at or moves: so much that a round trip is worth it, so little that others are served soon.
CHUNK_ITEMS = 100
CHUNK_BYTES = 128 * 1024
# What is only handed from one list to another is cheaper.
_ASIDE_ITEMS = 500

_MOVED = "."


class RecordLostError(StateError):
    """The record is gone: another migration has ended, or the server lost it, and perhaps what was in the list."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one script did.

    Attributes:
        status: ok, changed (somebody else was there in between), full or paused.
        moved: How many items it moved into the queue.
        aside: How many it set aside.
        planned_left: How many of those that were planned at the beginning are left; of the processing list only.
    """

    status: str
    moved: int
    aside: int
    planned_left: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items on their way to another server.

    Attributes:
        producer: Under which they are sent.
        sequence: And which batch of it they are.
        part: Of the record: which list they are from.
        items: The oldest first.
        planned_left: As in Step.
    """

    producer: str
    sequence: int
    part: Part
    items: list[bytes]
    planned_left: int


class SourceCommands:
    """Speaks to the server that has the lists.

    Args:
        link: On which to speak.
        asked: Names the keys.
        timeout: Seconds that one round trip may take.
    """

    def __init__(self, link: Link, asked: Asked, *, timeout: float) -> None:
        self._link = link
        self._asked = asked
        self._timeout = timeout

    async def _run(self, name: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        return await self._link.run(script(name), keys, args, timeout=self._timeout)

    def list_of(self, part: Part) -> str:
        """Return the key of one of the two lists."""
        return self._asked.source if part == "waiting" else self._asked.processing_list

    def set_aside_of(self, part: Part) -> str:
        """Return the key to which one of the two lists has its items set aside."""
        return self._asked.set_aside_key if part == "waiting" else self._asked.processing_set_aside_key

    async def begin(self, migration_id: str, queue: str) -> Record:
        """Begin, or go on with what was begun; return the record. Redis: 1 round trip, harmless to repeat."""
        asked = self._asked
        keys = (
            *(asked.source, asked.processing_list, asked.record_key),
            *(asked.set_aside_key, asked.processing_set_aside_key, asked.staging_key),
        )
        args = (migration_id, queue, str(asked.processing), asked.processing.requeued)
        return read_record(await self._run("migrate_begin", keys, args))

    async def has_begun(self) -> bool:
        """Whether there is a migration to go on with. Redis: 1 round trip, changes nothing."""
        return bool(await self._call(("EXISTS", self._asked.record_key)))

    async def look(self, part: Part, *, skip: int = 0, count: int = CHUNK_ITEMS) -> list[bytes]:
        """Return the oldest items behind the first `skip`, the oldest first. Redis: 1 round trip, changes nothing."""
        items: list[bytes] = await self._run("migrate_look", (self.list_of(part),), (skip, count, CHUNK_BYTES))
        return items

    async def lengths(self) -> tuple[int, int]:
        """Return the lengths of the two lists. Redis: 1 round trip, changes nothing."""
        commands = (("LLEN", self.list_of("waiting")), ("LLEN", self.list_of("processing")))
        waiting, processing = [_checked(each) for each in await self._link.call(*commands, timeout=self._timeout)]
        return waiting, processing

    async def move(
        self, part: Part, queue: QueueKeys, max_size: int, items: Sequence[bytes], verdicts: Sequence[Verdict]
    ) -> Step:
        """Move items into a queue on the same server. Redis: 1 round trip, harmless to repeat.

        Raises:
            RecordLostError: Nothing was moved.
        """
        keys = (
            *(self.list_of(part), self._asked.record_key, self.set_aside_of(part)),
            *(queue.stream, queue.delayed, queue.stats),
        )
        judged = [each for item, verdict in zip(items, verdicts, strict=True) for each in _judged(item, verdict)]
        return _step(await self._run("migrate_move", keys, (part, max_size, *judged)))

    async def set_aside(self) -> Step:
        """Set the next planned items of the processing list aside. Redis: 1 round trip, harmless to repeat."""
        keys = (self.list_of("processing"), self._asked.record_key, self.set_aside_of("processing"))
        status, aside, left = await self._run("migrate_aside", keys, (_ASIDE_ITEMS, CHUNK_BYTES))
        return _step((status, 0, aside, left))

    async def take(self, part: Part, at_most: int, *, forsaken: Chunk | None = None, producer: str = "") -> Chunk:
        """Take the next items for another server. Redis: 1 round trip, harmless to repeat.

        Args:
            part: Which list, if nothing is on the way.
            at_most: So many items, if nothing is on the way.
            forsaken: What was taken before, and whose fate the other server cannot tell; it is taken again.
            producer: Under which to go on in its place.
        """
        keys = (self.list_of(part), self._asked.record_key, self._asked.staging_key)
        given_up = (forsaken.producer, producer, forsaken.sequence) if forsaken else ("", "", "")
        args = (part, at_most, CHUNK_BYTES, *given_up)
        status, known, sequence, staged, items, left = await self._run("migrate_take", keys, args)
        _check_record(status)
        return Chunk(known.decode(), sequence, staged.decode(), items, left)

    async def settle(self, chunk: Chunk, outcome: Sequence[Unfit | None]) -> Step:
        """Take off the way what has arrived, and set aside what is no event. Redis: 1 round trip, harmless to repeat.

        Args:
            chunk: What was taken.
            outcome: None for what has arrived, for its first items, in order.
        """
        keys = (self._asked.staging_key, self._asked.record_key, self.set_aside_of(chunk.part))
        words = [_MOVED if unfit is None else unfit.reason for unfit in outcome]
        return _step(await self._run("migrate_settle", keys, (chunk.producer, chunk.sequence, *words)))

    async def note_exported(self) -> None:
        """Write down that the processing list is in its file. Redis: 1 round trip, harmless to repeat."""
        await self._call(("HSET", self._asked.record_key, "exported", 1))

    async def forget(self) -> None:
        """Delete the record of a migration that is done. Redis: 1 round trip, harmless to repeat."""
        await self._call(("DEL", self._asked.record_key))

    async def wait(self, link: Link, seconds: float) -> None:
        """Wait until the list has an item, at most so long. Redis: 1 round trip; the item stays where it is.

        The oldest item is moved from the right end of the list to the right end of the same list, which changes
        nothing: there is no moment in which it is anywhere else.
        """
        key = self._asked.source
        # 0 would be for ever.
        command: Command = ("BLMOVE", key, key, "RIGHT", "RIGHT", f"{max(0.01, seconds):.3f}")
        (reply,) = await link.call(command, timeout=seconds + self._timeout)
        _checked(reply)

    async def _call(self, command: Command) -> Any:
        (reply,) = await self._link.call(command, timeout=self._timeout)
        return _checked(reply)


def _judged(item: bytes, verdict: Verdict) -> tuple[Argument, ...]:
    if isinstance(verdict, Unfit):
        return (item, verdict.reason, "", "", "")
    # The script has the item already.
    return (item, "", verdict.event_id, verdict.meta, b"" if verdict.payload is item else verdict.payload)


def _step(reply: Sequence[Any]) -> Step:
    status, *counts = reply
    _check_record(status)
    return Step(status.decode(), *counts)


def _check_record(status: bytes) -> None:
    if status == b"lost":
        raise RecordLostError


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
