"""The way back: one task tries the server again, moves what is held, and ends the fallback after the last reply."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import tenacity

from streams_queue.breaker import Breaker, BreakerPolicy, Closed, allow, failure, success
from streams_queue.errors import BackendError, BackendRejected
from streams_queue.observer import Observers
from streams_queue.redis_queue import RedisEventQueue
from streams_queue.resilient_queue.holding import Holding

logger = logging.getLogger(__name__)

_FULL_WAIT = 0.25


def goes_local(error: BackendError) -> bool:
    """Tell whether an event may be held locally for this error: unreachable, no answer, or a refusal that passes."""
    return error.retryable or (isinstance(error, BackendRejected) and error.passing)


def _passes(error: BaseException) -> bool:
    return isinstance(error, BackendError) and goes_local(error)


@dataclass(slots=True)
class _Outage:
    """One stretch of time in which new events are held locally.

    Attributes:
        answers: The server answers, if only to refuse; it can be asked at no cost whether it takes events again.
        moved_before: How many events had gone from here to the server when it began.
        warned: A failure of the server was logged.
        reported: An error that does not pass was logged.
    """

    answers: bool
    moved_before: int
    warned: bool = False
    reported: bool = False


class Recovery:
    """Knows whether new events are held locally, and moves them to Redis when it takes them again.

    Args:
        redis: The queue to which they go.
        holding: What is held.
        observers: Are told when the fallback begins and ends.
        policy: How often the server is tried.
        on_change: Called when the fallback has begun or ended.
    """

    def __init__(
        self,
        redis: RedisEventQueue,
        holding: Holding,
        observers: Observers,
        policy: BreakerPolicy,
        on_change: Callable[[], None],
    ) -> None:
        self._redis = redis
        self._holding = holding
        self._observers = observers
        self._policy = policy
        self._on_change = on_change
        self._breaker: Breaker = Closed()
        self._outage: _Outage | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        """Whether new events are held locally."""
        return self._outage is not None

    @property
    def unreachable(self) -> bool:
        """Whether asking the server anything would take long and fail."""
        return self._outage is not None and not self._outage.answers

    def lets_through(self) -> bool:
        """Decide whether a new event may try Redis now.

        While the fallback is on, only if the server had refused, nothing is held that the event would overtake, and the
        breaker's time is up: reading from such a server would not show whether it takes writes again.
        """
        if self._outage is None:
            return True
        return self._outage.answers and self._holding.is_empty() and self._allowed()

    def succeeded(self) -> None:
        """Note that Redis took something; if nothing is left to move, it takes over."""
        if self._outage is not None and self._holding.is_empty():
            self._end(self._outage)

    def failed(self, error: BackendError) -> None:
        """Note that Redis did not take an event: the fallback begins, unless it is on."""
        outage = self._begin(str(error))
        outage.answers = isinstance(error, BackendRejected)
        if not outage.warned:
            outage.warned = True
            logger.warning(
                "Falling back to asyncio queue (%s); %s", error, self._holding.words, extra={"error": str(error)}
            )
        self._trip()

    def found(self) -> None:
        """Note that there are events of a process that has ended: they go before whatever comes in now."""
        if not self._holding.is_empty():
            self._begin("events of a process that has ended go first")
            self.work()

    def _begin(self, reason: str) -> _Outage:
        if self._outage is None:
            self._outage = _Outage(answers=True, moved_before=self._holding.moved)
            self._observers.fallback_on(reason)
            self._on_change()
        return self._outage

    def work(self) -> None:
        """Note that there is something to move; starts the task that does it."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="streams_queue.recovery")

    async def finish(self, seconds: float) -> None:
        """Stop the task, and try for so long to move what is still held."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        # The first error may be that of an attempt that began before the server was back: others share it.
        persistently = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_passes), wait=tenacity.wait_random_exponential(0.02, max=0.25)
        )
        try:
            async with asyncio.timeout(seconds):
                await persistently(self._move_the_rest)
        except (TimeoutError, BackendError) as error:
            logger.debug("Not everything could be moved before the end (%s)", error)
        except Exception:
            logger.exception("Not everything could be moved before the end")

    # --- the task ---

    async def _run(self) -> None:
        """Move everything; ends when nothing is left and the server takes events again, or a new one is to ask it."""
        while self.unreachable or not self._holding.is_empty():
            await self._until_allowed()
            try:
                goes_on = await self._step()
            except BackendError as error:
                self._failed_to_move(error)
            except Exception:
                logger.exception("Moving events to Redis failed; trying again")
                self._trip()
            else:
                self._breaker = success(self._breaker)
                if not goes_on:
                    await asyncio.sleep(_FULL_WAIT)

    async def _move_the_rest(self) -> None:
        """Move everything, or as much as the server has room for."""
        while not self._holding.is_empty() and await self._step():
            pass

    async def _step(self) -> bool:
        """Move some events, or ask the server if there are none; False if it has no room for the next one."""
        if self._holding.is_empty():
            await self._redis.get_queue_depth()
        elif not await self._holding.move_some():
            return False
        self.succeeded()
        return True

    def _end(self, outage: _Outage) -> None:
        self._breaker = Closed()
        self._outage = None
        moved = self._holding.moved - outage.moved_before
        logger.warning(
            "Redis takes over again; %d events that were held locally have moved to it", moved, extra={"events": moved}
        )
        self._observers.fallback_off(moved)
        self._on_change()

    def _failed_to_move(self, error: BackendError) -> None:
        if goes_local(error):
            self.failed(error)
            return
        self._trip()
        if self._outage is not None and not self._outage.reported:
            self._outage.reported = True
            logger.error(
                "The events that are held locally cannot be moved (%s); trying until they can",
                error,
                extra={"error": str(error)},
            )

    # --- the breaker ---

    async def _until_allowed(self) -> None:
        while not self._allowed():
            until = 0.0 if isinstance(self._breaker, Closed) else self._breaker.until
            await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))

    def _allowed(self) -> bool:
        allowed, self._breaker = allow(self._breaker, asyncio.get_running_loop().time(), self._policy)
        return allowed

    def _trip(self) -> None:
        now = asyncio.get_running_loop().time()
        self._breaker = failure(self._breaker, now, self._policy, jitter=random.random())
