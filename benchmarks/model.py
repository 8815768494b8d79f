"""What a scenario is made of, and what a measurement says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Figures = dict[str, float]
PayloadKind = Literal["small", "8 KB", "10 KB", "1 MB"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One set of circumstances; every side of a scenario is measured under the same.

    Attributes:
        name: Tells the cases of one scenario apart.
        events: How many events one run takes.
        payload: Which payloads: GitBridge's own small event (0.3 KB), webhooks of 8 or 10 KB, or pushes of 1 MB.
        batch: Events per round trip, where the side chooses it.
        concurrency: Callers or handlers at once.
        backlog: Events that wait beside those that are measured.
        consumers: How many consumers share the work.
        seconds: How long to watch, where time and not events is the measure.
        url: Where the server is; filled in by the harness.
    """

    name: str = ""
    events: int = 0
    payload: PayloadKind = "small"
    batch: int = 1
    concurrency: int = 1
    backlog: int = 0
    consumers: int = 1
    seconds: float = 0.0
    url: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """Figures, and the samples that some of them were taken from.

    Attributes:
        figures: By metric.
        samples: By the name that the metrics begin with, in its unit; the JSON file keeps quantiles.
    """

    figures: Figures
    samples: Mapping[str, Sequence[float]]


Measure = Callable[[Case], Awaitable[Figures | Taken]]


@dataclass(frozen=True, slots=True)
class Side:
    """One contender.

    Attributes:
        measure: Runs once in a process of its own and returns figures by metric.
        partner: Runs at the same time in another process: the producer to a `measure` that consumes.
        changes: Fields of the case that are different for this side: what is compared when one side stands twice.
        environment: Which of the peers' environments it runs in, and it may fail there; empty: the suite's own.
    """

    measure: Measure
    partner: Measure | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wanted of one metric of one side.

    Attributes:
        side: Whose metric.
        metric: Which.
        against: The side that it is divided by, run by run, or whose metric is taken from it; None: it stands alone.
        minus: Take the difference to `against` instead of the quotient.
        at_least: The least that the median may be.
        at_most: The most that it may be.
        case: Only in the case of this name.
        against_case: Divide by the same metric of this other case.
        excuse: A side whose own metric above `at_most`, in the same run, excuses this one.
    """

    side: str
    metric: str
    against: str | None = None
    minus: bool = False
    at_least: float | None = None
    at_most: float | None = None
    case: str | None = None
    against_case: str | None = None
    excuse: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A quotient of two sides that `make bench-check` watches, whether or not a target is set for it.

    Attributes:
        side: Whose metric.
        metric: Which.
        against: The side that it is divided by, run by run.
        better: Which way is better.
    """

    side: str
    metric: str
    against: str
    better: Literal["more", "less"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One question, and who answers it under which circumstances.

    Attributes:
        units: The unit of each metric.
        cases: Circumstances; `--quick` takes `quick_cases` instead.
        sides: Contenders by name, measured in this order, again and again: A/B/A/B.
        targets: What is wanted.
        ratios: What is watched beside the quotients among the targets.
        fresh: Start the processes anew for each run, because a process's own past would be measured.
        warm_up: Run each side once before the first run that counts.
    """

    units: Mapping[str, str]
    cases: Sequence[Case]
    quick_cases: Sequence[Case]
    sides: Mapping[str, Side]
    targets: Sequence[Target] = ()
    ratios: Sequence[Ratio] = ()
    fresh: bool = False
    warm_up: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one side in one case: a line of the JSON file."""

    scenario: str
    case: str
    side: str
    metric: str
    unit: str
    median: float
    min: float
    max: float
    runs: int
    values: tuple[float, ...]
    payload_bytes: int
    events: int
    concurrency: int
    batch: int
    backlog: int
    consumers: int
    persistence: str
    loop: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a target was met, with its spread over the runs."""

    scenario: str
    case: str
    what: str
    wanted: str
    median: float
    min: float
    max: float
    runs: int
    met: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How the single measurements behind a latency are spread: a line of the JSON file.

    Attributes:
        quantiles: Which, in percent.
        runs: Their values, run by run.
    """

    scenario: str
    case: str
    side: str
    name: str
    unit: str
    quantiles: tuple[float, ...]
    runs: tuple[tuple[float, ...], ...]
    payload_bytes: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRatio:
    """A quotient: what one run of the suite can be compared with another by.

    Attributes:
        events: How many events a run had; with more of them, it is another quotient.
        better: Which way is better: `more` or `less`.
        spread: From the lowest run to the highest; of five or more, the lowest and the highest are left out.
    """

    scenario: str
    case: str
    what: str
    events: int
    better: str
    median: float
    spread: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A side that could not be measured."""

    scenario: str
    case: str
    side: str
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario gave."""

    rows: list[Row]
    verdicts: list[Verdict]
    distributions: list[Distribution] = field(default_factory=list)
    ratios: list[WatchedRatio] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
