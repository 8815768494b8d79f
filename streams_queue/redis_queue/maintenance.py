"""Housekeeping of a consuming session: promote what is due, claim what crashed consumers left, remove dead consumers.

Every consuming process does it; the script lets only one per interval sweep the pending entries for the whole fleet.
See docs/decisions/0005-reclaim.md.
"""

from __future__ import annotations

import asyncio
import logging

from streams_queue.config import Settings
from streams_queue.errors import BackendError, BackendTimeout
from streams_queue.observer import Observers
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.commands import Maintained
from streams_queue.redis_queue.entries import shown_id
from streams_queue.redis_queue.leases import Leases
from streams_queue.redis_queue.reader import Reader

logger = logging.getLogger(__name__)

# A round is also how a process learns of a pause and of its end, which is to be within a second. More often, and an
# idle worker would send more than two commands a second.
SWEEP_INTERVAL = 0.8
# With a short lease, so that what a crash left starts again soon after it: where the last one to sweep was the one that
# crashed, two intervals may pass.
_SWEEPS_PER_LEASE = 8


def sweep_interval(lease: float) -> float:
    """Return how often a fleet looks for expired leases, in seconds; of leases of so many."""
    return min(SWEEP_INTERVAL, lease / _SWEEPS_PER_LEASE)


def prune_after(lease: float) -> float:
    """Return for how many seconds a consumer without a sign of life is left in the group."""
    return max(300.0, 10 * lease)


class Maintenance:
    """A task that keeps the queue in order while this session consumes."""

    def __init__(
        self, channel: Channel, leases: Leases, reader: Reader, settings: Settings, observers: Observers
    ) -> None:
        self._channel = channel
        self._leases = leases
        self._reader = reader
        self._observers = observers
        self._interval = sweep_interval(settings.lease)
        self._prune_after = prune_after(settings.lease)
        self._drain_for = max(1.0, settings.lease)
        self._more = False
        self._activity = (0, 0)
        self._asked = False
        self._drain_until = 0.0
        self._drain_again_at = 0.0
        self._ran_alone = False
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task, once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="streams_queue.maintenance")

    def hungry(self) -> None:
        """Callers may be waiting: if a sweep has left something to claim for them, do not wait for the next one."""
        if (self._more or self._drain_until) and self._reader.free_slots() > 0:
            self._kicked.set()

    def kick(self) -> None:
        """Do the next round now."""
        self._kicked.set()

    def due_in(self, seconds: float) -> None:
        """An event was put back that is due in so many seconds: look again then, if that is before the next round."""
        if seconds < self._interval:
            asyncio.get_running_loop().call_later(seconds, self.kick)

    def close(self) -> None:
        """Stop at once."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            wait = self._interval
            try:
                done = await self._round()
                self._channel.outage.ended()
                wait = self._judge(done)
                if done.strays:
                    await self._reader.recover()
            except BackendError as error:
                self._channel.failed(error)
                if isinstance(error, BackendTimeout):
                    await self._reader.recover()
            except Exception:
                logger.exception("Housekeeping failed in a way that it should not; going on")
            await self._sleep(wait)

    async def _round(self) -> Maintained:
        await self._channel.open()
        # A consumer with a long backlog never waits, so it has no free slot: it makes one if there is something to
        # claim. One that is stuck leaves the sweep to others.
        moved_on = self._reader.activity != self._activity
        self._activity = self._reader.activity
        slots = self._reader.free_slots()
        self._asked = slots > 0 or moved_on
        return await self._channel.commands.maintain(
            self._channel.requests,
            slots=slots,
            empty=self._leases.in_hand == 0,
            go_on=self._more or self._drain_until > 0,
            interval=self._interval,
            prune_after=self._prune_after,
            look_anyway=moved_on,
            disowned=self._leases.disowned(),
        )

    def _judge(self, done: Maintained) -> float:
        """Act on what the round found; return how many seconds to wait for the next one."""
        self._channel.last_held = done.held
        self._leases.forget_disowned(done.taken_over)
        self._reader.pause("delivery" in done.paused)
        self._report(done)
        self._decide_on_draining(done)
        if done.entries:
            self._observers.reclaimed(len(done.entries))
            self._reader.claimed(done.entries, alone=done.alone)
        if self._asked:
            # While everybody is given time to renew, there is nothing to claim, and nothing to wait for.
            self._more = done.more
        self._reader.put_claims_first(self._more)
        if self._more and self._reader.free_slots() > 0:
            return 0.0
        return self._interval if done.next_due is None else min(self._interval, done.next_due)

    def _report(self, done: Maintained) -> None:
        if done.lost:
            logger.error(
                "%d pending events had been deleted from the stream behind the queue's back",
                done.lost,
                extra={"events": done.lost},
            )
            self._observers.lost(done.lost, "deleted")
        for event_id in done.buried:
            logger.warning(
                "Event %s goes to the dead letters: its consumers died",
                shown_id(event_id),
                extra={"event_id": shown_id(event_id)},
            )
            self._observers.dead(event_id, "crashed")
        if done.refused:
            logger.error("Dead letters are full: %d events stay delayed", done.refused, extra={"events": done.refused})

    def _decide_on_draining(self, done: Maintained) -> None:
        """What crashed its consumers runs alone: empty our hands for it, for a while, then serve the others."""
        now = asyncio.get_running_loop().time()
        suspects = done.waits_alone or done.alone
        if self._drain_until:
            self._ran_alone |= done.alone
            if not suspects or now >= self._drain_until:
                self._end_draining(now, suspects)
        elif done.waits_alone and now >= self._drain_again_at:
            self._drain_until, self._ran_alone = now + self._drain_for, False
            self._reader.drain(True)

    def _end_draining(self, now: float, suspects: bool) -> None:
        # Where a hung handler kept us from it, trying again soon would only starve the others.
        pause = self._drain_for if self._ran_alone else 4 * self._drain_for
        self._drain_again_at = now + pause if suspects else now
        self._drain_until = 0.0
        self._reader.drain(False)

    async def _sleep(self, wait: float) -> None:
        self._kicked.clear()
        if self._drain_until and self._leases.in_hand == 0:
            wait = min(wait, 0.02)
        if wait <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait):
                await self._kicked.wait()
        except TimeoutError:
            pass
