"""The circuit breaker's states, case by case and as properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams_queue.breaker import Breaker, BreakerPolicy, Closed, HalfOpen, Open, allow, failure, success

POLICY = BreakerPolicy(failure_threshold=3, open_for=1.0, max_open_for=8.0, jitter=0.5)

draws = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
nows = st.floats(min_value=0.0, max_value=1e6)
policies = st.builds(
    BreakerPolicy,
    failure_threshold=st.integers(1, 5),
    open_for=st.floats(0.01, 10.0),
    max_open_for=st.floats(10.0, 100.0),
    jitter=st.floats(0.0, 1.0),
)


def test_a_closed_breaker_lets_calls_through_until_the_threshold() -> None:
    """Failures below the threshold are counted, and the one that reaches it opens."""
    state: Breaker = Closed()
    for failures in (1, 2):
        state = failure(state, 100.0, POLICY, jitter=0.0)
        assert state == Closed(failures)
        assert allow(state, 100.0, POLICY) == (True, state)
    assert failure(state, 100.0, POLICY, jitter=0.0) == Open(until=101.0, trips=1)


def test_a_success_forgets_earlier_failures() -> None:
    """Only failures in a row count."""
    assert success(Closed(2)) == Closed(0)


def test_an_open_breaker_refuses_until_its_time_and_then_lets_one_probe_through() -> None:
    """The first call after the interval is the probe; a second one beside it is refused."""
    opened = Open(until=101.0, trips=1)
    assert allow(opened, 100.9, POLICY) == (False, opened)
    allowed, probing = allow(opened, 101.0, POLICY)
    assert allowed
    assert probing == HalfOpen(until=109.0, trips=1)
    assert allow(probing, 101.0, POLICY) == (False, probing)


def test_a_probe_that_never_reports_does_not_block_for_ever() -> None:
    """A cancelled probe leaves the breaker half-open; after the longest interval another may try."""
    allowed, state = allow(HalfOpen(until=109.0, trips=2), 109.0, POLICY)
    assert (allowed, state) == (True, HalfOpen(until=117.0, trips=2))


def test_a_failed_probe_doubles_the_interval_up_to_the_cap() -> None:
    """1, 2, 4, 8, 8 … seconds without jitter."""
    state: Breaker = Open(until=0.0, trips=1)
    spans = []
    for _ in range(5):
        _, state = allow(state, 1000.0, POLICY)
        state = failure(state, 1000.0, POLICY, jitter=0.0)
        assert isinstance(state, Open)
        spans.append(state.until - 1000.0)
        state = Open(until=0.0, trips=state.trips)
    assert spans == [2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_successful_probe_closes_and_the_next_outage_starts_small_again() -> None:
    """Growth is forgotten with the outage."""
    closed = success(HalfOpen(until=0.0, trips=5))
    assert closed == Closed()
    assert failure(closed, 10.0, BreakerPolicy(open_for=1.0), jitter=0.0) == Open(until=11.0, trips=1)


def test_late_answers_do_not_move_an_open_breaker() -> None:
    """Calls that began before it opened say nothing about now."""
    opened = Open(until=101.0, trips=2)
    assert success(opened) is opened
    assert failure(opened, 100.5, POLICY, jitter=0.9) is opened


@given(policy=policies, now=nows, trips=st.integers(1, 10_000), jitter=draws)
def test_every_open_interval_lies_between_the_nominal_one_and_the_cap(
    policy: BreakerPolicy, now: float, trips: int, jitter: float
) -> None:
    """However often a probe has failed, the wait is at least the first interval and at most the cap."""
    state = failure(HalfOpen(now, trips), now, policy, jitter=jitter)
    assert isinstance(state, Open)
    assert state.trips == trips + 1
    assert now + policy.open_for <= state.until <= now + policy.max_open_for


@given(policy=policies, steps=st.lists(st.tuples(st.sampled_from(["allow", "success", "failure"]), draws, draws)))
def test_any_history_keeps_the_invariants(policy: BreakerPolicy, steps: list[tuple[str, float, float]]) -> None:
    """Failures stay below the threshold, an open breaker never lets a call through early, and it always recovers."""
    state: Breaker = Closed()
    now = 0.0
    for step, wait, jitter in steps:
        now += wait * policy.max_open_for
        before = state
        if step == "allow":
            allowed, state = allow(state, now, policy)
            assert allowed == (isinstance(before, Closed) or now >= before.until)
        elif step == "success":
            state = success(state)
            assert isinstance(state, Open) == isinstance(before, Open)
        else:
            state = failure(state, now, policy, jitter=jitter)
        assert not isinstance(state, Closed) or state.failures < policy.failure_threshold
    allowed, state = allow(state, now + policy.max_open_for, policy)
    assert allowed
    assert success(state) == Closed()
