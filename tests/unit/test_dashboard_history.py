"""What the totals say over time: rates, the share of failures, and how long processing takes."""

from __future__ import annotations

import pytest

from streams_queue.dashboard.history import KEEP, History, Point
from streams_queue.messages import QueueStats


def look(*, waiting: int = 0, in_flight: int = 0, delayed: int = 0, **totals: int) -> QueueStats:
    """Return a look at a queue."""
    return QueueStats(waiting, in_flight, delayed, dead=0, max_size=100, totals=totals)


def history_of(*looks: QueueStats, every: float = 1.0) -> Point:
    """Return the last point of looks that are so many seconds apart."""
    history = History()
    points = [history.add(each, at=1000 + n * every, moment=n * every) for n, each in enumerate(looks)]
    assert list(history) == points[-KEEP:]
    return points[-1]


def test_one_look_has_no_rates() -> None:
    """What was counted before somebody looked says nothing about now."""
    assert history_of(look(waiting=3, in_flight=2, delayed=1, enqueued=50, acked=40)) == Point(
        1000, 3, 6, 0.0, 0.0, None, None
    )


def test_rates_are_differences_of_totals() -> None:
    """Of the looks of the last ten seconds, however far apart they are."""
    before, after = look(enqueued=100, acked=10), look(enqueued=140, acked=30)
    point = history_of(before, after, every=4)
    assert (point.accepted_rate, point.processed_rate) == (10.0, 5.0)
    idle = [look(enqueued=140, acked=30)] * 11
    point = history_of(before, *idle)
    assert (point.accepted_rate, point.processed_rate) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("totals", "share"),
    [
        ({"acked": 98, "retried": 1, "dead": 1}, 0.02),
        ({"acked": 5}, 0.0),
        ({"retried": 2}, 1.0),
        ({"dead": 7, "purged": 7}, None),
        ({"acked": 1, "dead": 8, "purged": 7}, 0.5),
        ({"enqueued": 9, "released": 3}, None),
        ({}, None),
    ],
)
def test_the_error_rate_is_the_share_of_runs_that_failed(totals: dict[str, int], share: float | None) -> None:
    """Retries and dead letters; what an operator flushed has not failed, and what was given back has not run."""
    assert history_of(look(), look(**totals)).error_rate == share


def test_an_error_is_remembered_for_a_minute() -> None:
    """Longer than rates are: errors are rarer."""
    failed = look(acked=9, retried=1)
    assert history_of(look(), *[failed] * 60).error_rate == 0.1
    assert history_of(look(), *[failed] * 61).error_rate is None


def test_processing_time_is_what_is_in_flight_by_what_is_settled() -> None:
    """Little's law: four in flight, ten settled a second, so each was in somebody's hands for 0.4 s."""
    looks = [look(in_flight=4, acked=6 * n, retried=2 * n, dead=n, released=n) for n in range(5)]
    assert history_of(*looks).processing_time == pytest.approx(0.4)


def test_nothing_settled_has_no_processing_time() -> None:
    """A handler that hangs is seen among what is in flight, not as a time that nobody knows."""
    assert history_of(look(in_flight=4), look(in_flight=4)).processing_time is None


def test_totals_that_go_back_begin_a_new_history() -> None:
    """The server lost its state; no rate is below zero, and none is of before and after."""
    point = history_of(look(enqueued=500, acked=400), look(enqueued=3, acked=1), look(enqueued=5, acked=2))
    assert (point.accepted_rate, point.processed_rate) == (2.0, 1.0)


def test_ten_minutes_are_kept() -> None:
    """The oldest points go."""
    history = History()
    for n in range(KEEP + 5):
        history.add(look(), at=n, moment=n)
    kept = list(history)
    assert (len(kept), kept[0].at, kept[-1].at) == (KEEP, 5, KEEP + 4)
