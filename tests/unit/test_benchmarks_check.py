"""`make bench-check`: a regression is named, and the noise of a busy machine is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import document
from benchmarks.check import compare, failed


def ratio(median: float, *, spread: float = 0.0, better: str = "more", **other: Any) -> dict[str, Any]:
    """Make a ratio as the JSON file has it."""
    named = {"scenario": "staging", "case": "300 B", "what": "ours, throughput ÷ bare", "events": 10, "runs": 5}
    return named | {"better": better, "median": median, "spread": spread} | other


def verdict(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Compare one ratio."""
    return compare([before], [now])[0].verdict


def test_a_regression_beyond_the_spread_is_found() -> None:
    """Half the throughput, with 10 % of spread."""
    assert verdict(ratio(2.0, spread=0.2), ratio(1.0, spread=0.2)) == "worse"


@pytest.mark.parametrize(
    ("now", "expected"), [(1.59, "worse"), (1.61, "as before"), (2.39, "as before"), (2.41, "better")]
)
def test_the_spread_is_the_margin(now: float, expected: str) -> None:
    """To either side; the median itself is compared, not the best run."""
    assert verdict(ratio(2.0, spread=0.4), ratio(now)) == expected


@pytest.mark.parametrize(("before", "now"), [(0.1, 0.5), (0.5, 0.1)])
def test_the_larger_of_both_spreads_counts(before: float, now: float) -> None:
    """A difference of 0.4 is within 0.5, whichever of the two runs was that unsteady."""
    assert verdict(ratio(2.0, spread=before), ratio(1.6, spread=now)) == "as before"
    assert verdict(ratio(2.0, spread=0.1), ratio(1.6, spread=0.1)) == "worse"


def test_a_figure_without_spread_may_still_move_by_five_percent() -> None:
    """Bytes on the wire are the same in each run; one more is no regression."""
    assert verdict(ratio(2.0), ratio(1.91)) == "as before"
    assert verdict(ratio(2.0), ratio(1.89)) == "worse"


def test_more_is_worse_where_less_is_better() -> None:
    """Latency, memory, processor time."""
    assert verdict(ratio(1.0, better="less"), ratio(1.2, better="less")) == "worse"
    assert verdict(ratio(1.0, better="less"), ratio(0.8, better="less")) == "better"


def test_what_was_not_measured_again_fails() -> None:
    """A scenario that has gone, or has another number of events, proves nothing."""
    changes = compare([ratio(2.0), ratio(2.0, events=99)], [ratio(2.0), ratio(2.0, case="8 KB")])
    assert [(change.verdict, change.now) for change in changes] == [("as before", 2.0), ("missing", None)]
    assert [change.verdict for change in failed(changes)] == ["missing"]


@pytest.mark.parametrize(
    ("medians", "code"),
    [
        pytest.param([2.0], 0, id="as-before"),
        pytest.param([1.0, 2.0], 0, id="worse-by-chance"),
        pytest.param([1.0, 1.0], 1, id="worse-both-times"),
    ],
)
def test_the_command_names_what_got_worse_and_fails(
    medians: list[float],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As many events and runs as the reference has; what seems worse, and only that, is measured once more."""
    reference = tmp_path / "reference.json"
    steady = ratio(1.0, scenario="wire", what="ours, bytes ÷ bare")
    reference.write_text(json.dumps({"quick": True, "ratios": [ratio(2.0, spread=0.1, runs=7), steady]}))
    figures = tmp_path / "figures.json"
    measured: list[tuple[list[str], Path | None]] = []

    def measure(arguments: Any, names: list[str]) -> document.Document:
        assert (arguments.quick, arguments.runs) == (True, 7)
        measured.append((names, arguments.json))
        fresh = [ratio(medians[len(measured) - 1], spread=0.1), steady, ratio(1.0, what="new")]
        return {"ratios": [each for each in fresh if each["scenario"] in names]}

    monkeypatch.setattr(command, "_measure", measure)
    assert command.main(["--check", str(reference), "--json", str(figures)]) == code
    assert measured == [(["staging", "wire"], figures), (["staging"], None)][: len(medians)]
    printed = capsys.readouterr().out
    assert "ours, throughput ÷ bare" in printed
    assert "ours, bytes ÷ bare" in printed
    assert ("worse" in printed.split("got worse")[0]) == bool(code)


def test_a_reference_without_ratios_checks_nothing_and_fails(tmp_path: Path) -> None:
    """An older file, for instance."""
    reference = tmp_path / "reference.json"
    reference.write_text('{"quick": true, "rows": []}')
    assert command.main(["--check", str(reference)]) == 1
