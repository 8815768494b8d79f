"""When a drain through a handler ends, and what a report says: pure decisions on the queue's figures."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from streams_queue.draining import Report
from streams_queue.draining.to_handler import Watch
from streams_queue.redis_queue.commands import Figures

BEFORE = Figures(
    entries=5,
    pending=0,
    delayed=0,
    dead=0,
    consumers=0,
    oldest_waiting="900-0",
    now_ms=1000,
    totals={"enqueued": "5"},
    refused=None,
)


def later(**changed: Any) -> Figures:
    """Return what is seen a while later."""
    totals = BEFORE.totals | changed.pop("totals", {})
    return replace(BEFORE, **{"now_ms": 9000, "totals": totals, **changed})


@pytest.mark.parametrize(
    ("figures", "busy", "is_over"),
    [
        (later(entries=0), True, True),
        (later(entries=0, delayed=1), False, True),
        (later(entries=0, delayed=1, oldest_waiting=""), True, False),
        (later(totals={"acked": "1"}), False, False),
        (later(), True, False),
        (later(), False, True),
        (later(totals={"enqueued": "9", "acked": "1"}), True, False),
        (later(totals={"enqueued": "9", "acked": "1"}, oldest_waiting="1001-0"), True, True),
        (later(totals={"enqueued": "9", "acked": "1"}, oldest_waiting=""), True, True),
    ],
    ids=["empty", "delayed-only", "busy", "progress", "busy-old", "idle", "old-and-new", "only-new", "new-in-hand"],
)
def test_a_drain_through_a_handler_ends(
    figures: Figures, busy: bool, is_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the queue is empty, or when nothing has happened for a second, or nothing but what is new."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    watch = Watch(BEFORE, 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: 2.0)
    assert watch.is_over(figures, busy=busy) == is_over


def test_a_report_adds_up_or_says_that_it_does_not() -> None:
    """What was there and came in is drained, settled or left."""
    left = {"left_waiting": 1, "left_in_flight": 2, "left_delayed": 1}
    report = Report(at_start=10, came_in=5, waiting=7, delayed=1, settled=3, **left)
    assert (report.adds_up, report.left, report.is_empty) == (True, 4, False)
    assert not replace(report, came_in=6).adds_up


def test_dead_letters_count_where_they_were_to_be_taken() -> None:
    """Else they are none of the drain's business."""
    assert Report(left_dead=3).is_empty
    assert not Report(left_dead=3, takes_dead=True).is_empty
