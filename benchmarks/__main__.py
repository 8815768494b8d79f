"""`python -m benchmarks`: measure, print tables, write JSON, compare with an earlier run, draw plots."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import check, document, report, scenarios, tables
from benchmarks.harness import fastest_loop, run_scenario
from benchmarks.model import Result

_RUNS, _QUICK_RUNS = 5, 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="which scenarios; by default all but those of --peers")
    parser.add_argument("--list", action="store_true", help="name the scenarios and what they ask")
    parser.add_argument("--quick", action="store_true", help=f"fewer events, {_QUICK_RUNS} runs: to see that it works")
    parser.add_argument("--peers", action="store_true", help="measure other Python queues beside ours")
    parser.add_argument("--runs", type=int, help=f"runs of each side, at least 1 (default {_RUNS})")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default=fastest_loop(), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to a file")
    parser.add_argument("--check", type=Path, metavar="FILE", help="measure what FILE has, and say what got worse")
    parser.add_argument("--plot", type=Path, nargs="+", metavar="FILE", help="draw what was measured; measure nothing")
    parser.add_argument("--tables", type=Path, nargs="+", metavar="FILE", help="print what was measured, as Markdown")
    parser.add_argument("--to", type=Path, metavar="DIRECTORY", default=Path(), help="where plots go (default: here)")
    return parser


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(given)
    if unknown := set(arguments.scenario) - set(scenarios.names()):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}; try --list")
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs must be at least 1")
    given_files = (*(arguments.plot or ()), *(arguments.tables or ()), *filter(None, [arguments.check]))
    for path in given_files:
        if not path.exists():
            parser.error(
                f"there is no {path}" + ("; make bench-reference writes it" if path == arguments.check else "")
            )
    return arguments


def main(given: list[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code."""
    arguments = _arguments(given)
    if arguments.list:
        report.show_list({name: scenarios.load(name)[0] for name in scenarios.names()})
        return 0
    if arguments.plot:
        return _plot(arguments.plot, arguments.to)
    if arguments.tables:
        print(tables.markdown(map(document.read, arguments.tables)), end="")
        return 0
    if arguments.check:
        return _check(arguments)
    _measure(arguments, arguments.scenario or _all(peers=arguments.peers))
    return 0


def _all(*, peers: bool) -> list[str]:
    return [name for name in scenarios.names() if scenarios.is_about_peers(name) == peers]


def _measure(arguments: argparse.Namespace, names: list[str]) -> document.Document:
    runs = arguments.runs or (_QUICK_RUNS if arguments.quick else _RUNS)
    results: dict[str, Result] = {}
    for name in names:
        question, scenario = scenarios.load(name)
        with report.progress() as tell:
            results[name] = run_scenario(
                name, scenario, quick=arguments.quick, runs=runs, loop=arguments.loop, tell=tell
            )
        report.show(name, question, results[name])
        if arguments.json is not None:
            # After each scenario: a long run that is interrupted has not been for nothing.
            document.write(arguments.json, document.as_document(results, quick=arguments.quick))
    return document.as_document(results, quick=arguments.quick)


def _check(arguments: argparse.Namespace) -> int:
    reference = document.read(arguments.check)
    # As many events and runs as then: the quotients of a short run are not those of a long one, nor as steady.
    arguments.quick = reference["quick"]
    arguments.runs = arguments.runs or max((ratio["runs"] for ratio in reference["ratios"]), default=None)
    names = arguments.scenario or check.scenarios_of(reference["ratios"])
    wanted = [ratio for ratio in reference["ratios"] if ratio["scenario"] in names]
    changes = check.compare(wanted, _measure(arguments, names)["ratios"])
    suspects = [ratio for ratio, change in zip(wanted, changes, strict=True) if change.verdict == "worse"]
    if suspects:
        # The file keeps the first look, which is at everything.
        arguments.json = None
        again = check.compare(suspects, _measure(arguments, check.scenarios_of(suspects))["ratios"])
        changes = check.confirmed(changes, again)
    report.show_changes(changes)
    return 1 if check.failed(changes) or not changes else 0


def _plot(files: list[Path], directory: Path) -> int:
    from benchmarks import plots

    drawn = plots.draw([document.read(path) for path in files], directory)
    for path in drawn:
        print(path)
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
