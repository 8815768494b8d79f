"""The retry decision: every limit, and delays that stay inside what the policy promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.retry import DeadLetterIt, RetryAfter, RetryPolicy, backoff, decide_retry

policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 1000),
    base_delay=st.floats(0, 1e6),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
draws = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("deliveries", "delay"), [(1, 1.0), (2, 2.0), (3, 4.0)])
def test_the_plans_policy_waits_one_two_four_seconds(deliveries: int, delay: float) -> None:
    """Three retries, doubling from base_delay."""
    policy = RetryPolicy(max_retries=3, base_delay=1)
    assert decide_retry(deliveries, policy, jitter=0.0) == RetryAfter(delay)


@pytest.mark.parametrize("deliveries", [4, 5, 1000])
def test_past_the_limit_the_event_is_buried(deliveries: int) -> None:
    """One run and three retries, and not one more."""
    assert decide_retry(deliveries, RetryPolicy(max_retries=3), jitter=0.5) == DeadLetterIt("max_retries")


def test_without_retries_the_first_failure_is_the_last() -> None:
    """max_retries 0 means one run."""
    assert decide_retry(1, RetryPolicy(max_retries=0), jitter=0.0) == DeadLetterIt("max_retries")


@given(policies, st.integers(1, 2000), draws)
def test_an_event_is_retried_exactly_while_runs_are_left(policy: RetryPolicy, deliveries: int, jitter: float) -> None:
    """The decision depends on the count alone; the draw only moves the delay."""
    retried = isinstance(decide_retry(deliveries, policy, jitter=jitter), RetryAfter)
    assert retried == (deliveries < policy.max_deliveries)


@given(policies, st.integers(1, 2000), draws)
def test_a_delay_lies_between_the_nominal_one_and_its_jitter(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    """Never sooner than asked (or than max_delay allows), never later than the jitter adds, never above max_delay."""
    delay, nominal = backoff(attempt, policy, jitter=jitter), backoff(attempt, policy, jitter=0.0)
    assert nominal <= delay <= min(policy.max_delay, nominal * (1 + policy.jitter) + 1e-9)


@given(policies, st.integers(1, 2000))
def test_delays_never_shrink(policy: RetryPolicy, attempt: int) -> None:
    """Each further retry waits at least as long as the one before."""
    assert backoff(attempt, policy, jitter=0.0) <= backoff(attempt + 1, policy, jitter=0.0)
