"""From which of two queues the next events are taken: the old one first, but neither is starved nor kept waiting."""

from __future__ import annotations

import asyncio
import logging
import math

from streams_queue.errors import BackendError
from streams_queue.messages import Delivery
from streams_queue.two_queues import Side

logger = logging.getLogger(__name__)

# One call in so many looks into the new queue first.
_NEW_FIRST_EVERY = 4
# A queue that is passed over because nothing of it is here is asked again after so many seconds.
_ASK_AFTER = 0.02
# So long it may take to answer, before the other queue's events are handed out all the same.
_ANSWER_WITHIN = 0.05
# A queue that has refused is tried again after so many seconds.
_TRY_AGAIN_AFTER = 1.0


class _Source:
    """One of the two queues, and what is known of it here.

    Attributes:
        name: For the log.
        asked_at: When it last said what it has, by the event loop's clock.
        again_at: Not to be asked before that.
        refusal: What it said; None while it works.
        asking: A look that is under way.
    """

    def __init__(self, name: str, queue: Side) -> None:
        self.name = name
        self.queue = queue
        self.asked_at = self.again_at = -math.inf
        self.refusal: BackendError | None = None
        self.asking: asyncio.Task[None] | None = None

    async def wait(self, seconds: float, slots: int) -> None:
        """Wait for events; an error is kept, so that it does not stop the other queue."""
        try:
            await self.queue.wait_for_arrival(seconds, slots=slots)
        except BackendError as error:
            self._refused(error)
        else:
            self.refusal = None
            if seconds <= 0:
                self.asked_at = asyncio.get_running_loop().time()

    def _refused(self, error: BackendError) -> None:
        if self.refusal is None:
            logger.error(
                "The %s queue of a rollout hands out nothing (%s); the other one goes on",
                self.name,
                error,
                extra={"queue": self.name, "error": str(error)},
            )
        self.refusal = error
        self.again_at = asyncio.get_running_loop().time() + _TRY_AGAIN_AFTER

    def is_due(self) -> bool:
        """Whether it was not asked for a while, and may be asked now."""
        now = asyncio.get_running_loop().time()
        return now >= max(self.asked_at + _ASK_AFTER, self.again_at) and (self.asking is None or self.asking.done())

    async def ask(self, slots: int) -> None:
        """Ask what it has, and wait for the answer only so long."""
        self.asking = asyncio.create_task(self.wait(0.0, slots), name="streams_queue.rollout.ask")
        await asyncio.wait([self.asking], timeout=_ANSWER_WITHIN)


class Turns:
    """Takes and waits.

    Args:
        old: Goes first.
        new: Gets its turn all the same.
    """

    def __init__(self, old: Side, new: Side) -> None:
        self._sources = _Source("old", old), _Source("new", new)
        self._turn = 0

    async def take(self, max_events: int, max_bytes: float) -> tuple[Side, list[Delivery]]:
        """Take events of one queue that are here; a queue is not passed over before it was asked.

        Cancelled: Nothing is taken.
        """
        self._turn = (self._turn + 1) % _NEW_FIRST_EVERY
        first, second = self._sources if self._turn else reversed(self._sources)
        taken = first.queue.take_arrived(max_events, max_bytes)
        if not taken and second.queue.has_arrived() and first.is_due():
            await first.ask(max_events)
            taken = first.queue.take_arrived(max_events, max_bytes)
        if taken:
            return first.queue, taken
        return second.queue, second.queue.take_arrived(max_events, max_bytes)

    async def wait(self, seconds: float, slots: int) -> None:
        """Wait until one of the queues may have something, at most `seconds`; with 0 ask both once.

        Cancelled: Nothing is taken.

        Raises:
            BackendRejected, StateError: Both queues refuse.
        """
        now = asyncio.get_running_loop().time()
        sources = [source for source in self._sources if now >= source.again_at]
        if len(sources) < len(self._sources):
            seconds = min(seconds, _TRY_AGAIN_AFTER)
        waiting = {
            asyncio.create_task(source.wait(seconds, slots), name="streams_queue.rollout.wait") for source in sources
        }
        try:
            while waiting:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self._may_go_on(seconds, sources):
                    break
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        self._check()

    def _may_go_on(self, seconds: float, sources: list[_Source]) -> bool:
        """Whether the caller has something to take, or has waited; that one queue refuses is no reason to stop."""
        if any(source.queue.has_arrived() for source in self._sources):
            return True
        return seconds > 0 and not any(source.refusal for source in sources)

    def _check(self) -> None:
        refusals = [source.refusal for source in self._sources if source.refusal is not None]
        if len(refusals) == len(self._sources):
            raise refusals[0]

    def close(self) -> None:
        """Stop what is under way."""
        for source in self._sources:
            if source.asking is not None:
                source.asking.cancel()
