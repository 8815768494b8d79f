"""Runs scenarios: a server of their own, a process for each side, and the sides in turn, again and again."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from benchmarks import judging
from benchmarks.children import Contender, Run, SideError
from benchmarks.counting import QUANTILES
from benchmarks.model import Case, Distribution, Failure, Result, Row, Scenario
from benchmarks.payloads import mean_bytes
from streams_queue.embedded import EmbeddedServer

PERSISTENCE = "AOF everysec"
# A rewrite of the append-only file would fall into one run and not into the next.
_NO_REWRITES = ("--auto-aof-rewrite-percentage", "0")


@dataclass(slots=True)
class _Measured:
    """What the sides of one case gave.

    Attributes:
        runs: By side, in the order in which they were made; a side that failed is not there.
        failures: By side: why.
    """

    runs: dict[str, list[Run]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


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

    Raises:
        SideError: A side failed that is no peer.
    """
    result = Result([], [])
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    cases = scenario.quick_cases if quick else scenario.cases
    for case in cases:
        with EmbeddedServer(append_fsync="everysec", arguments=_NO_REWRITES) as server:
            version = _server_version(server.url)
            measured = _measure(name, scenario, replace(case, url=server.url), runs, loop, tell)
        figures[case.name] = {side: [run.figures for run in made] for side, made in measured.runs.items()}
        result.rows.extend(_rows(name, scenario, case, measured, loop, version))
        result.distributions.extend(_distributions(name, scenario, case, measured, version))
        result.failures.extend(_failures(name, case, measured))
    result.verdicts.extend(judging.verdicts(name, scenario, figures))
    events = {case.name: case.events for case in cases}
    result.ratios.extend(judging.ratios(name, scenario, events, figures))
    return result


def _measure(name: str, scenario: Scenario, case: Case, runs: int, loop: str, tell: Callable[[str], None]) -> _Measured:
    measured = _Measured()
    contenders = [Contender(name, side_name, side, loop) for side_name, side in scenario.sides.items()]
    with ExitStack() as stack:
        for contender in contenders:
            stack.callback(contender.close)
        for run in range(0 if scenario.warm_up else 1, runs + 1):
            for contender in contenders:
                if contender.name in measured.failures:
                    continue
                tell(f"{name} {case.name}: {contender.name}, " + (f"run {run} of {runs}" if run else "warming up"))
                _run_once(contender, case, scenario, measured, counts=run > 0)
    return measured


def _run_once(contender: Contender, case: Case, scenario: Scenario, measured: _Measured, *, counts: bool) -> None:
    with redis.Redis.from_url(case.url) as client:
        # Freed in the background, the last run's data would be in this run's memory and processor time.
        client.execute_command("FLUSHALL", "SYNC")
        client.config_resetstat()
    try:
        run = contender.run(replace(case, **contender.side.changes), fresh=scenario.fresh)
    except SideError as error:
        contender.abandon(error)
        if not contender.side.environment:
            raise
        # A peer that fails is reported; the others are measured without it.
        measured.runs.pop(contender.name, None)
        measured.failures[contender.name] = str(error)
    else:
        if counts:
            measured.runs.setdefault(contender.name, []).append(run)


def _rows(name: str, scenario: Scenario, case: Case, measured: _Measured, loop: str, server: str) -> Iterator[Row]:
    for side, runs in measured.runs.items():
        actual = replace(case, **scenario.sides[side].changes)
        for metric in runs[0].figures:
            values = [run.figures[metric] for run in runs]
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
                payload_bytes=_payload_bytes(actual),
                events=actual.events,
                concurrency=actual.concurrency,
                batch=actual.batch,
                backlog=actual.backlog,
                consumers=actual.consumers,
                persistence=PERSISTENCE,
                loop=loop,
                versions=_versions(runs[0], server),
            )


def _distributions(
    name: str, scenario: Scenario, case: Case, measured: _Measured, server: str
) -> Iterator[Distribution]:
    for side, runs in measured.runs.items():
        for sampled in runs[0].quantiles:
            yield Distribution(
                scenario=name,
                case=case.name,
                side=side,
                name=sampled,
                unit=next(unit for metric, unit in scenario.units.items() if metric.startswith(sampled)),
                quantiles=QUANTILES,
                runs=tuple(run.quantiles[sampled] for run in runs),
                payload_bytes=_payload_bytes(replace(case, **scenario.sides[side].changes)),
                versions=_versions(runs[0], server),
            )


def _failures(name: str, case: Case, measured: _Measured) -> Iterator[Failure]:
    for side, reason in measured.failures.items():
        yield Failure(scenario=name, case=case.name, side=side, reason=reason)


def _payload_bytes(case: Case) -> int:
    return mean_bytes(case.payload) if case.events or case.backlog else 0


def _versions(run: Run, server: str) -> Mapping[str, str]:
    return {**run.versions, "server": server}


def fastest_loop() -> str:
    """Name the event loop that the sides run on if nobody asks for another: uvloop where it is installed."""
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"


def _server_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        server: dict[str, Any] = client.info("server")
    valkey = server.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"


def machine() -> dict[str, Any]:
    """Describe what the run runs on."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    return {"system": platform.system(), "machine": platform.machine(), "cpu": model, "cores": os.cpu_count()}


def _cpu_lines() -> Sequence[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.exists() else []
