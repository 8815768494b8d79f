"""What runs say together: whether a target is met, and which quotients are worth watching. All of it is pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.model import Figures, Ratio, Scenario, Target, Verdict, WatchedRatio

Measured = Mapping[str, Mapping[str, Sequence[Figures]]]
"""By case and side: the figures of each run. A side that failed is not there."""


def verdicts(name: str, scenario: Scenario, measured: Measured) -> Iterator[Verdict]:
    """Judge each target in each case in which all that it names was measured."""
    for target in scenario.targets:
        for case, figures in measured.items():
            against = measured.get(target.against_case or case, {})
            others = figures if target.against_case is None else against
            there = target.side in figures and (target.against or target.side) in others
            if there and target.case in (None, case):
                yield judge(name, case, target, figures, against)


def judge(
    scenario: str,
    case: str,
    target: Target,
    figures: Mapping[str, Sequence[Figures]],
    against: Mapping[str, Sequence[Figures]],
) -> Verdict:
    """Compare a side's runs with the neighbouring runs of another side, and the median of that with what is wanted."""
    values = [run[target.metric] for run in figures[target.side]]
    what = f"{target.side}, {target.metric}"
    other_side = target.against or (target.side if target.against_case else None)
    if other_side is not None:
        others = [run[target.metric] for run in against[other_side]]
        where = f" ({target.against_case})" if target.against_case else ""
        what += f" {'−' if target.minus else '÷'} {other_side}{where}"
        values = [a - b if target.minus else a / b for a, b in zip(values, others, strict=True)]
    median = statistics.median(values)
    high_enough = target.at_least is None or median >= target.at_least
    met = high_enough and (target.at_most is None or median <= target.at_most)
    return Verdict(
        scenario=scenario,
        case=case,
        what=what,
        wanted=f"≥ {target.at_least:g}" if target.at_least is not None else f"≤ {target.at_most:g}",
        median=median,
        min=min(values),
        max=max(values),
        runs=len(values),
        met=met,
        note="" if met else _excuse(target, figures),
    )


def _excuse(target: Target, figures: Mapping[str, Sequence[Figures]]) -> str:
    if target.excuse is None or target.at_most is None:
        return ""
    excuse = statistics.median(run[target.metric] for run in figures[target.excuse])
    return f"{target.excuse} in the same run: {excuse:.3g}" if excuse > target.at_most else ""


def ratios(name: str, scenario: Scenario, events: Mapping[str, int], measured: Measured) -> Iterator[WatchedRatio]:
    """
    Return all quotients that can be compared with those of another run of the suite.

    Args:
        name: The scenario's.
        scenario: Its targets that are quotients count, and what it names beside them.
        events: How many events a run had, by case.
        measured: The runs.
    """
    for ratio in _watched(scenario):
        for case, figures in measured.items():
            if ratio.side in figures and ratio.against in figures:
                runs = zip(figures[ratio.side], figures[ratio.against], strict=True)
                values = [ours[ratio.metric] / theirs[ratio.metric] for ours, theirs in runs]
                yield WatchedRatio(
                    scenario=name,
                    case=case,
                    what=f"{ratio.side}, {ratio.metric} ÷ {ratio.against}",
                    events=events[case],
                    better=ratio.better,
                    median=statistics.median(values),
                    spread=spread(values),
                    runs=len(values),
                )


def spread(values: Sequence[float]) -> float:
    """Return how far runs lie apart; of five or more, the lowest and the highest do not count."""
    kept = sorted(values)[1:-1] if len(values) >= 5 else sorted(values)
    return kept[-1] - kept[0]


def _watched(scenario: Scenario) -> Iterator[Ratio]:
    # A dictionary, since a target that is set case by case is one ratio.
    found = {
        (target.side, target.metric, target.against): Ratio(
            side=target.side,
            metric=target.metric,
            against=target.against,
            better="less" if target.at_least is None else "more",
        )
        for target in scenario.targets
        if target.against is not None and not target.minus
    }
    yield from (found | {(each.side, each.metric, each.against): each for each in scenario.ratios}).values()
