"""The keeper: a thread with a connection of its own that renews leases, so that a busy event loop loses none.

It renews what is held every third of a lease, fenced, and never steals back. It holds neither the queue nor its
session: when the queue is garbage or the event loop is closed it sends what was handed to it and ends, so that a
forgotten queue strands nothing. See docs/decisions/0006-keeper-thread.md.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from streams_queue.errors import BackendError
from streams_queue.redis_client import Endpoint, Link
from streams_queue.redis_queue.commands import StreamCommands
from streams_queue.redis_queue.leases import Lease, Leases

logger = logging.getLogger(__name__)

_CHUNK = 500
# How long the end of the interpreter waits for acks that are still to be sent.
_FLUSH_AT_EXIT = 2.0


class _OwnLoop(asyncio.SelectorEventLoop):
    """An event loop that looks names up in its own thread: the pool for that is closed when the interpreter ends."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """Look a name up, blocking: nothing else runs in this thread."""
        return socket.getaddrinfo(*args, **kwargs)


class Keeper:
    """Keeps the leases of one session alive from a thread of its own, started with the first lease.

    Args:
        endpoint: Where the server is.
        commands: Of the session's consumer.
        leases: What it holds.
        lease: Seconds after which a pending entry may be claimed by others.
        max_lease: The longest that one delivery is renewed, in seconds.
        loop: The session's event loop; the keeper ends when it is closed.
        report: Called in the event loop with what became of leases: `acked` or `released` from here, `lost` to somebody
            else, or `expired`, too old to be renewed; and with those leases.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        commands: StreamCommands,
        leases: Leases,
        *,
        lease: float,
        max_lease: float,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[str, Sequence[Lease]], None],
    ) -> None:
        self._endpoint = endpoint
        self._commands = commands
        self._leases = leases
        self._interval = lease / 3
        self._retry_cap = min(0.25, lease / 8)
        self._timeout = min(2.0, max(0.2, lease / 4))
        self._max_lease = max_lease
        self._loop = loop
        self._report = weakref.WeakMethod(report)
        self._acks: list[Lease] = []
        self._releases: list[Lease] = []
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._ending = False
        # Handing over and ending must not cross: what is handed over is sent by this thread or by the next.
        self._turn = threading.Lock()
        self._pid = os.getpid()

    # --- called from the event loop's thread ---

    def start(self) -> None:
        """Start the thread if it does not run."""
        if self._thread is None and os.getpid() == self._pid:
            self._thread = threading.Thread(target=self._run, name="streams_queue.keeper", daemon=True)
            self._thread.start()
            atexit.register(self._flush_at_exit)

    def ack(self, leases: Sequence[Lease]) -> None:
        """Acknowledge from here: the event loop may be about to end."""
        self._hand_over(self._acks, leases)

    def release(self, leases: Sequence[Lease]) -> None:
        """Give back from here: the event loop may be about to end."""
        self._hand_over(self._releases, leases)

    def end(self) -> None:
        """Send what was handed over, then end; leases are no longer renewed."""
        self._ending = True
        self._wake.set()

    def _hand_over(self, to: list[Lease], leases: Sequence[Lease]) -> None:
        if not leases or os.getpid() != self._pid:
            return
        with self._turn:
            to.extend(leases)
            self._ended.clear()
            self.start()
        self._wake.set()

    def _flush_at_exit(self) -> None:
        if os.getpid() == self._pid and self._thread is not None:
            self.end()
            self._ended.wait(_FLUSH_AT_EXIT)

    # --- the thread ---

    def _run(self) -> None:
        loop = _OwnLoop()
        link = Link(self._endpoint)
        try:
            self._keep(loop, link)
        except Exception:
            logger.exception("The lease keeper failed; leases run out from now on")
        finally:
            with contextlib.suppress(Exception):
                loop.run_until_complete(link.close())
                loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            self._leave()

    def _leave(self) -> None:
        with self._turn:
            if self._thread is threading.current_thread():
                self._thread = None
            if self._thread is None:
                atexit.unregister(self._flush_at_exit)
                self._ended.set()

    def _keep(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        due = time.monotonic() + self._interval
        give_up = None
        while True:
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            ending = self._ending or self._loop.is_closed()
            renew = time.monotonic() >= due and not ending
            answered = loop.run_until_complete(self._round(link, renew=renew))
            if ending:
                give_up = give_up or time.monotonic() + _FLUSH_AT_EXIT
                if self._may_end(give_up):
                    return
            due = self._next(due, renewed=renew, answered=answered)

    def _may_end(self, give_up: float) -> bool:
        """Whether all is sent, or has been tried for long enough; then the next hand-over starts a new thread."""
        with self._turn:
            left = len(self._acks) + len(self._releases)
            if left and time.monotonic() < give_up:
                return False
            if left:
                logger.warning(
                    "%d events could not be settled before the end; their leases run out", left, extra={"events": left}
                )
            self._thread = None
            return True

    def _next(self, due: float, *, renewed: bool, answered: bool) -> float:
        now = time.monotonic()
        if not answered:
            # After an outage every living process must have renewed before anybody may claim: ask often.
            return now + self._retry_cap * random.uniform(0.5, 1.0)
        return now + self._interval if renewed or due <= now else due

    async def _round(self, link: Link, *, renew: bool) -> bool:
        """Send what is due; False if the server did not answer."""
        try:
            await self._send_acks(link)
            await self._send_releases(link)
            if renew:
                await self._renew(link)
        except BackendError as error:
            logger.debug("The lease keeper got no answer: %s", error)
            return False
        return True

    async def _send_acks(self, link: Link) -> None:
        while chunk := self._acks[:_CHUNK]:
            await self._commands.ack_now(link, [lease.entry_id for lease in chunk])
            del self._acks[: len(chunk)]
            self._tell("acked", chunk)

    async def _send_releases(self, link: Link) -> None:
        while chunk := self._releases[:_CHUNK]:
            await self._commands.release(link, [(lease.entry_id, lease.count) for lease in chunk])
            del self._releases[: len(chunk)]
            self._tell("released", chunk)

    async def _renew(self, link: Link) -> None:
        oldest = time.monotonic() - self._max_lease
        held = self._leases.snapshot()
        expired = [lease for lease in held if lease.since < oldest]
        held = [lease for lease in held if lease.since >= oldest]
        lost: list[Lease] = []
        # Also with nothing to renew: it is a sign of life, by which others know that the server was there.
        for start in range(0, max(1, len(held)), _CHUNK):
            chunk = held[start : start + _CHUNK]
            pairs = [(lease.entry_id, lease.count) for lease in chunk]
            states = await self._commands.extend(link, pairs, timeout=self._timeout)
            lost += [lease for lease, state in zip(chunk, states, strict=True) if state == "lost"]
        self._tell("lost", lost)
        self._tell("expired", expired)

    def _tell(self, outcome: str, leases: Sequence[Lease]) -> None:
        report = self._report()
        if leases and report is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(report, outcome, leases)
