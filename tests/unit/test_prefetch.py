"""How many events to fetch at once: learnt from the pace at which earlier ones were used up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.redis_queue.prefetch import MOST_BYTES, MOST_EVENTS, WORK_AHEAD, Prefetch

fetches = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 50_000_000), st.floats(0, 100), st.integers(1, 50)), max_size=20
)


def after_one_fetch(fetched: int, used_up_in: float, size_bytes: int = 0) -> int:
    """Return what is fetched next by whoever used up a fetch in so many seconds."""
    prefetch = Prefetch("auto")
    prefetch.fetched(fetched, size_bytes, 100.0)
    return prefetch.next_count(1, 100.0 + used_up_in)


def test_nothing_is_fetched_ahead_before_the_pace_is_known() -> None:
    """The first fetch brings what callers wait for, no more."""
    assert Prefetch("auto").next_count(1, 0.0) == 1
    assert Prefetch("auto").next_count(7, 0.0) == 7


@pytest.mark.parametrize(
    ("fetched", "used_up_in", "wanted"),
    [(1, 10.0, 1), (10, 1.0, 1), (10, 0.25, 2), (100, 1.0, 5), (100, 0.05, 100), (400, 0.05, 400)],
)
def test_about_50_ms_of_work_is_fetched_ahead(fetched: int, used_up_in: float, wanted: int) -> None:
    """One event for slow handlers, hundreds for fast ones."""
    assert after_one_fetch(fetched, used_up_in) == wanted
    assert WORK_AHEAD == 0.05


def test_fast_handlers_are_given_four_times_as_many_each_time_up_to_a_limit() -> None:
    """One lucky moment does not fill the buffer, and no pace does beyond MOST_EVENTS."""
    prefetch, counts = Prefetch("auto"), []
    for _ in range(7):
        counts.append(prefetch.next_count(1, 5.0))
        prefetch.fetched(counts[-1], 0, 5.0)
    assert counts == [1, 4, 16, 64, 256, MOST_EVENTS, MOST_EVENTS]


def test_one_slow_event_empties_the_buffer_for_the_others() -> None:
    """The pace is that of the last fetch: what is behind a slow handler is better off elsewhere."""
    prefetch = Prefetch("auto")
    prefetch.fetched(512, 0, 0.0)
    assert prefetch.next_count(1, 0.01) == MOST_EVENTS
    prefetch.fetched(512, 0, 0.01)
    assert prefetch.next_count(1, 60.0) == 1


def test_an_empty_fetch_teaches_nothing() -> None:
    """Waiting for events says nothing about how fast they would be used up."""
    prefetch = Prefetch("auto")
    prefetch.fetched(100, 0, 0.0)
    assert prefetch.next_count(1, 0.05) == 100
    prefetch.fetched(0, 0, 0.05)
    assert prefetch.next_count(1, 90.0) == 100


def test_a_fetch_is_judged_once() -> None:
    """Asking again, while nothing new was fetched, does not make the pace look slower."""
    prefetch = Prefetch("auto")
    prefetch.fetched(100, 0, 0.0)
    assert prefetch.next_count(1, 0.05) == prefetch.next_count(1, 50.0) == 100


def test_the_pace_is_that_of_what_was_used_up() -> None:
    """Of 100 events half is left when the next ones are fetched: 50 in 25 ms make 100 in 50 ms, less what is left."""
    prefetch = Prefetch("auto")
    prefetch.fetched(80, 0, 0.0, buffered=20)
    assert prefetch.next_count(0, 0.025, buffered=50) == 50


@pytest.mark.parametrize(("setting", "low_water"), [(0, 0), (1, 0), (15, 0), (16, 8), (100, 50)])
def test_the_next_events_are_fetched_when_half_is_used_up(setting: int, low_water: int) -> None:
    """Where that is worth a round trip; whoever asked for one event at a time never has two."""
    prefetch = Prefetch(setting)
    prefetch.fetched(10, 10 * 300, 0.0)
    assert prefetch.low_water == low_water


def test_nothing_is_fetched_ahead_of_slow_handlers() -> None:
    """By their pace a single event is work enough."""
    prefetch = Prefetch("auto")
    assert prefetch.low_water == 0
    prefetch.fetched(100, 0, 100.0)
    prefetch.next_count(1, 100.05)
    assert prefetch.low_water == 50
    prefetch.fetched(100, 0, 101.0)
    prefetch.next_count(1, 111.0)
    assert prefetch.low_water == 0


@pytest.mark.parametrize(("setting", "demand", "wanted"), [(1, 1, 1), (20, 1, 20), (20, 30, 30), (0, 1, 1), (0, 0, 1)])
def test_a_fixed_number_is_kept_whatever_the_pace(setting: int, demand: int, wanted: int) -> None:
    """More only if more callers wait, and never less than one."""
    prefetch = Prefetch(setting)
    prefetch.fetched(1000, 0, 0.0)
    assert prefetch.next_count(demand, 0.001) == wanted


@pytest.mark.parametrize("setting", ["auto", 500])
def test_large_events_are_fetched_a_few_at_a_time(setting: int) -> None:
    """What is held in memory is bounded, also for a fixed number."""
    prefetch, now = Prefetch(setting), 0.0
    for _ in range(50):
        prefetch.fetched(100, 100 * 1_000_000, now)
        count = prefetch.next_count(1, now + 0.001)
    assert count == MOST_BYTES // 1_000_000


def test_events_of_unknown_size_are_fetched_a_few_at_a_time() -> None:
    """Whoever waits for a hundred does not get a hundred megabytes before anybody knows."""
    prefetch = Prefetch(1000)
    assert prefetch.next_count(100, 0.0) == 16
    prefetch.fetched(16, 16 * 300, 0.0)
    assert prefetch.next_count(100, 0.0) == 1000


def test_each_fetch_counts_as_much_as_all_before_it() -> None:
    """Events that become large are noticed at once."""
    prefetch = Prefetch(1000)
    prefetch.fetched(100, 100 * 1024, 0.0)
    prefetch.fetched(100, 100 * 15 * 1024, 0.0)
    assert prefetch.next_count(1, 0.0) == MOST_BYTES // (8 * 1024)


def test_what_is_there_counts_for_the_bytes_as_well() -> None:
    """Fetching ahead does not go beyond the bound."""
    prefetch = Prefetch(1000)
    prefetch.fetched(10, 10 * 8192, 0.0)
    assert prefetch.next_count(0, 0.0, buffered=28) == 100
    assert prefetch.low_water == 64


@given(history=fetches, setting=st.just("auto") | st.integers(0, 1000))
def test_any_history_gives_a_sensible_count(history: list[tuple[int, int, float, int]], setting: int) -> None:
    """At least one, at most what was asked for or the limit, and not more bytes than the bound by the average size."""
    prefetch, now = Prefetch(setting), 0.0
    for count, size_bytes, wait, demand in history:
        prefetch.fetched(count, size_bytes, now)
        now += wait
        found = prefetch.next_count(demand, now)
        assert 1 <= found <= max(demand, MOST_EVENTS if setting == "auto" else setting)
