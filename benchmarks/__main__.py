"""`python -m benchmarks`: measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report, scenarios
from benchmarks.harness import Result, fastest_loop, machine, run_scenario

_RUNS, _QUICK_RUNS = 5, 3


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="which scenarios; all of them by default")
    parser.add_argument("--list", action="store_true", help="name the scenarios and what they ask")
    parser.add_argument("--quick", action="store_true", help=f"fewer events, {_QUICK_RUNS} runs: to see that it works")
    parser.add_argument("--runs", type=int, help=f"runs of each side, at least 1 (default {_RUNS})")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default=fastest_loop(), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows and verdicts to a file")
    arguments = parser.parse_args(given)
    if unknown := set(arguments.scenario) - set(scenarios.names()):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}; try --list")
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs must be at least 1")
    return arguments


def main(given: list[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code."""
    arguments = _arguments(given)
    if arguments.list:
        report.show_list({name: scenarios.load(name)[0] for name in scenarios.names()})
        return 0
    runs = arguments.runs or (_QUICK_RUNS if arguments.quick else _RUNS)
    results: dict[str, Result] = {}
    for name in arguments.scenario or scenarios.names():
        question, scenario = scenarios.load(name)
        with report.progress() as tell:
            results[name] = run_scenario(
                name, scenario, quick=arguments.quick, runs=runs, loop=arguments.loop, tell=tell
            )
        report.show(name, question, results[name])
        if arguments.json is not None:
            # After each scenario: a long run that is interrupted has not been for nothing.
            _write(arguments.json, results, quick=arguments.quick)
    return 0


def _write(path: Path, results: dict[str, Result], *, quick: bool) -> None:
    path.write_text(json.dumps(as_document(results, quick=quick), indent=1, ensure_ascii=False) + "\n", "utf-8")


def as_document(results: dict[str, Result], *, quick: bool) -> dict[str, object]:
    """Return what the JSON file holds."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine() | {"load": list(os.getloadavg())},
        "rows": [row.as_json() for result in results.values() for row in result.rows],
        "verdicts": [report.verdict_json(verdict) for result in results.values() for verdict in result.verdicts],
    }


if __name__ == "__main__":
    sys.exit(main())
