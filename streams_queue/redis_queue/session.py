"""A session: everything of a queue that belongs to one process and one event loop.

Connections, consumer name, producer id, buffers and the keeper's thread cannot be shared with a forked child nor with a
second event loop; the queue simply makes another session there. A session does not hold its queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterable, Sequence

from streams_queue.codec import Codec
from streams_queue.config import Settings
from streams_queue.errors import BackendError
from streams_queue.observer import Observers
from streams_queue.redis_client import Endpoint
from streams_queue.redis_queue.channel import Channel, backoff_cap
from streams_queue.redis_queue.commands import StreamCommands
from streams_queue.redis_queue.durability import level_of
from streams_queue.redis_queue.keeper import Keeper
from streams_queue.redis_queue.leases import Lease, Leases
from streams_queue.redis_queue.maintenance import Maintenance
from streams_queue.redis_queue.producer import Producer
from streams_queue.redis_queue.reader import Reader
from streams_queue.redis_queue.settlements import Settlements
from streams_queue.redis_queue.size import LocalSize

logger = logging.getLogger(__name__)

# How long an orderly end waits for the server, altogether about three times this.
_GRACE = 2.0


def new_consumer_name() -> str:
    """Return a name that no earlier or later session has: a reused one would hide a dead predecessor's entries."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Session:
    """Composes the parts; each of them has one duty.

    Attributes:
        consumer: The name under which the server knows this session.
        loop: The event loop to which it belongs.
    """

    def __init__(
        self, settings: Settings, endpoint: Endpoint, codec: Codec, observers: Observers, size: LocalSize
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.consumer = new_consumer_name()
        attempt_timeout = min(2.0, settings.enqueue_timeout / 3)
        self.commands = StreamCommands(settings, self.consumer, timeout=attempt_timeout, observers=observers)
        self.channel = Channel(endpoint, self.commands, observers, backoff_cap=backoff_cap(settings.lease))
        self.leases = Leases()
        self.settlements = Settlements(self.channel, self.leases, observers, size)
        self.producer = Producer(
            self.channel, observers, settings, size=size, attempt_timeout=attempt_timeout, level=level_of(settings)
        )
        self.reader = Reader(
            self.channel,
            self.leases,
            self.settlements,
            settings,
            codec=codec,
            observers=observers,
            size=size,
            session=self,
        )
        self.maintenance = Maintenance(self.channel, self.leases, self.reader, settings, observers)
        self.keeper = Keeper(
            endpoint,
            self.commands,
            self.leases,
            lease=settings.lease,
            max_lease=settings.max_lease,
            loop=self.loop,
            report=self._keeper_reports,
        )
        self.leases.on_room = self._room
        self.reader.on_hunger = self.maintenance.hungry
        # A consumer that comes while handing out is paused must not begin before its first round of housekeeping.
        self.channel.on_opened = lambda paused: self.reader.pause("delivery" in paused)
        self.is_over = False
        self._lifetime: asyncio.Task[None] | None = asyncio.create_task(self._live(), name="streams_queue.session")

    def start_consuming(self) -> None:
        """Begin with what only a consumer needs: housekeeping and the keeper's thread."""
        self.maintenance.start()
        self.keeper.start()

    def ack_soon(self, leases: Sequence[Lease]) -> None:
        """Acknowledge with the next read or within milliseconds; through the keeper once the event loop is ending."""
        if self.is_over:
            self.ack_at_task_end(leases)
        else:
            self.settlements.ack_soon(leases)

    def ack_at_task_end(self, leases: Sequence[Lease]) -> None:
        """Acknowledge although the event loop may be about to close."""
        self.keeper.ack([lease for lease in leases if self.leases.settling(lease)])

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Release in the background."""
        if self.loop.is_closed() or self.is_over:
            self.keeper.release([lease for lease in leases if self.leases.settling(lease)])
            return
        release = self.settlements.release(leases, deadline=self.loop.time() + _GRACE)
        self.settlements.in_background(release, f"give {len(leases)} events back")

    async def finish(self) -> None:
        """End in order: take no more, confirm what is done, give the rest back, leave the group, close.

        Redis: a handful of round trips, bounded to a few seconds if the server does not answer.
        """
        self.is_over = True
        lifetime = self._lifetime
        try:
            await self.producer.finish(_GRACE)
            self.maintenance.close()
            await self.reader.stop()
            async with asyncio.timeout(3 * _GRACE):
                await self._hand_everything_back()
        except (TimeoutError, BackendError) as error:
            logger.warning(
                "Could not leave in order (%s); leases run out by themselves",
                error or "no answer",
                extra={"error": str(error)},
            )
        finally:
            if lifetime is not None:
                lifetime.cancel()
        if lifetime is not None:
            await asyncio.wait([lifetime])

    async def _hand_everything_back(self) -> None:
        if self.reader.has_read or len(self.leases):
            deadline = self.loop.time() + _GRACE
            await self.settlements.flush(_GRACE)
            await self.settlements.wait_for_background(_GRACE)
            await self.settlements.release(self.leases.snapshot(), deadline=deadline)
            await self._release_what_arrived_late(deadline)
        if self.channel.requests.is_open:
            await self.commands.leave(self.channel.requests, self.producer.id)

    async def _release_what_arrived_late(self, deadline: float) -> None:
        """Give back what the server handed out and no reply brought here."""
        adopted = await self.commands.adopt(self.channel.requests, self.leases.ids(), limit=1000)
        late = [Lease(self, entry_id, count) for entry_id, count, _ in adopted.entries]
        for lease in late:
            self.leases.hold(lease)
        await self.settlements.release(late, deadline=deadline)

    def abandon(self) -> None:
        """The queue was dropped without cleanup: stop everything, from any thread."""
        self.is_over = True
        self.keeper.end()
        if self._lifetime is not None and not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(self._lifetime.cancel)
            except RuntimeError:
                logger.debug("The event loop was closed meanwhile")

    async def _live(self) -> None:
        """Wait for the end, also that of the event loop, which cancels all tasks; then leave nothing open behind."""
        try:
            await self.loop.create_future()
        finally:
            self.is_over = True
            self._close_parts()
            try:
                if ending := [*self.settlements.tasks(), *self.reader.tasks()]:
                    # What they had taken to send goes back first.
                    await asyncio.wait(ending, timeout=1.0)
            finally:
                # A dropped queue's end may be followed at once by that of the loop, which cancels this a second time.
                self._pass_to_keeper()
                await self.channel.close()
                # Its error's traceback would keep alive whatever was cancelled together with it.
                self._lifetime = None

    def _close_parts(self) -> None:
        self.producer.close()
        self.maintenance.close()
        self.reader.close()
        self.settlements.close()

    def _pass_to_keeper(self) -> None:
        """Let the keeper send what the event loop no longer can: acks, and what nobody has begun."""
        self.keeper.ack(self.settlements.take_all_acks())
        self.keeper.release([lease for lease in self.reader.take_buffer() if self.leases.settling(lease)])
        self.keeper.end()

    def _room(self) -> None:
        """Nothing is in hand any more."""
        self.maintenance.hungry()
        self.reader.resume_reading()

    def _keeper_reports(self, outcome: str, leases: Iterable[Lease]) -> None:
        for lease in leases:
            if outcome == "lost":
                logger.warning(
                    "Event %s was claimed by another consumer", _name(lease), extra={"event_id": _name(lease)}
                )
                self.settlements.lost(lease)
            elif outcome == "expired":
                logger.warning(
                    "Event %s was held longer than max_lease; others may claim it now",
                    _name(lease),
                    extra={"event_id": _name(lease)},
                )
                self.settlements.disown(lease)
            else:
                self.settlements.ended(lease, outcome)


def _name(lease: Lease) -> str:
    return lease.delivery.event_id if lease.delivery is not None else lease.entry_id
