"""`import`: exported events back into a queue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

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
)
from streams_queue.cli.output import print_error, print_json, print_line, progress, shown
from streams_queue.draining import Import, Imported, Stock
from streams_queue.errors import BackendError


def import_events(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `drain --to jsonl` has written.")],
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
    wait: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds to wait for room in a full queue.")] = 30.0,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Also if it was cut off, or lines are missing.")
    ] = False,
) -> None:
    """Put exported events back, each once, also when run again. Exit code 1: not all are in."""
    stock = Stock(load_one(config, url, environment, side), "import")
    done = Imported()
    try:
        with progress("imported", file.stat().st_size if file.is_file() else None, "bytes") as advance:
            job = Import(stock, file, wait, incomplete, _report_bad, advance, done)
            asyncio.run(_import(job))
    except BackendError:
        print_error("stopped; the same command goes on from there")
        raise
    finally:
        _print_imported(done, as_json=as_json)
    if done.full:
        print_error(f"{done.full}: {done.not_accepted} events are not in; the same command goes on from there")
    raise typer.Exit(exit_codes.OK if done.is_complete else exit_codes.NO)


async def _import(job: Import) -> None:
    try:
        await job.run()
    finally:
        await job.stock.leave()


def _report_bad(number: int, why: str) -> None:
    print_error(f"line {number}: {why}")


def _print_imported(done: Imported, *, as_json: bool) -> None:
    figures = {name: count for name, count in as_fields(done).items() if name != "full"}
    if as_json:
        print_json(figures)
    else:
        print_line(shown(figures))
