"""A session's way to the server: its links, whether the queue is open there, and whether there is an outage."""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams_queue.config import Settings
from streams_queue.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable, ConfigError
from streams_queue.observer import Observers
from streams_queue.redis_client import Endpoint, Link, endpoint_from_url, passes, worth_retrying
from streams_queue.redis_queue.commands import StreamCommands
from streams_queue.redis_queue.outage import Backoff, Outage, refuses_only_new_events

logger = logging.getLogger(__name__)
T = TypeVar("T")


def endpoint_of(settings: Settings) -> Endpoint:
    """Return where a queue's server is. Raises ConfigError if the settings do not say that."""
    if settings.redis_url is None:
        raise ConfigError("queue.redis_url: Missing redis_url")
    return endpoint_from_url(settings.redis_url, connect_timeout=min(2.0, settings.enqueue_timeout / 3))


def backoff_cap(lease: float) -> float:
    """Return the longest wait between two attempts, in seconds; with leases of so many."""
    return min(0.25, lease / 8)


class Channel:
    """The links of one session and what is known of the other end.

    Attributes:
        requests: For everything that is answered at once.
        reader: For the read that waits; used by the reader alone.
        producer: For enqueue batches; used by the producer alone.
        outage: Whether the server can be used.
        intake: Whether it takes new events; with no memory left it refuses only those.
        last_held: How many events the queue holds, as far as is known here.
        held_before: How many it held before it was opened again, if it is still the same; reset by the producer.
        lifetime: Of the group, by which it is known again; changes when the server has lost the queue's state.
        on_opened: Called with what an operator has paused, each time that the queue was opened.
    """

    def __init__(
        self, endpoint: Endpoint, commands: StreamCommands, observers: Observers, *, backoff_cap: float
    ) -> None:
        self.commands = commands
        self.requests = Link(endpoint)
        self.reader = Link(endpoint)
        self.producer = Link(endpoint)
        self.outage = Outage(endpoint.name, "cannot be used")
        self.intake = Outage(endpoint.name, "takes no new events")
        self.last_held = 0
        self.on_opened: Callable[[str], None] = lambda _: None
        self._observers = observers
        self._backoff_cap = backoff_cap
        self._opening: asyncio.Task[None] | None = None
        self._open_again_at = 0.0
        self._open_backoff = self.backoff()
        self._not_open: BackendError | None = None
        self._is_open = False
        self.held_before = 0
        self.lifetime, self._new_lifetime = "", secrets.token_hex(8)

    def backoff(self) -> Backoff:
        """Return a fresh backoff for one sequence of attempts."""
        return Backoff(self._backoff_cap)

    @property
    def is_open(self) -> bool:
        """Whether the queue is known to exist on the server and to be ours to share."""
        return self._is_open

    def is_usable(self) -> bool:
        """Whether the queue is open, and no connection has been lost since."""
        return self._is_open and not (self.requests.is_broken or self.reader.is_broken or self.producer.is_broken)

    async def open(self, *, deadline: float | None = None) -> None:
        """Make sure that the queue exists on the server and is ours to share; again after every outage.

        Redis: nothing while it is known to be open, else 1 round trip.

        Args:
            deadline: By the event loop's clock; None waits for as long as one attempt takes.

        Raises:
            BackendUnavailable: The server does not answer; whatever was to follow was not sent.
            BackendRejected: The server refuses.
            StateError: The keys belong to a newer release, or the stream has another group.
        """
        if self.is_usable():
            return
        for link in self._links():
            if link.is_broken:
                # The server went away while nobody asked it anything: it may have come back without the queue.
                self._is_open = False
                await link.close()
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="streams_queue.open")
            self._opening.add_done_callback(self._opened)
        # All who wait share one attempt and its outcome: one after the other, each would wait for those before it.
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._opening)
        except TimeoutError as error:
            raise copy.copy(self._not_open) or BackendUnavailable("the server does not answer") from error
        except BackendTimeout as error:
            raise BackendUnavailable("the server does not answer") from error

    async def _open(self) -> None:
        # However many calls wait for it, a server in trouble is asked a few times a second by each session.
        await asyncio.sleep(self._open_again_at - asyncio.get_running_loop().time())
        try:
            opened = await self.commands.open(
                self.requests, lifetime=self.lifetime, new_lifetime=self._new_lifetime, held=self.last_held
            )
        except BackendError as error:
            # Told to those whose time is up before the next attempt; that one got no answer tells them less.
            # A copy has no traceback, whose frames would keep a queue alive that everybody else has forgotten.
            self._not_open = None if isinstance(error, BackendTimeout) else copy.copy(error)
            self._open_again_at = asyncio.get_running_loop().time() + self._open_backoff.next()
            raise
        self._not_open, self._open_backoff = None, self.backoff()
        if opened.state_lost:
            self._report_state_lost(opened.held)
        self.held_before = max(self.held_before, self.last_held) if opened.lifetime == self.lifetime else 0
        self._is_open, self.lifetime, self.last_held = True, opened.lifetime, opened.held
        self._new_lifetime = secrets.token_hex(8)
        self.on_opened(opened.paused)
        self.outage.ended()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            # Looked at here, in case that all who waited are gone.
            opening.exception()

    def failed(self, error: BackendError) -> None:
        """Note a failure of any link: what was known of the server may no longer hold."""
        if refuses_only_new_events(error):
            self.intake.failed(error)
            return
        self._is_open = False
        if passes(error):
            self.outage.failed(error)

    async def retry(self, attempt: Callable[[], Awaitable[T]], *, deadline: float) -> T:
        """Run an attempt, that must be harmless when repeated, until it succeeds.

        Args:
            attempt: One round trip; called again after a lost connection or a refusal that passes.
            deadline: By the event loop's clock; the last error is raised when it has passed.

        Raises:
            BackendTimeout: No attempt succeeded and one of them may have been applied.
            BackendUnavailable: None was sent.
            BackendRejected: Refused for good.
        """
        backoff, unknown = self.backoff(), None
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.open(deadline=deadline)
                reply = await attempt()
            except BackendError as error:
                if isinstance(error, BackendTimeout):
                    unknown = error
                self.failed(error)
                wait = backoff.next()
                if not _worth_repeating(error) or loop.time() + wait >= deadline:
                    raise (unknown if isinstance(error, BackendUnavailable) and unknown else error) from None
                await asyncio.sleep(wait)
            else:
                self.outage.ended()
                return reply

    async def close(self) -> None:
        """Close all links."""
        if self._opening is not None:
            self._opening.cancel()
        for link in self._links():
            await link.close()

    def _links(self) -> tuple[Link, Link, Link]:
        return self.requests, self.reader, self.producer

    def _report_state_lost(self, held: int) -> None:
        detail = (
            f"the group of {self.commands.keys.stream} was gone; {self.last_held} events were held before, {held} now"
        )
        logger.error(
            "The server lost the queue's state: %s",
            detail,
            extra={"stream": self.commands.keys.stream, "held_before": self.last_held, "held": held},
        )
        self._observers.state_lost(detail)
        gone = self.last_held - held
        if gone > 0:
            self._observers.lost(gone, "state_lost")


def _worth_repeating(error: BackendError) -> bool:
    return worth_retrying(error) or (isinstance(error, BackendRejected) and error.code == "NOGROUP")
