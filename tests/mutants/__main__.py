"""`python -m tests.mutants`: try all mutants, and say which ones nobody noticed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table

from tests.mutants import lua, python, survivors
from tests.mutants.mutant import Mutant
from tests.mutants.trial import CHECKOUT, Copy, Outcome

PURE = ("streams_queue/retry.py", "streams_queue/breaker.py")
FAILED, UNUSABLE = 1, 2


def all_mutants() -> Iterator[Mutant]:
    """Yield the mutants of all scripts and of the pure decisions."""
    for path in sorted((CHECKOUT / "streams_queue" / "lua").rglob("*.lua")):
        yield from lua.mutants(path.relative_to(CHECKOUT).as_posix(), path.read_text("utf-8"))
    for name in PURE:
        yield from python.mutants(name, (CHECKOUT / name).read_text("utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try them; 0: somebody notices each mutant but the known survivors, 1: not so, 2: there is nothing to try."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="a part of a place such as lua/ack.lua:12; default: all")
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="try every Nth mutant only")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--thorough", action="store_true", help="run all tests on the accepted survivors, too")
    options = parser.parse_args(arguments)
    mutants = [each for each in all_mutants() if options.only in f"{each.path}:{each.line}"][:: options.sample]
    if not mutants:
        print(f"no mutants at {options.only!r}", file=sys.stderr)
        return UNUSABLE
    return _report(_try_all(mutants, options.jobs, thorough=options.thorough))


def _try_all(mutants: Sequence[Mutant], jobs: int, *, thorough: bool) -> list[Outcome]:
    accepted = set() if thorough else set(survivors.known())
    with tempfile.TemporaryDirectory(prefix="streams-queue-mutants-") as directory, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(Path(directory) / str(number)))
        first = copies.get()
        if not first.unharmed():
            raise SystemExit("the tests fail without any mutant: mend that first")
        copies.put(first)

        def try_one(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                return _told(copy.try_out(mutant, briefly=survivors.place(mutant) in accepted))
            finally:
                copies.put(copy)

        return list(pool.map(try_one, mutants))


def _told(outcome: Outcome) -> Outcome:
    mutant = outcome.mutant
    fate = f"killed by {outcome.killer}" if outcome.killer else "SURVIVED"
    print(f"{mutant.path}:{mutant.line}: {mutant.change}: {fate} ({outcome.seconds:.1f} s)", flush=True)
    return outcome


def _report(outcomes: Sequence[Outcome]) -> int:
    reasons = survivors.known()
    made = Counter(outcome.mutant.path for outcome in outcomes)
    alive = [outcome.mutant for outcome in outcomes if outcome.killer is None]
    unexplained = [mutant for mutant in alive if survivors.place(mutant) not in reasons]
    noticed = [each.mutant for each in outcomes if each.killer and survivors.place(each.mutant) in reasons]
    table = Table("file", "mutants", "killed", "equal in effect", "survived")
    for path in sorted(made):
        survived = sum(mutant.path == path for mutant in alive)
        open_ones = sum(mutant.path == path for mutant in unexplained)
        table.add_row(path, *map(str, (made[path], made[path] - survived, survived - open_ones, open_ones)))
    Console(width=120).print(table)
    for mutant in unexplained:
        print(f"nobody notices {mutant.path}:{mutant.line}: {mutant.change}: {mutant.code}")
    for mutant in noticed:
        print(f"not a survivor any more: {mutant.path}:{mutant.line}: {mutant.change}: {mutant.code}")
    print(f"{len(outcomes)} mutants, {len(outcomes) - len(alive)} killed, {len(unexplained)} unexplained")
    return FAILED if unexplained or noticed else 0


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
