"""The plots: drawn from JSON files alone, the same each time, with what a reader needs to understand them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as command
from benchmarks import document

# It needs matplotlib, which only the extra `dev` has.
draw = pytest.importorskip("benchmarks.plots").draw

SIDES = ("streams_queue", "arq")


def row(scenario: str, side: str, metric: str, *values: float, backlog: int = 0) -> dict[str, Any]:
    """Make a row with as much as plots look at."""
    named = {"scenario": scenario, "case": f"{backlog} waiting", "side": side, "metric": metric, "backlog": backlog}
    return named | {"median": sorted(values)[len(values) // 2], "values": list(values)}


def spread(scenario: str, side: str) -> dict[str, Any]:
    """Make the distribution of three runs."""
    runs = [[0.1 * run, 0.2 * run, 3.0 * run] for run in (1, 2, 3)]
    named = {"scenario": scenario, "case": "300 B", "side": side, "name": "latency", "unit": "ms"}
    return named | {"quantiles": [1, 50, 99], "runs": runs}


BACKLOG = [
    row("backlog", "Worker, 1,000 waiting", "throughput", 900, 1000, 1100, backlog=1_000),
    row("backlog", "Worker", "throughput", 800, 950, 1200, backlog=1_000_000),
    row("backlog", "bare", "throughput", 2000, 2100, 2200, backlog=10),
]
PEERS = [
    row(scenario, side, metric, 1, 2, 4)
    for scenario, metric in (
        ("peers_staging", "throughput"),
        ("peers_draining", "throughput"),
        ("peers_idle_latency", "latency p50"),
    )
    for side in SIDES
]
EVERYTHING = {
    "rows": BACKLOG + PEERS,
    "distributions": [spread("idle_latency", "bare"), *(spread("peers_idle_latency", side) for side in SIDES)],
    "failures": [{"scenario": "peers_draining", "case": "300 B", "side": "saq", "reason": "it crashed"}],
    "verdicts": [],
    "ratios": [],
}


def texts(path: Path) -> list[str]:
    """Return what a picture says; text is text in it."""
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Draw everything once."""
    return {path.stem: path for path in draw([EVERYTHING], tmp_path_factory.mktemp("plots") / "new")}


def test_there_is_a_picture_for_each_question(pictures: dict[str, Path]) -> None:
    """Backlog, latency, and ours beside the others."""
    assert set(pictures) == {"throughput-by-backlog", "idle-latency", "peers-idle-latency", "peers"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("throughput-by-backlog", {"events that wait", "throughput (events/s)", "Worker", "bare"}),
        ("idle-latency", {"latency (ms, logarithmic)", "events that were there by then (%)", "bare"}),
        ("peers-idle-latency", {"latency (ms, logarithmic)", "arq", "streams_queue"}),
        ("peers", {"streams_queue", "arq", "saq (not measured)", "draining (events/s)"}),
    ],
)
def test_pictures_say_what_they_show(name: str, said: set[str], pictures: dict[str, Path]) -> None:
    """Axes with units, each side by name, and who could not be measured."""
    assert said <= set(texts(pictures[name]))


def test_the_same_figures_give_the_same_bytes(pictures: dict[str, Path], tmp_path: Path) -> None:
    """No date and no random names: a picture in git changes when its figures do."""
    again = {path.stem: path for path in draw([EVERYTHING], tmp_path)}
    assert {name: path.read_bytes() for name, path in again.items()} == {
        name: path.read_bytes() for name, path in pictures.items()
    }


def test_sides_with_different_backlogs_are_one_line(tmp_path: Path) -> None:
    """The side with 1,000 events is the same Worker."""
    [path] = draw([dict.fromkeys(document.LISTS, ()) | {"rows": BACKLOG}], tmp_path)
    assert not [text for text in texts(path) if text.startswith("Worker,")]


def test_older_files_have_fewer_plots(tmp_path: Path) -> None:
    """Where rows do not say how many events waited, there is no line to draw."""
    older = [{name: value for name, value in row.items() if name != "backlog"} for row in BACKLOG]
    assert draw([dict.fromkeys(document.LISTS, ()) | {"rows": older}], tmp_path) == []


def test_later_files_replace_figures_of_earlier_ones(tmp_path: Path) -> None:
    """A scenario that was measured again counts once."""
    nothing = dict.fromkeys(document.LISTS, ())
    again = nothing | {"rows": [row("backlog", "bare", "throughput", 5, 6, 7, backlog=10)]}
    [both] = draw([nothing | {"rows": BACKLOG[2:]}, again], tmp_path / "both")
    [alone] = draw([again], tmp_path / "alone")
    assert both.read_bytes() == alone.read_bytes()


def test_the_command_draws_files_and_says_when_there_is_nothing_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It measures nothing."""
    full, empty = tmp_path / "full.json", tmp_path / "empty.json"
    document.write(full, EVERYTHING)
    document.write(empty, {"rows": []})
    assert command.main(["--plot", str(full), str(empty), "--to", str(tmp_path / "plots")]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in draw([EVERYTHING], tmp_path / "plots")]
    assert command.main(["--plot", str(empty), "--to", str(tmp_path)]) == 1
