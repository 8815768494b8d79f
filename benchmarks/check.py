"""Whether anything got worse: the quotients of two runs of the suite, compared.

Quotients, never times: both sides of one were measured in the same minutes on the same machine, so that another
machine, or a busy one, changes both. A quotient got worse if its median is worse than the committed one by more than
the largest of three: the spread of the committed runs, that of the fresh runs, and 5 % of the committed median. The
spread is from the lowest run to the highest; of five or more runs, the lowest and the highest are left out. With some
thirty quotients one or two are beyond that by chance: what seems worse is measured once more, and has to be so again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

LEAST = 0.05
Verdict = Literal["as before", "better", "worse", "missing"]


@dataclass(frozen=True, slots=True)
class Change:
    """One quotient, then and now.

    Attributes:
        what: Scenario, case and quotient.
        before: The committed median.
        now: The fresh median; None if it was not measured, or with other numbers of events.
        margin: By how much it may differ.
        verdict: What that means.
    """

    what: str
    before: float
    now: float | None
    margin: float
    verdict: Verdict


def compare(reference: Iterable[Mapping[str, Any]], fresh: Iterable[Mapping[str, Any]]) -> list[Change]:
    """
    Compare the ratios of two JSON files.

    Args:
        reference: The committed ones; each must have been measured again.
        fresh: Those of now; what is new among them has nothing to be compared with.

    Returns:
        One change for each ratio of the reference, in its order.
    """
    now = {_key(ratio): ratio for ratio in fresh}
    return [_compare(ratio, now.get(_key(ratio))) for ratio in reference]


def confirmed(changes: Iterable[Change], again: Iterable[Change]) -> list[Change]:
    """Return the changes of a first comparison, those that were looked at once more as they were found then."""
    second = {change.what: change for change in again}
    return [second.get(change.what, change) for change in changes]


def scenarios_of(ratios: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return which scenarios have these ratios, each once."""
    return list(dict.fromkeys(ratio["scenario"] for ratio in ratios))


def _key(ratio: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(ratio[name] for name in ("scenario", "case", "what", "events", "better"))


def _compare(before: Mapping[str, Any], now: Mapping[str, Any] | None) -> Change:
    what = f"{before['scenario']}, {before['case']}: {before['what']}"
    if now is None:
        return Change(what, before["median"], None, 0.0, "missing")
    margin = max(before["spread"], now["spread"], LEAST * abs(before["median"]))
    gain = now["median"] - before["median"]
    if before["better"] == "less":
        gain = -gain
    verdict: Verdict = "worse" if gain < -margin else "better" if gain > margin else "as before"
    return Change(what, before["median"], now["median"], margin, verdict)


def failed(changes: Iterable[Change]) -> list[Change]:
    """Return what must not be: quotients that got worse, and such as were not measured."""
    return [change for change in changes if change.verdict in ("worse", "missing")]
