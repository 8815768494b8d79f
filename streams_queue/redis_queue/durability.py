"""How far an event has to get before `enqueue` returns, beyond being accepted: on to replicas, or to the disk.

A level asks the server in two steps: whether it can do that at all, on every new connection and before anything is
written, and then, after each batch, whether that has got there. See docs/decisions/0040-durability-levels.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from streams_queue.config import Settings
from streams_queue.errors import BackendError, BackendRejected, BackendTimeout
from streams_queue.redis_client import Command, Link
from streams_queue.redis_queue.commands import milliseconds

logger = logging.getLogger(__name__)


class Level(Protocol):
    """What to ask the server, and what its answers mean.

    Attributes:
        name: As it is configured.
        probe: Sent once per connection, before anything is written; its first reply says whether the level can be had.
    """

    name: str
    probe: tuple[Command, ...]

    def look(self, replies: Sequence[Any]) -> None:
        """Learn from the replies to `probe`, of which the first is no error."""

    def wait(self, wait_ms: int) -> tuple[Command, ...]:
        """Return the commands that wait until what this connection has written before has reached the level."""

    def missing(self, replies: Sequence[Any]) -> str:
        """Say what the replies to `wait` leave to be desired; nothing if the level is reached."""


class Replicated:
    """All replicas that are connected have it, and at least `min_replicas`.

    How many are connected is asked with every wait, in the same round trip, and so is known for the next one.
    """

    name = "replicated"
    probe: tuple[Command, ...] = (("WAIT", 0, 1), ("ROLE",))

    def __init__(self, min_replicas: int) -> None:
        self._min_replicas = min_replicas
        self._connected = 0
        self._warned = False

    @property
    def _wanted(self) -> int:
        return max(self._min_replicas, self._connected)

    def look(self, replies: Sequence[Any]) -> None:
        """Learn how many replicas are connected."""
        _, role = replies
        if not isinstance(role, BackendError):
            self._connected = connected_replicas(role)
        elif not self._warned:
            self._warned = True
            logger.warning(
                "Cannot see how many replicas are connected (%s): waiting for min_replicas, %d, and no more",
                role,
                self._min_replicas,
                extra={"error": str(role), "min_replicas": self._min_replicas},
            )

    def wait(self, wait_ms: int) -> tuple[Command, ...]:
        """Wait for as many replicas as were connected when that was last seen."""
        return (("WAIT", self._wanted, wait_ms), ("ROLE",))

    def missing(self, replies: Sequence[Any]) -> str:
        """Compare with the replicas that are connected now: some may have left or joined during the wait."""
        self.look(replies)
        acknowledged = replies[0]
        if acknowledged >= self._wanted:
            return ""
        return f"{acknowledged} of {self._wanted} replicas have it ({self._connected} connected)"


class Fsynced:
    """The server has it in its append-only file and on the disk, and so have `min_replicas` replicas."""

    name = "fsynced"
    probe: tuple[Command, ...] = (("WAITAOF", 1, 0, 1),)

    def __init__(self, min_replicas: int) -> None:
        self._min_replicas = min_replicas

    def look(self, replies: Sequence[Any]) -> None:
        """There is nothing to learn."""

    def wait(self, wait_ms: int) -> tuple[Command, ...]:
        """Wait for the server itself and `min_replicas`."""
        return (("WAITAOF", 1, self._min_replicas, wait_ms),)

    def missing(self, replies: Sequence[Any]) -> str:
        """Compare the two counts."""
        local, replicas = replies[0]
        if local >= 1 and replicas >= self._min_replicas:
            return ""
        where = f"{replicas} of {self._min_replicas} replicas" if local else "the server"
        return f"only {where} have written it to disk" if local else f"{where} has not written it to disk"


def connected_replicas(role: Sequence[Any]) -> int:
    """Count the replicas in a primary's reply to ROLE that have acknowledged something since they connected.

    Others do not count: one that still loads its copy, and what only listens, is listed as well.
    """
    return sum(int(offset) > 0 for _, _, offset in role[2]) if role[0] == b"master" else 0


def level_of(settings: Settings) -> Level | None:
    """Return the level that is configured; None for `accepted`, which needs nothing."""
    given = settings.min_replicas
    if settings.durability == "replicated":
        return Replicated(1 if given is None else given)
    if settings.durability == "fsynced":
        return Fsynced(given or 0)
    return None


class Durability:
    """Brings what is written on a link to a level.

    Args:
        link: On which the batches go out. What it has written is what the server's WAIT is about, so that a reply on
            any other connection would mean nothing.
        level: Which one.
        timeout: Seconds that one round trip may take beside the wait.

    Attributes:
        turn: To be held from before a batch is written until it has got there, so that the connection stays the same.
    """

    def __init__(self, link: Link, level: Level, *, timeout: float) -> None:
        self._link = link
        self._level = level
        self._timeout = timeout
        self.turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """The level's name."""
        return self._level.name

    async def prepare(self, timeout: float) -> None:
        """Make sure, once per connection, that the server on it can do what the level needs.

        Raises:
            BackendRejected: It cannot; nothing was written.
        """
        if self._link.is_open:
            return
        replies = await self._link.call(*self._level.probe, timeout=timeout)
        if isinstance(replies[0], BackendError):
            # Whoever comes next asks again: the server may have been mended meanwhile.
            await self._link.close()
            raise self._refusal(replies[0])
        self._level.look(replies)

    def _refusal(self, error: BackendError) -> BackendError:
        if isinstance(error, BackendRejected) and not error.passing:
            return BackendRejected(
                f"queue.durability: {self.name} is not to be had on this server: {error}", code=error.code
            )
        return error

    async def missing(self, seconds: float) -> str:
        """Wait up to `seconds` until the level is reached; return what is missing, or nothing.

        Raises:
            BackendTimeout: The connection broke; what it had written has to be written again.
            BackendRejected: The server no longer does what the level needs.
        """
        if not self._link.is_open:
            raise BackendTimeout("the connection broke before it was known how far the batch had got")
        wait_ms = max(1, milliseconds(seconds))
        replies = await self._link.call(*self._level.wait(wait_ms), timeout=self._timeout + seconds)
        if isinstance(replies[0], BackendError):
            raise replies[0]
        return self._level.missing(replies)
