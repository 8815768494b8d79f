"""Runs scenarios: a server of their own, a process for each side, and the sides in turn, again and again."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from benchmarks.model import Case, Figures, Row, Scenario, Side, Target, Verdict
from benchmarks.payloads import mean_bytes
from streams_queue.embedded import EmbeddedServer

PERSISTENCE = "AOF everysec"
# A rewrite of the append-only file would fall into one run and not into the next.
_NO_REWRITES = ("--auto-aof-rewrite-percentage", "0")
_PACKAGES = ("streams-queue", "redis", "hiredis", "msgspec", "uvloop")


class SideError(RuntimeError):
    """A side could not be measured; the message is its traceback."""


class Child:
    """A process that measures one side, run after run."""

    def __init__(self, scenario: str, side: str, role: str, loop: str) -> None:
        self._what = f"{scenario}: {side}, {role}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", scenario, side, role, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def begin(self, case: Case) -> None:
        """Have it run once."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps(asdict(case)) + "\n")
        self._process.stdin.flush()

    def result(self) -> Figures:
        """Wait for the figures of the run that was begun."""
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in answer:
            raise SideError(f"{self._what}: {answer['error']}")
        figures: Figures = answer["figures"]
        return figures

    def __enter__(self) -> Self:
        """The process runs since its construction."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, gently after a result, at once after an error."""
        if exc_type is not None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


class Contender:
    """A side with its processes: one, or two where it has a partner."""

    def __init__(self, scenario: str, name: str, side: Side, loop: str) -> None:
        self.name = name
        self._roles = ["measure"] if side.partner is None else ["measure", "partner"]
        self._scenario, self._loop = scenario, loop
        self._stack = ExitStack()
        self._children: list[Child] = []

    def run(self, case: Case, *, fresh: bool) -> Figures:
        """Measure once; `fresh` in new processes."""
        if fresh:
            self.close()
        if not self._children:
            new = (Child(self._scenario, self.name, role, self._loop) for role in self._roles)
            self._children = [self._stack.enter_context(child) for child in new]
        for child in self._children:
            child.begin(case)
        figures: Figures = {}
        for child in self._children:
            figures |= child.result()
        return figures

    def close(self) -> None:
        """End the processes."""
        self._children = []
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario gave."""

    rows: list[Row]
    verdicts: list[Verdict]


def run_scenario(
    name: str,
    scenario: Scenario,
    *,
    quick: bool,
    runs: int,
    loop: str,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """
    Measure all sides of a scenario in all its cases.

    Args:
        name: The scenario's module.
        scenario: What to measure.
        quick: Take the quick cases.
        runs: How often each side is measured; the sides take turns.
        loop: On which event loop: `asyncio` or `uvloop`.
        tell: Is told what is going on.
    """
    rows: list[Row] = []
    measured: dict[str, dict[str, list[Figures]]] = {}
    for case in scenario.quick_cases if quick else scenario.cases:
        with EmbeddedServer(append_fsync="everysec", arguments=_NO_REWRITES) as server:
            versions = _versions(server.url)
            measured[case.name] = _measure(name, scenario, replace(case, url=server.url), runs, loop, tell)
        rows += _rows(name, scenario, case, measured[case.name], loop, versions)
    return Result(rows, list(_verdicts(name, scenario, measured)))


def _measure(
    name: str, scenario: Scenario, case: Case, runs: int, loop: str, tell: Callable[[str], None]
) -> dict[str, list[Figures]]:
    figures: dict[str, list[Figures]] = {side: [] for side in scenario.sides}
    contenders = [Contender(name, side_name, side, loop) for side_name, side in scenario.sides.items()]
    with ExitStack() as stack:
        for contender in contenders:
            stack.callback(contender.close)
        for run in range(0 if scenario.warm_up else 1, runs + 1):
            for contender in contenders:
                tell(f"{name} {case.name}: {contender.name}, " + (f"run {run} of {runs}" if run else "warming up"))
                with redis.Redis.from_url(case.url) as client:
                    # Freed in the background, the last run's data would be in this run's memory and processor time.
                    client.execute_command("FLUSHALL", "SYNC")
                    client.config_resetstat()
                measured = contender.run(case, fresh=scenario.fresh)
                if run:
                    figures[contender.name].append(measured)
    return figures


def _rows(
    name: str, scenario: Scenario, case: Case, measured: dict[str, list[Figures]], loop: str, versions: dict[str, str]
) -> Iterator[Row]:
    for side, figures in measured.items():
        for metric in figures[0]:
            values = [run[metric] for run in figures]
            yield Row(
                scenario=name,
                case=case.name,
                side=side,
                metric=metric,
                unit=scenario.units[metric],
                median=statistics.median(values),
                min=min(values),
                max=max(values),
                runs=len(values),
                values=tuple(values),
                payload_bytes=mean_bytes(case.payload) if case.events or case.backlog else 0,
                events=case.events,
                concurrency=case.concurrency,
                batch=case.batch,
                persistence=PERSISTENCE,
                loop=loop,
                versions=versions,
            )


def _verdicts(name: str, scenario: Scenario, measured: dict[str, dict[str, list[Figures]]]) -> Iterator[Verdict]:
    for target in scenario.targets:
        for case, figures in measured.items():
            if target.case in (None, case) and (target.against_case is None or target.against_case in measured):
                yield judge(name, case, target, figures, measured.get(target.against_case or case, {}))


def judge(
    scenario: str,
    case: str,
    target: Target,
    figures: dict[str, list[Figures]],
    against: dict[str, list[Figures]],
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
    note = ""
    if not met and target.excuse is not None and target.at_most is not None:
        excuse = statistics.median(run[target.metric] for run in figures[target.excuse])
        note = f"{target.excuse} in the same run: {excuse:.3g}" if excuse > target.at_most else ""
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
        note=note,
    )


def fastest_loop() -> str:
    """Name the event loop that the sides run on if nobody asks for another: uvloop where it is installed."""
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"


def _versions(url: str) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    with redis.Redis.from_url(url) as client:
        server: dict[str, Any] = client.info("server")
    valkey = server.get("valkey_version")
    versions["server"] = f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"
    return versions


def machine() -> dict[str, Any]:
    """Describe what the run runs on."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    return {"system": platform.system(), "machine": platform.machine(), "cpu": model, "cores": os.cpu_count()}


def _cpu_lines() -> Sequence[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.exists() else []
