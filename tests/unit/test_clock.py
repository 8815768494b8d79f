"""The clocks: one that the machine turns, and one that tests turn."""

from __future__ import annotations

import time
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from streams_queue.clock import Clock, ManualClock, SystemClock

seconds = st.floats(0, 1e6)


def test_the_systems_clock_tells_the_machines_times() -> None:
    """Wall time since the epoch, and a monotonic time that is another one."""
    clock: Clock = SystemClock()
    assert time.time() - 5 < clock.time() < time.time() + 5
    before = time.monotonic()
    assert before <= clock.monotonic() <= time.monotonic()


def test_a_manual_clock_stands_still() -> None:
    """However often it is asked."""
    clock: Clock = ManualClock(now=100.0)
    assert [clock.time(), clock.time(), clock.monotonic(), clock.monotonic()] == [100.0, 100.0, 0.0, 0.0]


@given(steps=st.lists(seconds, max_size=10))
def test_advancing_moves_both_hands(steps: list[float]) -> None:
    """As much as was said, on both."""
    clock = ManualClock(now=0.0)
    for step in steps:
        clock.advance(step)
    # Not sum(): from Python 3.12 it rounds once, at the end.
    *_, total = accumulate(steps, initial=0.0)
    assert clock.time() == clock.monotonic() == total


@given(forward=seconds, step=st.floats(-1e6, 1e6))
def test_a_step_moves_the_wall_clock_alone(forward: float, step: float) -> None:
    """As NTP or an administrator does; monotonic time never goes back."""
    clock = ManualClock(now=0.0)
    clock.advance(forward)
    clock.step(step)
    assert (clock.time(), clock.monotonic()) == (forward + step, forward)
