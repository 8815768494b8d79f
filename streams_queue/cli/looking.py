"""`stats`, `health`, `peek`: looking at a queue without changing it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from streams_queue.cli import exit_codes
from streams_queue.cli.options import ConfigOption, EnvironmentOption, JsonOption, UrlOption, as_fields, open_queue
from streams_queue.cli.output import moment, print_fields, print_json, print_table, shortened
from streams_queue.messages import QueueStats, WaitingEvent
from streams_queue.queue import Queue

_HEALTH_CODES = {"healthy": exit_codes.OK, "degraded": exit_codes.DEGRADED}


def stats(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the queue's figures."""
    found = asyncio.run(_stats(open_queue(config, url, environment)))
    fields = {**as_fields(found), "paused": found.paused}
    if as_json:
        print_json(fields)
    else:
        totals = {f"total {name}": count for name, count in fields.pop("totals").items()}
        print_fields({name.replace("_", " "): value for name, value in (fields | totals).items()})


async def _stats(queue: Queue) -> QueueStats:
    async with queue:
        return await queue.stats()


def health(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how the queue is. Exit code 0: healthy, 1: unhealthy, 4: degraded."""
    found = asyncio.run(_health(open_queue(config, url, environment)))
    if as_json:
        print_json(found)
    else:
        print_fields(found)
    raise typer.Exit(_HEALTH_CODES.get(found["status"], exit_codes.NO))


async def _health(queue: Queue) -> dict[str, Any]:
    async with queue:
        return await queue.check_health()


def peek(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many events to show.")] = 10,
) -> None:
    """Show the next events without taking them: waiting ones first, then the delayed ones that are due next."""
    found = asyncio.run(_peek(open_queue(config, url, environment), count))
    if as_json:
        print_json([as_fields(event) for event in found])
    else:
        columns = ("event", "state", "entry", "due", "deliveries", "payload")
        print_table(columns, map(_row, found))


def _row(event: WaitingEvent) -> tuple[object, ...]:
    due = moment(event.due_at)
    return (event.event_id, event.state, event.entry_id or "-", due, event.deliveries, shortened(event.payload))


async def _peek(queue: Queue, count: int) -> list[WaitingEvent]:
    async with queue:
        return await queue.peek(count)
