"""`python -m tests.chaos.trials`: the checker on trial. It must find each broken variant out, and not the package.

Each is a whole `python -m tests.chaos`: the same producers, workers, faults and checker as in every storm.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from tests.chaos import variants
from tests.chaos.__main__ import FAILED, UNUSABLE
from tests.chaos.processes import CHECKOUT

SEED = "7"
STORM = ("--arenas", "single", "--seconds", "20", "--rate", "1000")
LIMIT = 60.0
CONTROL = "(the package as it is)"
Word = Literal["caught", "passed", "too slow", "unusable", "broke"]
WORDS: dict[int, Word] = {0: "passed", FAILED: "caught", UNUSABLE: "unusable"}


@dataclass(frozen=True)
class Trial:
    """One storm over one package, and what should come of it.

    Attributes:
        variant: Its name, or a file; None is the package as it is.
        storm: What the storm is like.
    """

    variant: str | None
    storm: tuple[str, ...]

    @property
    def name(self) -> str:
        """What to call it in the table."""
        return CONTROL if self.variant is None else Path(self.variant).stem

    @property
    def wanted(self) -> Word:
        """What should come of it."""
        return "passed" if self.variant is None else "caught"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: Which.
        word: `caught`: the checker found something; `passed`: it did not; else there was no verdict.
        seconds: From the start of the harness, servers and processes included, until the verdict.
        findings: How many, by check.
        first: One of them.
    """

    trial: Trial
    word: Word
    seconds: float
    findings: dict[str, int]
    first: str

    @property
    def is_right(self) -> bool:
        """Whether it is as it should be."""
        return self.word == self.trial.wanted


def trials(chosen: Sequence[str]) -> Iterator[Trial]:
    """Return the variants, each kind of storm preceded by a trial of the package as it is."""
    storms: dict[tuple[str, ...], list[str]] = {}
    for variant in chosen:
        storms.setdefault((*STORM, *variants.storm_of(variants.find(variant))), []).append(variant)
    for storm, tried in storms.items():
        yield Trial(None, storm)
        for variant in tried:
            yield Trial(variant, storm)


def run(trial: Trial, seed: str, directory: Path) -> Outcome:
    """Let a storm rage over a package and read its report; no process is left behind."""
    report = directory / "report"
    broken = [] if trial.variant is None else ["--variant", trial.variant]
    command = [sys.executable, "-m", "tests.chaos", "--seed", seed, *trial.storm, *broken, "--report", str(report)]
    began = time.monotonic()
    with (directory / "output").open("wb") as output:
        storm = subprocess.Popen(command, cwd=CHECKOUT, stdout=output, stderr=output)
        try:
            # The package is given more time: what counts is what is found, not how loaded the machine is.
            word = WORDS.get(storm.wait(LIMIT if broken else 3 * LIMIT), "broke")
        except subprocess.TimeoutExpired:
            word = "too slow"
        finally:
            storm.send_signal(signal.SIGTERM)
            storm.wait()
    seconds = time.monotonic() - began
    verdict = report / "report.json"
    if word in ("passed", "caught") and not verdict.exists():
        # An exception of the harness itself ends it with the same code as findings do.
        word = "broke"
    if word in ("passed", "caught"):
        found: dict[str, list[str]] = json.loads(verdict.read_text(encoding="utf-8"))["violations"]
        findings = {check: len(each) for check, each in found.items() if each}
        return Outcome(trial, word, seconds, findings, next((each[0] for each in found.values() if each), ""))
    last = (directory / "output").read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
    return Outcome(trial, word, seconds, {}, "".join(last))


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Make the table of all trials."""
    table = Table("variant", "verdict", "seconds", "what the checker said", "for example", title="The checker on trial")
    for outcome in outcomes:
        colour = "green" if outcome.is_right else "red"
        said = ", ".join(f"{check}: {count:,}" for check, count in outcome.findings.items())
        table.add_row(outcome.trial.name, f"[{colour}]{outcome.word}[/]", f"{outcome.seconds:.0f}", said, outcome.first)
    table.columns[2].justify = "right"
    return table


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return what came of a trial, for machines."""
    return {
        "variant": outcome.trial.name,
        "storm": " ".join(outcome.trial.storm),
        "verdict": outcome.word,
        "as_it_should_be": outcome.is_right,
        "seconds": round(outcome.seconds, 1),
        "findings": outcome.findings,
        "first": outcome.first,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Try variants; 0: all are caught and the package is not, 1: not so, 2: the arguments cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.trials", description=__doc__)
    parser.add_argument(
        "variants", nargs="*", metavar="VARIANT", help=f"{', '.join(variants.names())}, or a patch file"
    )
    parser.add_argument("--seed", default=SEED, help="of all storms; %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(arguments)
    console, outcomes = Console(), []
    try:
        planned = list(trials(options.variants or variants.names()))
    except ValueError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    for trial in planned:
        console.print(f"{trial.name}: tests.chaos --seed {options.seed} {' '.join(trial.storm)}", highlight=False)
        with tempfile.TemporaryDirectory(prefix="streams-queue-trial-") as directory:
            outcomes.append(run(trial, options.seed or SEED, Path(directory)))
    console.print(table_of(outcomes))
    if options.json is not None:
        options.json.write_text(json.dumps([as_json(each) for each in outcomes], indent=1) + "\n", encoding="utf-8")
    return 0 if all(outcome.is_right for outcome in outcomes) else FAILED


if __name__ == "__main__":
    sys.exit(main())
