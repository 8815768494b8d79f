"""To which of two queues an event id belongs: its event is held once, although the share changed between two sends.

The old queue keeps the list: an id that it has not seen is ceded before the event is sent to the new one, and is a
duplicate in the old one from then on. One script does both looking and ceding, so that of two processes with different
shares only one gets its way. See docs/decisions/0111-each-event-once.md.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from streams_queue.breaker import Breaker, BreakerPolicy, Closed, allow, failure, success
from streams_queue.errors import BackendError, StateError
from streams_queue.redis_client import passes
from streams_queue.two_queues import Side

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Call:
    """One caller's ids, and the future on which it waits."""

    event_ids: Sequence[str]
    answer: asyncio.Future[list[bool] | None]

    def end(self, ceded: list[bool] | None) -> None:
        """Let the caller go on, unless it has gone."""
        if not self.answer.done():
            self.answer.set_result(ceded)

    def fail(self, error: Exception) -> None:
        """Raise a copy of the error in the caller: a shared one would collect the tracebacks of all."""
        if not self.answer.done():
            self.answer.set_exception(copy.copy(error))


class Ownership:
    """Asks the old queue; while that cannot be reached, the new one takes events all the same.

    Args:
        old: Keeps the list.
        new: Must not be the same queue under another address: then whatever is ceded would be a duplicate there.
        policy: How often it is asked while it cannot be reached.
    """

    def __init__(self, old: Side, new: Side, policy: BreakerPolicy) -> None:
        self._old = old
        self._new = new
        self._are_two = False
        self._policy = policy
        self._breaker: Breaker = Closed()
        self._forming: list[_Call] = []
        self._asking: asyncio.Task[None] | None = None

    async def cede(self, event_ids: Sequence[str]) -> list[bool] | None:
        """Tell for each id whether its event is to go to the new queue; False: the old one has it.

        None where there is no answer: a backend that has failed must not keep the other from taking events. Callers
        that come while a question is on its way ask the next one together.

        Cancelled: The ids may be ceded or not.

        Raises:
            BackendRejected: The old server refuses for good.
            StateError: The two are one.
        """
        call = _Call(event_ids, asyncio.get_running_loop().create_future())
        self._forming.append(call)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_all(), name="streams_queue.rollout.cede")
        return await call.answer

    async def _ask_for_all(self) -> None:
        while self._forming:
            calls, self._forming = self._forming, []
            try:
                ceded = await self._cede([event_id for call in calls for event_id in call.event_ids])
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                for call in calls:
                    call.fail(error)
            else:
                answers = iter(ceded or ())
                for call in calls:
                    call.end(None if ceded is None else list(itertools.islice(answers, len(call.event_ids))))
            finally:
                for call in calls:
                    call.answer.cancel()

    async def _cede(self, event_ids: Sequence[str]) -> list[bool] | None:
        if not self._allowed():
            return None
        try:
            await self._check()
            ceded = await self._old.cede(event_ids)
        except BackendError as error:
            if not passes(error):
                raise
            self._failed(error)
            return None
        self._breaker = success(self._breaker)
        return ceded

    async def cede_refused(self, event_ids: Sequence[str]) -> list[bool]:
        """Tell for each id that the old queue has just refused as a duplicate whether its event belongs to the new one.

        Raises:
            BackendError: The old server did not answer; the event may be held or not.
        """
        return await self._old.cede(event_ids, refused=True)

    async def take_back(self, event_ids: Sequence[str]) -> None:
        """Let ids go to either queue again whose events the new one did not take; if that fails they stay with it."""
        try:
            await self._old.take_back(event_ids)
        except BackendError as error:
            logger.debug("%d event ids stay with the new queue, which did not take them (%s)", len(event_ids), error)

    async def _check(self) -> None:
        """See once that the two are not one; while the new one cannot be reached it takes nothing, and may be."""
        if self._are_two:
            return
        old = await self._old.lifetime()
        try:
            new = await self._new.lifetime()
        except BackendError:
            return
        if old == new:
            raise StateError("the old and the new queue of the rollout are one queue, or one is a copy of the other")
        self._are_two = True

    def _allowed(self) -> bool:
        allowed, self._breaker = allow(self._breaker, asyncio.get_running_loop().time(), self._policy)
        return allowed

    def _failed(self, error: BackendError) -> None:
        if isinstance(self._breaker, Closed):
            logger.warning(
                "The old queue of a rollout cannot be asked for event ids (%s); the new one takes events that the old "
                "one may have",
                error,
                extra={"error": str(error)},
            )
        now = asyncio.get_running_loop().time()
        self._breaker = failure(self._breaker, now, self._policy, jitter=random.random())
