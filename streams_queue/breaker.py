"""A circuit breaker as values: closed, open, half-open, and the pure functions that lead from one to the next.

Nothing here waits, reads a clock or draws a random number: `now` is monotonic seconds and `jitter` a draw from [0, 1),
both given by the caller, so that every path can be tested without waiting for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams_queue.retry import RetryPolicy, backoff


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long.

    Attributes:
        failure_threshold: Failures in a row that open it; at least 1.
        open_for: Seconds that it stays open at first; doubled each time that a probe fails.
        max_open_for: It is never open longer than this, in seconds.
        jitter: How much longer than that it may stay open by chance, as a share of it, from 0 to 1.
    """

    failure_threshold: int = 1
    open_for: float = 0.5
    max_open_for: float = 10.0
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class Closed:
    """Calls go through; `failures` of them have failed in a row."""

    failures: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """No call goes through before `until` (monotonic seconds); opened `trips` times since it was last closed."""

    until: float
    trips: int = 1


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One probe is under way; should it never report, the next may start at `until`, in monotonic seconds."""

    until: float
    trips: int = 1


Breaker = Closed | Open | HalfOpen


def allow(state: Breaker, now: float, policy: BreakerPolicy) -> tuple[bool, Breaker]:
    """Decide whether a call may be made now.

    Args:
        state: What the breaker was so far.
        now: Monotonic seconds.
        policy: Its times; a probe that has not reported within `max_open_for` is given up.

    Returns:
        Whether to call, and the state to keep. An open breaker whose time is up lets exactly one probe through.
    """
    if isinstance(state, Closed):
        return True, state
    if now < state.until:
        return False, state
    return True, HalfOpen(now + policy.max_open_for, state.trips)


def success(state: Breaker) -> Breaker:
    """Return the state after a call that worked; a late answer to a call made before it opened does not close it."""
    return state if isinstance(state, Open) else Closed()


def failure(state: Breaker, now: float, policy: BreakerPolicy, *, jitter: float) -> Breaker:
    """Return the state after a call that failed.

    Args:
        state: What the breaker was so far; one that is open already is not opened for longer.
        now: Monotonic seconds.
        policy: Threshold and times.
        jitter: A draw from [0, 1).
    """
    match state:
        case Open():
            return state
        case HalfOpen(trips=trips):
            return _opened(trips + 1, now, policy, jitter)
        case Closed(failures=failures) if failures + 1 < policy.failure_threshold:
            return Closed(failures + 1)
        case Closed():
            return _opened(1, now, policy, jitter)


def _opened(trips: int, now: float, policy: BreakerPolicy, jitter: float) -> Open:
    """Return an open breaker; its time grows as a retry's does."""
    growth = RetryPolicy(base_delay=policy.open_for, max_delay=policy.max_open_for, jitter=policy.jitter)
    return Open(now + backoff(trips, growth, jitter=jitter), trips)
