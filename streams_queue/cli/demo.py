"""`demo`: see for yourself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streams_queue.cli import exit_codes
from streams_queue.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    UrlOption,
    as_fields,
    load_settings,
)
from streams_queue.cli.output import print_json, print_line, print_table, stderr
from streams_queue.demo.progress import audience_at
from streams_queue.demo.scenario import DemoOptions, DemoResult, run

_LOST_SHOWN = 5


def demo(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    events: Annotated[int, typer.Option(min=100, help="How many webhooks are enqueued.")] = 20_000,
    producers: Annotated[int, typer.Option(min=1, max=64, help="Processes that enqueue.")] = 3,
    workers: Annotated[int, typer.Option(min=2, max=64, help="Processes that work; one of them is killed.")] = 3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same webhooks.")] = 1,
    sabotage: Annotated[
        bool, typer.Option("--sabotage", help="Drop one event, to see that the count notices.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Leave journals and logs in this directory.")] = None,
) -> None:
    """Put a queue under load, kill a worker with SIGKILL, and count what was lost.

    Starts a server of its own unless --config or --url names one; there it uses a queue of its own, which it removes.
    """
    server = load_settings(config, url, environment).redis_url if config is not None or url is not None else None
    options = DemoOptions(
        events=events,
        producers=producers,
        workers=workers,
        seed=seed,
        sabotage=sabotage,
        url=server,
        keep=keep,
    )
    with audience_at(stderr(), events) as audience:
        result = run(options, audience)
    if as_json:
        print_json(as_json_object(result))
    else:
        print_report(result)
    raise typer.Exit(exit_codes.NO if result.lost else exit_codes.OK)


def as_json_object(result: DemoResult) -> dict[str, Any]:
    """Return the result for a machine: counts as numbers, the lost events by their ids beside them."""
    looks = [as_fields(look) for look in result.looks]
    fields = {**as_fields(result), "lost": len(result.lost), "lost_ids": result.lost, "looks": looks}
    return {**fields, "events_per_second": round(result.events_per_second)}


def print_report(result: DemoResult) -> None:
    """Print the result for a reader; the last line is its gist."""
    counts = (result.enqueued, result.processed, result.redelivered, result.dead, len(result.lost))
    print_table(("enqueued", "processed", "redelivered", "dead", "lost"), [counts])
    print_line(
        f"{result.events_per_second:,.0f} events/s over {result.seconds:.1f} s, the killed worker's recovery included"
    )
    print_line(f"the killed worker held {result.held_by_killed} events; {result.repeated} events were finished twice")
    print_line("")
    for look in result.looks:
        print_line(f"$ {look.command}")
        for line in look.lines:
            print_line(f"  {line}")
    print_line("")
    for event_id in result.lost[:_LOST_SHOWN]:
        print_line(f"lost: {event_id}")
    print_line(f"lost {len(result.lost)}, redelivered {result.redelivered}")
