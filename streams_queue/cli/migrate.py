"""`migrate`: from the lists of GitBridge's plan into a queue."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from streams_queue.cli import exit_codes
from streams_queue.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    LogLevelOption,
    SideOption,
    UrlOption,
    as_fields,
    load_one,
)
from streams_queue.cli.output import print_json, print_line, printable, stderr
from streams_queue.cli.working import log_to_stderr
from streams_queue.config import Settings
from streams_queue.errors import ConfigError, UsageError
from streams_queue.keys import PLAN_LIST, PLAN_PROCESSING_LIST
from streams_queue.migration import (
    Asked,
    Audience,
    Migration,
    Report,
    Tally,
    Unfit,
    parse_processing,
    preview,
)
from streams_queue.worker.signals import on_stop_signals

_SHOWN_UNFIT = 20


def migrate(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
    source: Annotated[str, typer.Option("--list", metavar="KEY", help="The list that holds what waits.")] = PLAN_LIST,
    processing_list: Annotated[
        str, typer.Option("--processing-list", metavar="KEY", help="The list of what the old consumers took.")
    ] = PLAN_PROCESSING_LIST,
    processing: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="What becomes of the processing list: aside, requeue, newest:N, export[:FILE] or leave.",
        ),
    ] = "aside",
    set_aside: Annotated[
        str | None, typer.Option(metavar="KEY", help="Where what is no event goes; default: LIST:set-aside.")
    ] = None,
    processing_set_aside: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The same for the processing list; default: PROCESSING-LIST:set-aside."),
    ] = None,
    from_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The server that has the lists, if it is not the queue's.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until SIGTERM or Ctrl-C.")] = False,
    until_idle: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="End a --follow when nothing has come for so long.")
    ] = None,
    wait_for_room: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", help="Give up when the queue is full for so long; default: wait."),
    ] = None,
    leave_room: Annotated[
        int, typer.Option(min=0, metavar="N", help="Leave so many places of max_size to other producers.")
    ] = 0,
    beyond_max_size: Annotated[
        bool, typer.Option("--beyond-max-size", help="Fill the queue beyond its max_size, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    log_level: LogLevelOption = "info",
) -> None:
    """Move the lists of GitBridge's plan into the queue. Run it again after a crash: it goes on where it was."""
    log_to_stderr(log_level)
    asked = Asked(
        source=source,
        processing_list=processing_list,
        processing=parse_processing(processing, processing_list),
        set_aside=set_aside,
        processing_set_aside=processing_set_aside,
        follow=follow,
        until_idle=math.inf if until_idle is None else until_idle,
        wait_for_room=math.inf if wait_for_room is None else wait_for_room,
        leave_room=leave_room,
        beyond_max_size=beyond_max_size,
    )
    _check(asked, dry_run=dry_run)
    settings = load_one(config, url, environment, side)
    if settings.redis_url is None:
        # An asyncio queue needs none; there is nothing to migrate into.
        raise ConfigError("queue.redis_url: Missing redis_url")
    signals: list[signal.Signals] = []
    with _audience_at(stderr()) as audience:
        if dry_run:
            report = asyncio.run(preview(settings, asked, from_url=from_url, audience=audience))
        else:
            report = asyncio.run(_migrate(settings, asked, from_url, audience, signals))
    if as_json:
        print_json(_as_json(report, asked))
    else:
        _print(report, asked)
    raise typer.Exit(_exit_code(report, signals))


def _check(asked: Asked, *, dry_run: bool) -> None:
    asked.check()
    if asked.follow and dry_run:
        raise UsageError("--dry-run looks once: it cannot --follow")
    if not asked.follow and asked.until_idle != math.inf:
        raise UsageError("--until-idle says when --follow ends: give both")
    if asked.beyond_max_size and asked.leave_room:
        raise UsageError(
            "--leave-room keeps the queue below its max_size: it cannot be filled --beyond-max-size as well"
        )


async def _migrate(
    settings: Settings, asked: Asked, from_url: str | None, audience: Audience, signals: list[signal.Signals]
) -> Report:
    migration = Migration(settings, asked, from_url=from_url, audience=audience)

    def stop(number: signal.Signals) -> None:
        signals.append(number)
        migration.stop.set()

    with on_stop_signals(stop):
        return await migration.run()


def _exit_code(report: Report, signals: list[signal.Signals]) -> int:
    if report.finished and report.adds_up:
        return exit_codes.OK
    return 128 + signals[0] if signals and report.adds_up else exit_codes.NO


# --- the report ---


def _as_json(report: Report, asked: Asked) -> dict[str, Any]:
    return {
        "finished": report.finished,
        "adds_up": report.adds_up,
        "dry_run": report.dry_run,
        "waiting": {"list": asked.source, **as_fields(report.waiting), "set_aside_list": asked.set_aside_key},
        "processing": {
            "list": asked.processing_list,
            **as_fields(report.processing),
            "set_aside_list": asked.processing_set_aside_key,
        },
        "unfit": dict(report.unfit),
    }


def _print(report: Report, asked: Asked) -> None:
    if report.dry_run:
        print_line("This was a dry run, nothing was changed. A migration would end like this:")
    _print_tally(asked.source, report.waiting, asked.set_aside_key)
    _print_tally(asked.processing_list, report.processing, asked.processing_set_aside_key)
    if report.unfit:
        print_line(
            f"Set aside as no events: {', '.join(f'{count} {reason}' for reason, count in report.unfit.items())}."
        )
    if report.processing.others > 0:
        print_line(
            f"Old consumers still run: they have put {report.processing.others} items into {asked.processing_list} "
            "meanwhile. Stop them and migrate once more."
        )
    if not report.adds_up:
        print_line(_why_not(report))
    elif not report.finished:
        print_line("Not finished; run it again to go on.")


def _why_not(report: Report) -> str:
    if report.record_lost:
        return (
            "The record of the migration was gone on the way: another migration of the list has ended, or the server "
            "has lost data. The figures are about what came after."
        )
    return "This does not add up: the server has lost data on the way."


def _print_tally(key: str, tally: Tally, set_aside_key: str) -> None:
    others = f" {tally.others:+d} by others since" if tally.others else ""
    to = f" to {set_aside_key}" if tally.set_aside else ""
    way = f", {tally.on_the_way} on the way" if tally.on_the_way else ""
    became = f"{tally.moved} moved, {tally.set_aside} set aside{to}{way}, {tally.left} left"
    print_line(f"{key}: {tally.found} found{others} = {became}")


# --- while it goes ---


class Lines(Audience):
    """Says what somebody should know, a line each, and moves a bar in a terminal.

    Args:
        console: Where the lines go.
        progress: Has the bar; None where there is no terminal.
    """

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("migrate", total=None) if progress else None
        self._done = self._shown = 0

    def began(self, waiting: Tally, processing: Tally) -> None:
        """Set the bar: what is found is to be moved or set aside."""
        found = waiting.found + processing.found
        self._done = sum(tally.moved + tally.set_aside for tally in (waiting, processing))
        if self._done:
            self._say(f"going on where an earlier run was: {self._done} of {found} are done")
        self._update(found)

    def advanced(self, moved: int, set_aside: int) -> None:
        """Move the bar."""
        self._done += moved + set_aside
        self._update()

    def _update(self, total: int | None = None) -> None:
        if self._progress is not None and self._task is not None:
            known = self._progress.tasks[0].total if total is None else total
            # In a migration that follows more comes than was found.
            self._progress.update(self._task, completed=self._done, total=max(self._done, known or 0))

    def unfit(self, unfit: Unfit) -> None:
        """Say what is wrong with the first ones; the report has the counts."""
        self._shown += 1
        if self._shown <= _SHOWN_UNFIT:
            self._say(f"set aside as {unfit.reason}: {unfit.error}")
        elif self._shown == _SHOWN_UNFIT + 1:
            self._say("more of them are set aside; only their counts are shown")

    def waits(self, why: str) -> None:
        """Say that the queue takes nothing, and what would help."""
        remedy = "workers have to make room" if why == "full" else "resume its intake"
        self._say(f"the queue is {why}; waiting ({remedy})")

    def follows(self) -> None:
        """Say that the bridge is up."""
        self._say("everything is moved; following what comes")

    def _say(self, line: str) -> None:
        self._console.print(Text(f"streams-queue: {printable(line)}"))


@contextlib.contextmanager
def _audience_at(console: Console) -> Iterator[Audience]:
    """Show a bar in a terminal; the lines are everywhere."""
    if not console.is_terminal:
        yield Lines(console, None)
        return
    columns = (TextColumn("migrated"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield Lines(console, progress)
