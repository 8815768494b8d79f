"""The benchmark suite's own arithmetic and shape: what a figure says must be what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import baseline, document, scenarios
from benchmarks.counting import latencies, percentile
from benchmarks.judging import judge, ratios, spread, verdicts
from benchmarks.model import Case, Failure, Ratio, Result, Row, Scenario, Target
from benchmarks.payloads import compact_bytes, distinct, mean_bytes, payloads
from benchmarks.report import last_line, short

FIGURES = {
    "bare": [{"throughput": 100.0, "p99": 6.0}, {"throughput": 50.0, "p99": 7.0}, {"throughput": 10.0, "p99": 8.0}],
    "ours": [{"throughput": 150.0, "p99": 9.0}, {"throughput": 100.0, "p99": 9.0}, {"throughput": 30.0, "p99": 9.0}],
}


def test_a_ratio_is_taken_run_by_run() -> None:
    """Neighbouring runs are compared, so that a slow minute of the machine slows both down."""
    verdict = judge(
        "staging", "300 B", Target(side="ours", metric="throughput", against="bare", at_least=2), FIGURES, FIGURES
    )
    assert (verdict.median, verdict.min, verdict.max, verdict.runs) == (2.0, 1.5, 3.0, 3)
    assert verdict.met
    assert verdict.wanted == "≥ 2"


def test_a_missed_target_says_so() -> None:
    """The median decides, not the best run."""
    verdict = judge(
        "staging", "", Target(side="ours", metric="throughput", against="bare", at_least=2.5), FIGURES, FIGURES
    )
    assert not verdict.met


def test_a_difference_is_taken_run_by_run() -> None:
    """Memory and processor time are compared by subtraction."""
    target = Target(side="ours", metric="throughput", against="bare", minus=True, at_most=40)
    verdict = judge("memory", "", target, FIGURES, FIGURES)
    assert (verdict.median, verdict.met) == (50.0, False)


def test_a_limit_that_the_bare_client_misses_too_is_noted_and_still_missed() -> None:
    """An excuse stands beside the verdict; it does not turn it."""
    verdict = judge("idle", "", Target(side="ours", metric="p99", at_most=5, excuse="bare"), FIGURES, FIGURES)
    assert not verdict.met
    assert verdict.note == "bare in the same run: 7"


def test_an_excuse_needs_the_bare_client_above_the_limit() -> None:
    """Where the bare client keeps the limit, there is none."""
    verdict = judge("idle", "", Target(side="ours", metric="p99", at_most=8, excuse="bare"), FIGURES, FIGURES)
    assert (verdict.met, verdict.note) == (False, "")


def test_another_case_can_be_the_measure() -> None:
    """A large backlog is compared with a small one of the same side."""
    small = {"ours": [{"throughput": 200.0}, {"throughput": 100.0}, {"throughput": 30.0}]}
    target = Target(side="ours", metric="throughput", at_least=0.8, against_case="small")
    verdict = judge("backlog", "large", target, FIGURES, small)
    assert (verdict.min, verdict.median, verdict.max) == (0.75, 1.0, 1.0)


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank; the last value is as far as it goes."""
    sample = [float(value) for value in range(100, 0, -1)]
    assert (percentile(sample, 0.5), percentile(sample, 0.99), percentile([1.0], 0.99)) == (51.0, 100.0, 1.0)
    assert latencies([0.001], "enqueue") == {"enqueue p50": 1.0, "enqueue p99": 1.0}


def test_payloads_have_the_sizes_that_their_names_say() -> None:
    """The small event is about 0.3 KB, the webhooks are 8 KB and 10 KB on average, the large pushes 1 MB each."""
    assert 250 <= mean_bytes("small") <= 350
    assert 7_500 <= mean_bytes("8 KB") <= 8_500
    assert 9_500 <= mean_bytes("10 KB") <= 10_500
    assert all(990_000 <= compact_bytes(payload) <= 1_010_000 for payload in distinct("1 MB"))
    assert payloads("small", 501)[500] == distinct("small")[0]


def test_the_baseline_stays_short() -> None:
    """At most 40 lines of bare redis-py, as anybody would write it."""
    assert len(Path(baseline.__file__).read_text("utf-8").splitlines()) <= 40


@pytest.mark.parametrize("name", scenarios.names())
def test_scenarios_are_complete(name: str) -> None:
    """Each asks one question, and its targets name sides, metrics and cases that exist."""
    question, scenario = scenarios.load(name)
    assert question.endswith("?")
    assert scenario.cases
    assert scenario.quick_cases
    for target in scenario.targets:
        assert {target.side, target.against or target.side, target.excuse or target.side} <= set(scenario.sides)
        assert target.metric in scenario.units
        names = {case.name for case in scenario.cases}
        assert {target.case, target.against_case} - {None} <= names
        assert (target.at_least is None) != (target.at_most is None)
    for ratio in scenario.ratios:
        assert {ratio.side, ratio.against} <= set(scenario.sides)
        assert ratio.metric in scenario.units
    for side in scenario.sides.values():
        assert set(side.changes) <= {each.name for each in fields(Case)}


def test_each_figure_of_the_plan_has_a_verdict() -> None:
    """Operations, the whole way, memory, processor, network, improvement, loss."""
    _, scenario = scenarios.load("plan_load")
    wanted = {(target.metric, target.at_most) for target in scenario.targets if target.side == "streams_queue"}
    operations = {(f"{operation} p99", 5) for operation in ("enqueue", "queue latency", "ack", "depth")}
    resources = {("memory, full", 256), ("server CPU", 10), ("on the wire, peak", 5)}
    assert wanted == operations | resources | {
        ("end to end p99", 300),
        ("queue latency p50", 7.2),
        ("lost", 0),
        ("twice", 0),
    }


def test_consumers_share_the_events_evenly() -> None:
    """A bare consumer takes its share and not one event more; what is left over would be waited for in vain."""
    _, scenario = scenarios.load("consumers")
    counts = {side.changes["consumers"] for side in scenario.sides.values()}
    assert {1, 16} <= counts
    assert all(case.events % count == 0 for case in (*scenario.cases, *scenario.quick_cases) for count in counts)


def test_the_document_is_json_with_all_that_identifies_a_figure(tmp_path: Path) -> None:
    """A row tells where it comes from without its file."""
    row = Row(
        scenario="staging",
        case="300 B",
        side="bare",
        metric="throughput",
        unit="events/s",
        median=2.0,
        min=1.0,
        max=3.0,
        runs=3,
        values=(1.0, 2.0, 3.0),
        payload_bytes=300,
        events=10,
        concurrency=1,
        batch=200,
        backlog=0,
        consumers=1,
        persistence="AOF everysec",
        loop="uvloop",
        versions={"python": "3.11"},
    )
    failure = Failure(scenario="staging", case="300 B", side="theirs", reason="ImportError: theirs")
    result = Result([row], [], failures=[failure])
    document.write(tmp_path / "new" / "figures.json", document.as_document({"staging": result}, quick=True))
    read = document.read(tmp_path / "new" / "figures.json")
    assert read["rows"] == [json.loads(json.dumps(asdict(row)))]
    assert read["failures"] == [asdict(failure)]
    assert read["quick"] is True
    assert {"at", "machine", *document.LISTS} <= set(read)


def test_a_document_takes_a_line_for_each_figure(tmp_path: Path) -> None:
    """And six digits a number: two runs can be compared with diff."""
    document.write(tmp_path / "figures.json", {"at": "now", "rows": [{"median": 1234.56789}, {"median": 2}]})
    lines = (tmp_path / "figures.json").read_text("utf-8").splitlines()
    assert lines[3:5] == ['  {"median": 1234.57},', '  {"median": 2}']


def test_a_failed_side_has_no_verdict_and_the_others_have_theirs() -> None:
    """A peer that could not be measured is neither beaten nor better."""
    scenario = Scenario(
        units={"throughput": "events/s"},
        cases=[],
        quick_cases=[],
        sides={},
        targets=[Target(side="ours", metric="throughput", against=peer, at_least=1) for peer in ("bare", "gone")],
    )
    judged = list(verdicts("peers_staging", scenario, {"300 B": FIGURES}))
    assert [(verdict.what, verdict.met) for verdict in judged] == [("ours, throughput ÷ bare", True)]


def _better(target: Target) -> list[str]:
    scenario = Scenario(units={}, cases=[], quick_cases=[], sides={}, targets=[target])
    return [each.better for each in ratios("staging", scenario, {"small": 10}, {"small": FIGURES})]


def test_watched_ratios_are_the_quotients_among_the_targets_and_those_that_are_named() -> None:
    """Differences are in units, and say nothing on another machine; a target for two cases is one ratio in each."""
    target = Target(side="ours", metric="throughput", against="bare", at_least=2, case="small")
    scenario = Scenario(
        units={"throughput": "events/s", "p99": "ms"},
        cases=[],
        quick_cases=[],
        sides={},
        targets=[target, replace(target, case="large"), replace(target, metric="p99", minus=True)],
        ratios=[Ratio(side="ours", metric="p99", against="bare", better="less")],
    )
    assert _better(Target(side="ours", metric="p99", against="bare", at_most=2)) == ["less"]
    found = list(ratios("staging", scenario, {"small": 10}, {"small": FIGURES}))
    assert [(each.what, each.better, each.median, each.spread, each.events) for each in found] == [
        ("ours, throughput ÷ bare", "more", 2.0, 1.5, 10),
        ("ours, p99 ÷ bare", "less", 9 / 7, 9 / 6 - 9 / 8, 10),
    ]


@pytest.mark.parametrize(("values", "expected"), [([2.0], 0), ([3, 1, 9, 2], 8), ([3, 1, 9, 2, 5], 3)])
def test_the_spread_of_many_runs_is_without_the_lowest_and_the_highest(values: list[float], expected: float) -> None:
    """One run that something else disturbed must not make everything pass."""
    assert spread(values) == expected


def test_tables_for_the_documentation_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdicts, figures, and who could not be measured."""
    verdict = judge("staging", "300 B", Target(side="ours", metric="p99", at_most=5, excuse="bare"), FIGURES, {})
    row = {"scenario": "staging", "case": "300 B", "side": "bare", "metric": "throughput", "unit": "events/s"}
    failure = Failure(scenario="staging", case="300 B", side="theirs", reason="Traceback\nImportError: theirs")
    figures = {
        "rows": [row | {"median": 2000.4, "min": 1, "max": 3}],
        "verdicts": [asdict(verdict)],
        "failures": [asdict(failure)],
    }
    document.write(tmp_path / "figures.json", figures)
    assert command.main(["--tables", str(tmp_path / "figures.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| staging | 300 B | ours, p99 | ≤ 5 | 9 | 9 – 9 | **missed** (bare in the same run: 7) |" in lines
    assert "| 300 B | bare | throughput | 2,000 | 1 – 3 | events/s |" in lines
    assert "| 300 B | theirs | not measured |  |  | ImportError: theirs |" in lines


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` measures nothing."""
    assert command.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in scenarios.names())


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A typo must not measure nothing in silence."""
    with pytest.raises(SystemExit):
        command.main(["stagin"])
    assert "unknown scenario: stagin" in capsys.readouterr().err


def test_a_reference_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        command.main(["--check", str(tmp_path / "reference.json")])
    assert "there is no" in capsys.readouterr().err


def test_a_traceback_is_told_by_its_last_line() -> None:
    """Where a side fails, the table has room for the reason only."""
    assert last_line("Traceback …\n  File …\nImportError: theirs\n") == "ImportError: theirs"
    assert last_line("") == "no reason given"


@pytest.mark.parametrize(("value", "text"), [(123_456.7, "123,457"), (1.2345, "1.23"), (0.01234, "0.0123")])
def test_figures_are_shown_with_three_digits(value: float, text: str) -> None:
    """More digits than that are noise."""
    assert short(value) == text
