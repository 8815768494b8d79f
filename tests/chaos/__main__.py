"""`python -m tests.chaos`: one storm, its report, and an exit code that says whether everything held."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos import variants
from tests.chaos.arena import MAX_RETRIES, Arena, Settings, hands
from tests.chaos.checker import check
from tests.chaos.nemesis import lanes_for
from tests.chaos.parts import SHARES
from tests.chaos.report import Part, Report, Targets, show, write
from tests.chaos.single import SingleServer
from tests.chaos.storm import Aftermath, run
from tests.chaos.story import Story
from tests.chaos.watched import WatchedServers

ARENAS: dict[str, type[Arena]] = {arena.name: arena for arena in (SingleServer, WatchedServers)}
FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm; 0: nothing is wrong and all targets are met, 1: something is, 2: the arguments cannot be used."""
    options = _parse(arguments)
    seed = options.seed or str(secrets.randbelow(10**6))
    print(f"make chaos SEED={seed}", flush=True)
    directory = Path(options.keep or tempfile.mkdtemp(prefix="streams-queue-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return _storm(options, seed, directory)
    except ValueError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    finally:
        if options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)


def _storm(options: argparse.Namespace, seed: str, directory: Path) -> int:
    began = time.monotonic()
    package = options.package
    if options.variant is not None:
        package = variants.build(options.variant, directory / "package")
    parts = []
    for arena, share in options.arenas.items():
        settings = Settings(
            seed=seed,
            seconds=options.seconds * share,
            directory=directory / arena,
            rate=options.rate,
            package=package,
            max_size=options.max_size,
            poison_every=options.poison_every,
            work=options.work,
            patience=options.patience,
        )
        settings.directory.mkdir()
        aftermath = asyncio.run(_run(ARENAS[arena], settings, options.mix))
        story = read_story(settings, aftermath)
        parts.append(Part(arena, story, check(story)))
    report = Report(seed, _told(options), parts, seconds=time.monotonic() - began)
    if options.report is not None:
        write(report, Path(options.report))
    return 0 if show(report, Targets(options.events, options.hits, options.kinds)) else FAILED


def _told(options: argparse.Namespace) -> dict[str, Any]:
    shown = ("seconds", "arenas", "rate", "max_size", "poison_every", "work", "mix", "variant")
    return {name: getattr(options, name) for name in shown}


async def _run(make_arena: type[Arena], settings: Settings, mix: dict[str, float] | None) -> Aftermath:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run(make_arena, settings, lanes_for(make_arena.name, mix))


def read_story(settings: Settings, aftermath: Aftermath) -> Story:
    """Read the journals of a storm together with what it left."""
    story = Story(
        aftermath.lease,
        aftermath.max_size,
        MAX_RETRIES + 1,
        hands(settings),
        faults=aftermath.faults,
        samples=aftermath.samples,
        thefts=aftermath.thefts,
        most_held=aftermath.most_held,
        dead=aftermath.dead,
        left=aftermath.left,
        accidents=aftermath.accidents,
        calmed=aftermath.calmed,
    )
    story.add_journals(Path(aftermath.directory))
    return story


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default="", help="decides which faults come, and against whom; default: a random one")
    parser.add_argument("--seconds", type=float, default=200.0, help="how long the faults go on")
    parser.add_argument(
        "--arenas", type=_shares, default="single=0.8,sentinel=0.2", help="and which share of that time; %(default)s"
    )
    parser.add_argument("--rate", type=float, default=1_500.0, help="events a second of all producers together")
    parser.add_argument("--max-size", type=int, default=600, help="of the queue")
    parser.add_argument("--poison-every", type=int, default=20_000, help="one event in so many kills; 0: none")
    parser.add_argument("--patience", type=float, default=60.0, help="how long the queue may take to drain at the end")
    parser.add_argument(
        "--work", type=_counts, default={}, help="how many of a million events are what: slow_fail=10000,fail_once=0"
    )
    parser.add_argument("--mix", type=_shares, help="only these kinds, weighted: worker_kill=5,worker_stop=3")
    parser.add_argument("--events", type=int, default=0, help="fail with fewer acknowledged events")
    parser.add_argument("--hits", type=int, default=0, help="fail with fewer faults that hit")
    parser.add_argument("--kinds", type=int, default=0, help="fail with fewer kinds of faults that hit")
    parser.add_argument("--keep", metavar="DIR", help="leave journals and logs there")
    parser.add_argument("--report", metavar="DIR", help="write report.json, report.txt and timeline.svg there")
    broken = parser.add_mutually_exclusive_group()
    broken.add_argument("--variant", help=f"break the package first: {', '.join(variants.names()) or 'there are none'}")
    broken.add_argument("--package", type=Path, help="the directory that holds the streams_queue under test")
    return parser.parse_args(arguments)


def _counts(text: str) -> dict[str, int]:
    counts = {name: int(count) for name, count in _shares(text).items()}
    if unknown := counts.keys() - SHARES.keys():
        raise argparse.ArgumentTypeError(f"no event is {', '.join(sorted(unknown))}; it may be {', '.join(SHARES)}")
    return counts


def _shares(text: str) -> dict[str, float]:
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): float(share or 1) for name, _, share in pairs}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
