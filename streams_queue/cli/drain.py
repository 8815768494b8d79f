"""`drain`: the way out of a queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from streams_queue.cli import exit_codes
from streams_queue.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    SideOption,
    UrlOption,
    as_fields,
    load_one,
    queue_on_server,
)
from streams_queue.cli.output import print_error, print_fields, print_json, print_line, progress, shown
from streams_queue.cli.working import load_handler, log_to_stderr
from streams_queue.config import Settings
from streams_queue.draining import (
    Drain,
    Report,
    Sink,
    Stock,
    ToFile,
    ToList,
    WorkedOff,
    work_off,
)
from streams_queue.draining.file import ExportFile
from streams_queue.errors import StreamsQueueError, UsageError
from streams_queue.keys import PLAN_LIST, QueueKeys
from streams_queue.worker import Worker


class Target(StrEnum):
    """Where a drain goes."""

    LIST = "list"
    JSONL = "jsonl"
    HANDLER = "asyncio-handler"


def drain(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY|FILE|MODULE:HANDLER]", help=f"The list's key ({PLAN_LIST}), the file, the handler."
        ),
    ] = None,
    *,
    to: Annotated[
        Target, typer.Option("--to", help="A list on the same server, a file of JSON lines, a handler here.")
    ],
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
    dead: Annotated[bool, typer.Option("--dead", help="Dead letters as well.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="First refuse new events, in all processes.")] = False,
    pause_delivery: Annotated[bool, typer.Option("--pause-delivery", help="First hand out nothing more.")] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="S", help="Seconds to wait for what is in flight; default: two leases, at least 30."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many events run at once; for a handler.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to drain.")] = False,
) -> None:
    """Take all events out of a queue. Exit code 0: it is empty, and the counts add up; 1: something is left."""
    settings = load_one(config, url, environment, side)
    patience = max(30.0, 2 * settings.lease) if wait is None else wait
    if dry_run:
        _print_plan(asyncio.run(_look(settings, dead=dead)), as_json=as_json)
        return
    log_to_stderr("warning")
    if to is Target.HANDLER:
        if pause_delivery:
            raise UsageError("With --pause-delivery the handler would get nothing")
        handler = load_handler(_named(target, "a handler, MODULE:HANDLER"))
        worked = asyncio.run(
            _work_off(settings, handler, dead=dead, pause=pause, wait=patience, concurrency=concurrency)
        )
        _print_worked_off(*worked, as_json=as_json)
        raise typer.Exit(exit_codes.OK if worked[1].is_empty else exit_codes.NO)
    options = {"wait": patience, "dead": dead, "pause_intake": pause, "pause_delivery": pause_delivery}
    report = asyncio.run(_drain(settings, to, target, options))
    _print_report(report, as_json=as_json)
    raise typer.Exit(exit_codes.OK if report.is_empty and report.adds_up else exit_codes.NO)


def _named(target: str | None, what: str) -> str:
    if not target:
        raise UsageError(f"Name {what}")
    return target


# --- onto a list, into a file ---


async def _drain(settings: Settings, to: Target, target: str | None, options: dict[str, Any]) -> Report:
    if to is Target.LIST:
        stock = Stock(settings, ToList.consumer())
        return await _run(stock, ToList(stock, target or PLAN_LIST), options)
    path = Path(_named(target, "a file"))
    with contextlib.closing(ExportFile(path, QueueKeys(settings.namespace, settings.name).stream)) as file:
        stock = Stock(settings, ToFile.consumer(file))
        return await _run(stock, ToFile(stock, file), options)


async def _run(stock: Stock, sink: Sink, options: dict[str, Any]) -> Report:
    job = Drain(stock, sink, **options)
    try:
        figures = await stock.figures()
        total = figures.entries + figures.delayed + (figures.dead if job.dead else 0)
        with progress("drained", total, "events") as job.advance:
            return await job.run()
    except StreamsQueueError:
        print_error(
            f"stopped; {sum(job.taken.values())} events are out of the queue. The same command goes on from there"
        )
        raise
    finally:
        await stock.leave()


def _print_report(report: Report, *, as_json: bool) -> None:
    fields: dict[str, Any] = {
        "drained": {"waiting": report.waiting, "delayed": report.delayed, "dead": report.dead},
        "at_start": report.at_start,
        "came_in": report.came_in,
        "settled": report.settled,
        "left": {
            "waiting": report.left_waiting,
            "in_flight": report.left_in_flight,
            "delayed": report.left_delayed,
            "dead": report.left_dead,
        },
        "adds_up": report.adds_up,
        "empty": report.is_empty,
        "paused": report.paused,
    }
    if as_json:
        print_json(fields)
        return
    said = {name.replace("_", " "): shown(value) for name, value in fields.items()}
    print_fields({name: value for name, value in said.items() if value})
    _say_what_is_left(report)


def _say_what_is_left(report: Report) -> None:
    if report.left_in_flight:
        print_error(f"{report.left_in_flight} events are still with workers: stop them, or wait longer (--wait)")
    if report.left_waiting:
        print_error(
            f"{report.left_waiting} events have come in since: stop the producers, or refuse new events (--pause)"
        )
    if report.left_delayed:
        print_error(f"{report.left_delayed} events are delayed that came in since, or cannot go there")
    if report.takes_dead and report.left_dead:
        print_error(f"{report.left_dead} dead letters cannot go there")
    if not report.adds_up:
        print_error(
            "the counts do not add up: somebody else has taken events out of the queue's keys, or another drain runs"
        )


# --- through a handler ---


async def _work_off(
    settings: Settings, handler: Callable[[Any], Any], *, dead: bool, pause: bool, wait: float, concurrency: int
) -> tuple[Worker, WorkedOff]:
    stock = Stock(settings, "drain-to-handler")
    try:
        async with queue_on_server(settings) as queue:
            if pause:
                await stock.pause((await stock.figures()).totals.get("paused", ""), intake=True, delivery=False)
            worker = Worker(queue, handler, concurrency=concurrency, name="drain")
            return worker, await work_off(queue, worker, stock, wait=wait, dead=dead)
    finally:
        await stock.leave()


def _print_worked_off(worker: Worker, worked: WorkedOff, *, as_json: bool) -> None:
    stats = worked.stats
    left = {"waiting": stats.waiting, "in_flight": stats.in_flight, "delayed": stats.delayed, "dead": stats.dead}
    fields: dict[str, Any] = {**as_fields(worker.counts), "left": left, "died": worked.died, "empty": worked.is_empty}
    if as_json:
        print_json(fields)
    else:
        print_fields({name.replace("_", " "): shown(value) for name, value in fields.items()})
    if worked.died:
        print_error(f"{worked.died} events have become dead letters: `streams-queue dead list` says why")
    if stats.waiting or stats.in_flight or stats.delayed:
        print_error("not empty: events still come in, are with other workers, or wait for their next try")


# --- looking ---


async def _look(settings: Settings, *, dead: bool) -> dict[str, int]:
    stock = Stock(settings, "drain-looks")
    try:
        figures = await stock.look()
    finally:
        await stock.leave()
    there = {
        "waiting": max(0, figures.entries - figures.pending),
        "in_flight": figures.pending,
        "delayed": figures.delayed,
    }
    return there | ({"dead": figures.dead} if dead else {})


def _print_plan(there: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json({"would_drain": there})
    else:
        print_line(f"would drain {shown(there)}")
