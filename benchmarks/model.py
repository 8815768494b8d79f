"""What a scenario is made of, and what a measurement says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Figures = dict[str, float]
PayloadKind = Literal["small", "8 KB", "mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One set of circumstances; every side of a scenario is measured under the same.

    Attributes:
        name: Tells the cases of one scenario apart.
        events: How many events one run takes.
        payload: Which payloads: GitBridge's own small event (0.3 KB), webhooks of about 8 KB, or GitHub's mix (10 KB).
        batch: Events per round trip, where the side chooses it.
        concurrency: Callers or handlers at once.
        backlog: Events that wait beside those that are measured.
        seconds: How long to watch, where time and not events is the measure.
        url: Where the server is; filled in by the harness.
    """

    name: str = ""
    events: int = 0
    payload: PayloadKind = "small"
    batch: int = 1
    concurrency: int = 1
    backlog: int = 0
    seconds: float = 0.0
    url: str = ""


Measure = Callable[[Case], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class Side:
    """One contender.

    Attributes:
        measure: Runs once in a process of its own and returns figures by metric.
        partner: Runs at the same time in another process: the producer to a `measure` that consumes.
    """

    measure: Measure
    partner: Measure | None = None


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
class Scenario:
    """One question, and who answers it under which circumstances.

    Attributes:
        units: The unit of each metric.
        cases: Circumstances; `--quick` takes `quick_cases` instead.
        sides: Contenders by name, measured in this order, again and again: A/B/A/B.
        targets: What is wanted.
        fresh: Start the processes anew for each run, because a process's own past would be measured.
        warm_up: Run each side once before the first run that counts.
    """

    units: Mapping[str, str]
    cases: Sequence[Case]
    quick_cases: Sequence[Case]
    sides: Mapping[str, Side]
    targets: Sequence[Target] = ()
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
    persistence: str
    loop: str
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON file holds of it."""
        return asdict(self)


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
