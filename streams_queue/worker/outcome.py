"""What became of a run of a handler, and what the queue is told about it: pure, so that each case is one test."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from enum import StrEnum

from streams_queue.errors import Reject, RetryLater

MAX_ERROR_CHARS = 500


@dataclass(slots=True)
class WorkerCounts:
    """What became of the events that a worker has taken.

    Attributes:
        processed: The handler returned; acknowledged.
        failed: It raised; handed back, to be retried or buried by the queue's policy.
        rejected: It raised Reject; now a dead letter.
        postponed: It raised RetryLater; handed back with that delay.
        timed_out: It ran longer than handler_timeout; handed back as a failure.
        lease_lost: The event had gone to somebody else before it could be settled.
        released: Given back unfinished, because the worker was stopped.
    """

    processed: int = 0
    failed: int = 0
    rejected: int = 0
    postponed: int = 0
    timed_out: int = 0
    lease_lost: int = 0
    released: int = 0

    def add(self, end: End, count: int = 1) -> None:
        """Count `count` events that ended so."""
        setattr(self, end, getattr(self, end) + count)


class End(StrEnum):
    """How a run ended; the value is its field in `WorkerCounts`."""

    PROCESSED = "processed"
    FAILED = "failed"
    REJECTED = "rejected"
    POSTPONED = "postponed"
    TIMED_OUT = "timed_out"
    LEASE_LOST = "lease_lost"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        end: In one word.
        detail: What the operator reads in the dead letter or the log, at most 500 characters.
        delay: Seconds until the next run; None leaves it to the queue's policy.
        error: The exception that ended the run, for the log.
    """

    end: End
    detail: str = ""
    delay: float | None = None
    error: BaseException | None = None


PROCESSED = Outcome(End.PROCESSED)
LOST = Outcome(End.LEASE_LOST)


def classify(error: BaseException) -> Outcome:
    """Name the outcome of a handler that raised `error`.

    Returns:
        `released` for what is no business of the event, such as KeyboardInterrupt; `failed` also for a RetryLater whose
        delay is negative or not a number, since an event must not get stuck for that.
    """
    match error:
        case Reject(reason=reason):
            return Outcome(End.REJECTED, shorten(str(reason)))
        case RetryLater(delay=delay) if _is_delay(delay):
            return Outcome(End.POSTPONED, shorten(describe(error)), delay)
        case Exception() | asyncio.CancelledError():
            return Outcome(End.FAILED, describe(error), error=error)
        case _:
            return Outcome(End.RELEASED, describe(error), error=error)


def timed_out(seconds: float) -> Outcome:
    """Return the outcome of a handler that ran longer than `seconds`."""
    return Outcome(End.TIMED_OUT, f"handler timeout after {seconds:g} s")


def decide(outcome: Outcome, *, lease_lost: bool) -> Outcome:
    """Decide what to settle: finished work needs no ownership, everything else does."""
    if lease_lost and outcome.end is not End.PROCESSED:
        return Outcome(End.LEASE_LOST, outcome.detail)
    return outcome


def describe(error: BaseException) -> str:
    """Return "Type: message" of an exception, in at most 500 characters."""
    message = str(error)
    name = type(error).__name__
    return shorten(f"{name}: {message}" if message else name)


def shorten(text: str) -> str:
    """Return the text, cut to 500 characters."""
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


def _is_delay(delay: object) -> bool:
    return delay is None or (isinstance(delay, int | float) and math.isfinite(delay) and delay >= 0)
