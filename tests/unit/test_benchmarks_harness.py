"""The benchmark suite's own arithmetic and shape: what a figure says must be what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import baseline, scenarios
from benchmarks.counting import latencies, percentile
from benchmarks.harness import Result, judge
from benchmarks.model import Row, Target
from benchmarks.payloads import distinct, mean_bytes, payloads
from benchmarks.report import short

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
    """The small event is about 0.3 KB, the webhooks lie around 8 KB and 10 KB."""
    assert 250 <= mean_bytes("small") <= 350
    assert 7_000 <= mean_bytes("8 KB") <= 9_000
    assert 9_000 <= mean_bytes("mixed") <= 15_000
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


def test_the_document_is_json_with_all_that_identifies_a_figure() -> None:
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
        persistence="AOF everysec",
        loop="uvloop",
        versions={"python": "3.11"},
    )
    document = json.loads(json.dumps(command.as_document({"staging": Result([row], [])}, quick=True)))
    assert document["rows"][0]["values"] == [1.0, 2.0, 3.0]
    assert document["quick"] is True
    assert {"at", "machine", "verdicts"} <= set(document)


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


@pytest.mark.parametrize(("value", "text"), [(123_456.7, "123,457"), (1.2345, "1.23"), (0.01234, "0.0123")])
def test_figures_are_shown_with_three_digits(value: float, text: str) -> None:
    """More digits than that are noise."""
    assert short(value) == text
