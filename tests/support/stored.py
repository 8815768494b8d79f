"""What the server holds of a queue, seen with bare commands, and changes that only a test makes."""

from __future__ import annotations

import re
from typing import Any

import redis.asyncio

from tests.support.builders import Keys

MARK = re.compile(rb'"mark":"<(-?\d+)>"')


class StoredQueue:
    """One queue's keys on one server.

    Attributes:
        raw: A bare client.
        keys: The names.
    """

    def __init__(self, raw: redis.asyncio.Redis, keys: Keys) -> None:
        self.raw, self.keys = raw, keys

    async def numbers(self) -> list[int]:
        """Return the numbers of the events in the stream, in its order, held or not."""
        entries = await self.raw.xrange(self.keys.stream)
        return [int(found[1]) for _, fields in entries if (found := MARK.search(fields[b"payload"]))]

    async def entry_ids(self) -> list[str]:
        """Return the ids of all entries, in order."""
        return [entry_id.decode() for entry_id, _ in await self.raw.xrange(self.keys.stream)]

    async def length(self) -> int:
        """Return XLEN: waiting + in flight."""
        return int(await self.raw.xlen(self.keys.stream))

    async def size(self) -> int:
        """Return waiting + in flight + delayed, in one atomic step."""
        async with self.raw.pipeline(transaction=True) as pipe:
            length, delayed = await pipe.xlen(self.keys.stream).zcard(self.keys.delayed).execute()
        return int(length + delayed)

    async def empty(self) -> bool:
        """Tell whether every event is settled."""
        return await self.size() == 0

    async def group(self) -> dict[str, Any]:
        """Return what XINFO GROUPS says of the one group."""
        (found,) = await self.raw.xinfo_groups(self.keys.stream)
        return dict(found)

    async def consumers(self) -> dict[str, int]:
        """Return how many entries are pending for each consumer of the group."""
        found = await self.raw.xinfo_consumers(self.keys.stream, self.keys.group)
        return {consumer["name"].decode(): consumer["pending"] for consumer in found}

    async def pending(self) -> list[dict[str, Any]]:
        """Return the pending entries: message_id, consumer, time_since_delivered, times_delivered."""
        return list(await self.raw.xpending_range(self.keys.stream, self.keys.group, "-", "+", 10_000))

    async def age(self, entry_id: str, seconds: float) -> None:
        """Make a pending entry look as if its consumer had not been heard of for so long."""
        (entry,) = [each for each in await self.pending() if each["message_id"].decode() == entry_id]
        await self.raw.xclaim(
            *(self.keys.stream, self.keys.group, entry["consumer"], 0, [entry_id]),
            idle=int(seconds * 1000),
            justid=True,
        )

    async def steal(self, entry_id: str) -> None:
        """Give a pending entry to another consumer, as a reclaim does, and count the delivery."""
        await self.raw.xclaim(self.keys.stream, self.keys.group, "thief", 0, [entry_id])

    async def add(self, fields: dict[str, Any]) -> str:
        """Add an entry by hand."""
        return str((await self.raw.xadd(self.keys.stream, fields)).decode())
