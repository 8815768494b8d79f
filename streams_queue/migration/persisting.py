"""Doing on a server what is harmless to repeat, until it works."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from streams_queue.errors import BackendError, ConfigError
from streams_queue.redis_client import Endpoint, Link, endpoint_from_url, passes
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.outage import Backoff, Outage

T = TypeVar("T")

_LONGEST_WAIT = 0.25


def endpoint_of_lists(from_url: str, *, connect_timeout: float) -> Endpoint:
    """Return the server that has the lists. Raises ConfigError, which names the option and not the URL."""
    try:
        return endpoint_from_url(from_url, connect_timeout=connect_timeout)
    except ConfigError as error:
        raise ConfigError(each.replace("queue.redis_url", "--from-url", 1) for each in error.problems) from None


class Way(Protocol):
    """A way to a server."""

    async def open(self) -> None:
        """Make sure that what is there can be used. Raises BackendError."""

    def failed(self, error: BackendError) -> None:
        """Note a failure."""

    def ended(self) -> None:
        """Note an answer."""

    async def close(self) -> None:
        """Close all connections."""


class WayToQueue:
    """To the server that has the queue; the queue is opened again after each outage.

    Args:
        channel: Of the queue.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def open(self) -> None:
        """Make sure that the queue exists and is ours to share. Raises BackendError."""
        await self._channel.open()

    def failed(self, error: BackendError) -> None:
        """Note a failure."""
        self._channel.failed(error)

    def ended(self) -> None:
        """Note an answer."""
        self._channel.outage.ended()
        self._channel.intake.ended()

    async def close(self) -> None:
        """Close all connections."""
        await self._channel.close()


class WayToLists:
    """To a server of its own that has the lists.

    Attributes:
        link: For everything that is answered at once.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.link = Link(endpoint)
        self._outage = Outage(endpoint.name, "cannot be used")

    async def open(self) -> None:
        """There is nothing to open."""

    def failed(self, error: BackendError) -> None:
        """Note a failure."""
        if passes(error):
            self._outage.failed(error)

    def ended(self) -> None:
        """Note an answer."""
        self._outage.ended()

    async def close(self) -> None:
        """Close the connection."""
        await self.link.close()


class Persistent:
    """Does on one server what is harmless to repeat.

    Args:
        way: To the server.
        stop: Set when the migration is to end.

    Attributes:
        patience: Seconds for which one thing is tried.
    """

    def __init__(self, way: Way, stop: asyncio.Event, *, patience: float) -> None:
        self._way = way
        self._stop = stop
        self.patience = patience

    async def do(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt something until it works.

        Args:
            attempt: One round trip that is harmless to repeat, also when it is not known what became of it.

        Cancelled: What was sent may still be done by the server.

        Raises:
            BackendError: The last one, when the patience is at its end, the migration is to stop, or no retry mends it.
        """
        loop, backoff = asyncio.get_running_loop(), Backoff(_LONGEST_WAIT)
        deadline = loop.time() + self.patience
        while True:
            try:
                await self._way.open()
                reply = await attempt()
            except BackendError as error:
                self._way.failed(error)
                if not passes(error) or self._stop.is_set() or loop.time() >= deadline:
                    raise
                await sleep_unless(self._stop, backoff.next())
            else:
                self._way.ended()
                return reply


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond the moment in which `stop` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
