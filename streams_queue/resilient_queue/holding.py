"""Where a resilient queue holds events that Redis cannot take: what both places have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from streams_queue.errors import BackendTimeout
from streams_queue.messages import Receipt
from streams_queue.two_queues import NewEvents


class Holding(Protocol):
    """The events that this process holds, and moving them to Redis: from the front, never out of hand before a reply.

    Attributes:
        durable: Whether they survive the process.
        max_size: The most events that may be held.
        moved: How many events have gone to Redis so far.
        words: What becomes of the events, for the warning when the fallback begins.
    """

    durable: bool
    max_size: int
    moved: int
    words: str

    def is_empty(self) -> bool:
        """Whether nothing is left to move, and nothing is just coming in."""
        ...

    def count(self) -> int:
        """How many events are held."""
        ...

    def waiting(self) -> int:
        """How many of them the local queue's own figures do not count."""
        ...

    def remarks(self) -> Mapping[str, str]:
        """Say for check_health what an operator should know of the events that are held."""
        ...

    def has_problem(self) -> bool:
        """Whether there is nowhere to hold events at the moment."""
        ...

    async def look(self) -> None:
        """Find what an earlier process left; called before the first event comes in or goes out."""
        ...

    async def add(self, new: NewEvents) -> list[Receipt]:
        """Hold events at the end of the line; `full` beyond the bound. In line when this first awaits.

        Raises:
            MessageError: One of the payloads cannot travel; none is held.
            SpoolError: There is nowhere to put them.
        """
        ...

    async def add_unresolved(self, new: NewEvents, error: BackendTimeout) -> list[Receipt]:
        """Hold events that Redis may have, with the batch that tells; they go first, or turn out to have gone.

        Raises:
            BackendTimeout: They cannot be held, so that their fate stays unknown.
        """
        ...

    async def move_some(self) -> bool:
        """Move the next events to Redis: batches of unknown fate first and verbatim, else the oldest in line.

        Returns:
            Whether to go on at once; False if Redis has no room for the next event.

        Cancelled: What was not confirmed is moved again, and recognised.

        Raises:
            BackendError: Redis did not take them; they are in line again.
        """
        ...

    async def close(self) -> None:
        """The queue is closed; say in the log what becomes of the events that are still held."""
        ...
