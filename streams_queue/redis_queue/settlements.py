"""Settling: acks in bulk, and the fenced ways to end or renew a delivery.

A lease is kept, and renewed by the keeper, until the server has confirmed its settlement.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from streams_queue.errors import BackendError, BackendTimeout, LeaseLost, StreamsQueueError
from streams_queue.observer import Observers
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.leases import Lease, Leases, Stage
from streams_queue.redis_queue.size import LocalSize

logger = logging.getLogger(__name__)

# An ack that no read takes along is sent after this many seconds.
ACK_DELAY = 0.005
_MAX_ACKS = 1000
_MAX_RELEASES = 500
# After these the queue no longer holds the event.
_LEFT = ("acked", "dead")


class Settlements:
    """Ends deliveries on the server, for one session.

    Attributes:
        is_idle: Whether a read is waiting for events, so that no other is about to take acks along; set by the reader.
    """

    def __init__(self, channel: Channel, leases: Leases, observers: Observers, size: LocalSize) -> None:
        self._channel = channel
        self._leases = leases
        self._observers = observers
        self._size = size
        self._acks: dict[str, Lease] = {}
        # Taken to be sent and neither confirmed nor put back; each list is the one that `take_acks` returned.
        self._under_way: list[list[Lease]] = []
        self._confirmations: dict[str, list[asyncio.Future[None]]] = {}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flush_at = 0.0
        self._flusher: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self.is_idle = False

    # --- ack ---

    def ack_soon(self, leases: Iterable[Lease]) -> None:
        """Note that these events are done; the next read takes the acks along, or a timer of 5 ms."""
        keep_all = self._observers.watch_each_settled
        for lease in leases:
            # Finished work needs no ownership: an ack also ends what was reclaimed by somebody else meanwhile.
            if self._leases.settling(lease) or lease.stage is Stage.LOST:
                self._acks[lease.entry_id] = lease
                # Its memory is still in the processor's caches; who hears of it when it is settled may want it.
                if not keep_all and lease.delivery is not None and not lease.delivery.headers:
                    lease.delivery = None
        if self._acks and (self._flush_timer is None or self.is_idle):
            self._flush_in(0.0 if self.is_idle else ACK_DELAY)

    async def ack(self, leases: Sequence[Lease], deadline: float) -> None:
        """Acknowledge and wait for the server's reply.

        Cancelled: The events are acknowledged all the same.

        Raises:
            BackendTimeout: No reply before the deadline; the acks are still being sent, and the leases kept meanwhile.
        """
        loop = asyncio.get_running_loop()
        self.ack_soon(leases)
        awaited = []
        for lease in leases:
            if lease.entry_id in self._acks or lease.entry_id in self._leases:
                awaited.append(confirmed := loop.create_future())
                self._confirmations.setdefault(lease.entry_id, []).append(confirmed)
        await self._until(awaited, deadline)

    async def confirmed(self, deadline: float) -> None:
        """Wait for the server's reply to all acks that wait or are on their way. Cancelled, Raises: as `ack`."""
        loop = asyncio.get_running_loop()
        awaited = []
        for lease in itertools.chain(self._acks.values(), *self._under_way):
            awaited.append(confirmed := loop.create_future())
            self._confirmations.setdefault(lease.entry_id, []).append(confirmed)
        await self._until(awaited, deadline)

    async def _until(self, awaited: Sequence[asyncio.Future[None]], deadline: float) -> None:
        if not awaited:
            return
        self._flush_in(0.0)
        _, late = await asyncio.wait(awaited, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if late:
            raise BackendTimeout("the acknowledgement was not confirmed in time; it is still being sent")

    def take_acks(self) -> list[Lease]:
        """Hand the acks that wait to a read that is about to go out; it confirms them or puts them back."""
        taken = list(self._acks.values())[:_MAX_ACKS]
        for lease in taken:
            del self._acks[lease.entry_id]
        if taken:
            self._under_way.append(taken)
        return taken

    def take_all_acks(self) -> list[Lease]:
        """Hand over all acks that wait, because this session can send no more."""
        taken = list(self._acks.values())
        self._acks.clear()
        return taken

    def confirm_acks(self, leases: list[Lease]) -> None:
        """The server knows: forget the leases that `take_acks` returned."""
        self._arrived(leases)
        if self._confirmations:
            for lease in leases:
                self._forget(lease, "acked")
        else:
            for lease in leases:
                self._leases.settled(lease)
            self._channel.last_held = max(0, self._channel.last_held - len(leases))
        if self._observers.watch_settled:
            told = [lease.delivery for lease in leases if lease.delivery is not None]
            self._observers.settled_together(len(leases), "acked", told)
        _let_go(leases)

    def put_acks_back(self, leases: list[Lease]) -> None:
        """The server may not know what `take_acks` returned: send them again, shortly."""
        self._wait_again(leases)
        self._flush_in(ACK_DELAY)

    def _arrived(self, leases: list[Lease]) -> None:
        # A request that failed half way is heard of twice: by who sent it, and by who was to get the reply.
        if leases in self._under_way:
            self._under_way.remove(leases)

    def _wait_again(self, leases: list[Lease]) -> None:
        self._arrived(leases)
        self._acks = {lease.entry_id: lease for lease in leases} | self._acks

    async def flush(self, timeout: float) -> bool:
        """Send all acks that wait; False if the server did not confirm them within `timeout` seconds."""
        if not self._acks and self._flusher is None:
            return True
        self._flush_in(0.0)
        await asyncio.sleep(0)
        if self._flusher is not None:
            await asyncio.wait([self._flusher], timeout=timeout)
        return not self._acks

    def _flush_in(self, delay: float) -> None:
        if self._flusher is not None:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        if self._flush_timer is not None:
            if self._flush_at <= due:
                return
            self._flush_timer.cancel()
        self._flush_timer, self._flush_at = loop.call_later(delay, self._start_flush), due

    def _start_flush(self) -> None:
        self._flush_timer = None
        if self._flusher is None and self._acks:
            self._flusher = asyncio.create_task(self._flush_all(), name="streams_queue.acks")

    async def _flush_all(self) -> None:
        backoff = self._channel.backoff()
        try:
            while taken := self.take_acks():
                try:
                    await self._channel.commands.ack_now(self._channel.requests, [lease.entry_id for lease in taken])
                except BackendError as error:
                    self._channel.failed(error)
                    self._wait_again(taken)
                    await asyncio.sleep(backoff.next())
                except BaseException:
                    self._wait_again(taken)
                    raise
                else:
                    self.confirm_acks(taken)
        finally:
            self._flusher = None

    def ended(self, lease: Lease, settled_as: str) -> None:
        """The server has confirmed a settlement: forget the lease, and wake who waits for it."""
        self._forget(lease, settled_as)
        if lease.delivery is not None and self._observers.watch_settled:
            self._observers.settled(lease.delivery, settled_as)
        _let_go((lease,))

    def _forget(self, lease: Lease, settled_as: str) -> None:
        self._leases.settled(lease)
        if settled_as in _LEFT:
            self._channel.last_held = max(0, self._channel.last_held - 1)
        for future in self._confirmations.pop(lease.entry_id, ()):
            if not future.done():
                future.set_result(None)

    # --- the fenced settlements ---

    async def nack(self, lease: Lease, *, delay: float, deadline: float, counted: bool = True) -> None:
        """Put the event back after `delay` seconds. Raises LeaseLost."""
        self._begin(lease)
        await self._to_the_end(self._nack(lease, delay, deadline, counted))

    async def _nack(self, lease: Lease, delay: float, deadline: float, counted: bool) -> None:
        outcome = await self._attempt_until(
            lease,
            lambda: self._channel.commands.nack(
                self._channel.requests, lease.entry_id, lease.count, delay=delay, counted=counted
            ),
            deadline,
        )
        self._conclude(lease, outcome, "retried")
        if delay == 0:
            self._size.add(1)

    async def dead_letter(self, lease: Lease, *, reason: str, error: str, deadline: float) -> None:
        """Bury the event; where the dead letters are full and refuse, it is tried again later. Raises LeaseLost."""
        self._begin(lease)
        await self._to_the_end(self._dead_letter(lease, reason, error, deadline))

    async def _dead_letter(self, lease: Lease, reason: str, error: str, deadline: float) -> None:
        outcome = await self._attempt_until(
            lease,
            lambda: self._channel.commands.dead_letter(
                self._channel.requests, lease.entry_id, lease.count, reason=reason, error=error
            ),
            deadline,
        )
        event_id = lease.delivery.event_id if lease.delivery else lease.entry_id
        if outcome == "refused":
            stream = self._channel.commands.keys.stream
            logger.error(
                "The dead letters of %s are full: event %s is tried again later",
                stream,
                event_id,
                extra={"stream": stream, "event_id": event_id},
            )
            self._conclude(lease, "held", "retried")
            return
        self._conclude(lease, outcome, "dead")
        self._observers.dead(event_id, reason)

    async def release(self, leases: Sequence[Lease], *, deadline: float) -> None:
        """Give events back untouched; what is not held any more is passed over."""
        held = [lease for lease in leases if self._leases.settling(lease)]
        for start in range(0, len(held), _MAX_RELEASES):
            chunk = held[start : start + _MAX_RELEASES]
            try:
                states = await self._channel.retry(
                    lambda chunk=chunk: self._channel.commands.release(  # type: ignore[misc]
                        self._channel.requests, [(lease.entry_id, lease.count) for lease in chunk]
                    ),
                    deadline=deadline,
                )
            except BackendError:
                for lease in held[start:]:
                    self.disown(lease)
                raise
            for lease, state in zip(chunk, states, strict=True):
                self._conclude_release(lease, state)

    async def extend(self, leases: Sequence[Lease], *, deadline: float) -> list[Lease]:
        """Renew leases; returns those that are no longer held."""
        states = await self._channel.retry(
            lambda: self._channel.commands.extend(
                self._channel.requests,
                [(lease.entry_id, lease.count) for lease in leases],
                timeout=self._channel.commands.timeout,
            ),
            deadline=deadline,
        )
        lost = [lease for lease, state in zip(leases, states, strict=True) if state != "held"]
        for lease in leases:
            lease.since = time.monotonic()
        for lease in lost:
            self.lost(lease)
        return lost

    def lost(self, lease: Lease) -> None:
        """Note that somebody else holds the entry now, or nobody does."""
        if self._leases.lost(lease):
            self._is_gone(lease)

    def disown(self, lease: Lease) -> None:
        """Hold an event no longer, without settling it: its lease runs out, and it is reclaimed."""
        if self._leases.disown(lease):
            self._is_gone(lease)

    def _is_gone(self, lease: Lease) -> None:
        if lease.entry_id in self._confirmations:
            # Somebody waits for an ack: finished work needs no ownership.
            self._acks[lease.entry_id] = lease
            self._flush_in(0.0)
        if lease.delivery is not None:
            lease.delivery.lease_lost = True
            self._observers.lease_lost(lease.delivery)

    def _begin(self, lease: Lease) -> None:
        if not self._leases.settling(lease):
            raise LeaseLost

    async def _to_the_end(self, settlement: Coroutine[Any, Any, None]) -> None:
        """Run a settlement to its end, even if the caller is cancelled."""
        await asyncio.shield(self.run(settlement))

    async def _attempt_until(self, lease: Lease, attempt: Any, deadline: float) -> str:
        unknown = False

        async def once() -> str:
            nonlocal unknown
            try:
                word: str = await attempt()
            except BackendTimeout:
                unknown = True
                raise
            # A first copy whose reply was lost may have settled it: then it is gone, and that was us.
            return "held" if unknown and word == "gone" else word

        try:
            return await self._channel.retry(once, deadline=deadline)
        except BackendError:
            self.disown(lease)
            raise

    def _conclude(self, lease: Lease, outcome: str, settled_as: str) -> None:
        if outcome != "held":
            self.lost(lease)
            raise LeaseLost
        self.ended(lease, settled_as)

    def _conclude_release(self, lease: Lease, state: str) -> None:
        if state == "lost":
            self.lost(lease)
            return
        self.ended(lease, "released")
        if state == "held":
            self._size.add(1)

    # --- what nobody waits for ---

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a settlement as a task of the session, which outlives its caller."""
        task = asyncio.create_task(coroutine, name="streams_queue.settle")
        self._background.add(task)
        task.add_done_callback(self._ran)
        return task

    def _ran(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            # Looked at here, in case that the caller is gone.
            task.exception()

    def in_background(self, coroutine: Coroutine[Any, Any, Any], what: str) -> None:
        """Run a settlement that nobody waits for; a failure is logged, the lease then runs out by itself."""

        async def guarded() -> None:
            try:
                await coroutine
            except LeaseLost:
                logger.warning("Could not %s: somebody else holds the event by now", what, extra={"settlement": what})
            except StreamsQueueError as error:
                logger.warning(
                    "Could not %s (%s); its lease will run out",
                    what,
                    error,
                    extra={"settlement": what, "error": str(error)},
                )

        _ = self.run(guarded())

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that are under way."""
        return [*self._background, *([self._flusher] if self._flusher is not None else [])]

    async def wait_for_background(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the settlements that are under way."""
        if self._background:
            await asyncio.wait(list(self._background), timeout=timeout)

    def close(self) -> None:
        """Stop at once."""
        for task in self.tasks():
            task.cancel()
        if self._flush_timer is not None:
            self._flush_timer.cancel()


def _let_go(leases: Iterable[Lease]) -> None:
    """Forget what was handed out: it knows its lease, and without the way back both go with the last who holds them."""
    for lease in leases:
        lease.delivery = None
