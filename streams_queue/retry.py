"""The retry decision: pure, so that every case can be tested without a queue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how far apart, a failed event runs again.

    Attributes:
        max_retries: Runs after the first one; at least 0.
        base_delay: Seconds before the first retry; doubled for each further one.
        max_delay: No retry waits longer than this, in seconds.
        jitter: How much longer than asked a delay may be by chance, as a share of it, from 0 to 1.
    """

    max_retries: int = 3
    base_delay: float = 1.0
    max_delay: float = 300.0
    jitter: float = 0.1

    @property
    def max_deliveries(self) -> int:
        """How often an event may be handed out before it is a dead letter."""
        return self.max_retries + 1


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Run the event again after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class DeadLetterIt:
    """Keep the event as a dead letter, for `reason`."""

    reason: str


def decide_retry(deliveries: int, policy: RetryPolicy, *, jitter: float) -> RetryAfter | DeadLetterIt:
    """Decide what follows a failed delivery.

    Args:
        deliveries: How often the event was handed out over all its entries, this time included; at least 1.
        policy: Limits and backoff; delays in seconds.
        jitter: A draw from [0, 1), made by the caller, so that this stays pure.

    Returns:
        `RetryAfter` with a delay in [nominal, nominal × (1 + policy.jitter)], never above max_delay, or `DeadLetterIt`.
    """
    if deliveries >= policy.max_deliveries:
        return DeadLetterIt("max_retries")
    return RetryAfter(backoff(deliveries, policy, jitter=jitter))


def backoff(attempt: int, policy: RetryPolicy, *, jitter: float) -> float:
    """Return the wait after the `attempt`-th delivery (at least 1): base, 2 × base, 4 × base … up to max_delay."""
    doublings = min(attempt - 1, 63)
    nominal = policy.base_delay * 2.0**doublings
    return min(policy.max_delay, nominal * (1.0 + policy.jitter * jitter))
