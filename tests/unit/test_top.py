"""The screen of `top`, drawn without a terminal or a server."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from streams_queue.cli.top.drawing import draw
from streams_queue.cli.top.sampling import ConsumerRow, DeadRow, InFlightRow, Sample
from streams_queue.cli.top.view import View

NASTY = "\x1b]0;owned\x07[red]x"


def sample(at: float = 1000.0, **seen: Any) -> Sample:
    """Return what a server might have said."""
    nothing: dict[str, Any] = {
        **dict.fromkeys(("waiting", "in_flight", "delayed", "dead"), 0),
        **dict.fromkeys(("oldest_waiting", "oldest_in_flight")),
        **dict.fromkeys(("paused", "refusal"), ""),
        **dict.fromkeys(("consumers", "flights", "letters"), ()),
        "totals": {},
    }
    return Sample(at=at, **nothing | seen)


def view(*samples: Sample) -> View:
    """Return a view that has had these samples."""
    made = View(name="gitbridge:{events}", address="here:6379", max_size=100, dead_max_size=10, lease=15)
    for each in samples:
        made.add(each)
    return made


def screen(shown: View, width: int = 100, height: int = 30, now: float = 0.0) -> str:
    """Return what a terminal of this size gets, colours left out."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, highlight=False)
    console.print(draw(shown, width, height, now))
    return console.file.getvalue()


def test_what_strangers_wrote_is_shown_and_not_obeyed() -> None:
    """Neither control characters nor markup in anything that comes out of a queue."""
    drawn = screen(
        view(
            sample(
                dead=1,
                paused=NASTY,
                consumers=(ConsumerRow(name=NASTY, pending=1, idle=1.0),),
                flights=(InFlightRow(entry_id="1-1", consumer=NASTY, idle=1.0, deliveries=1),),
                letters=(DeadRow(event_id=NASTY, died_at=1.0, reason=NASTY, error=NASTY),),
            )
        ),
        width=200,
    )
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert drawn.count("\\x1b]0;owned\\x07[red]x") == 6


@pytest.mark.parametrize("width", [1, 20, 60, 99, 100, 140])
@pytest.mark.parametrize("height", [1, 5, 12, 24, 60])
def test_it_fits_into_every_size(width: int, height: int) -> None:
    """No line is longer than the screen is wide; from 60 columns and 24 lines on, none is below its end."""
    flights = tuple(InFlightRow(entry_id=f"{n}-0", consumer="c" * 80, idle=n, deliveries=1) for n in range(100))
    consumers = tuple(ConsumerRow(name="c" * 80, pending=1, idle=n) for n in range(100))
    letters = tuple(DeadRow(event_id="e" * 80, died_at=n, reason="rejected", error="x" * 500) for n in range(100))
    lines = screen(view(sample(dead=100, consumers=consumers, flights=flights, letters=letters)), width, height)
    shown = lines.splitlines()
    assert max(map(len, shown)) <= width
    assert width < 60 or height < 24 or len(shown) <= height


def test_rates_are_of_the_last_ten_seconds() -> None:
    """What was counted before does not count; a single sample makes no rate; totals that begin anew are no minus."""
    assert view(sample(totals={"enqueued": 5})).rates()["enqueued"] is None
    counts = [(0.0, 0), (20.0, 1000), (25.0, 1050), (30.0, 1100)]
    assert view(*(sample(at, totals={"acked": n}) for at, n in counts)).rates()["acked"] == pytest.approx(10.0)
    assert view(sample(1.0, totals={"dead": 9}), sample(2.0, totals={})).rates()["dead"] == 0


def test_a_clock_that_was_set_back_begins_a_new_history() -> None:
    """There are no rates over that moment."""
    assert view(sample(50.0), sample(10.0)).rates()["acked"] is None


def test_an_outage_is_told_with_its_length() -> None:
    """From its beginning, whatever is tried meanwhile; what was seen before stays; an answer ends it."""
    shown = view(sample(waiting=7))
    shown.failed("cannot connect", 100.0)
    shown.failed("cannot connect still", 105.0)
    drawn = screen(shown, now=112.0)
    assert "✗ no answer for 12 s; what follows was seen before: cannot connect still" in drawn
    assert "waiting 7" in drawn
    shown.add(sample(waiting=8))
    assert "no answer" not in screen(shown, now=113.0)


def test_what_stands_still_is_told() -> None:
    """A pause, and a server that takes no writes."""
    assert "paused: intake" in screen(view(sample(paused="intake")))
    assert "takes no writes: OOM" in screen(view(sample(refusal="OOM command not allowed")))
