"""`pause`, `resume`: stopping the intake and the handing out of a queue, for all processes that share it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from streams_queue.cli.options import ConfigOption, EnvironmentOption, JsonOption, UrlOption, open_queue
from streams_queue.cli.output import print_json, print_line
from streams_queue.messages import QueueStats
from streams_queue.queue import Queue


def pause(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    intake: Annotated[bool, typer.Option("--intake", help="Refuse new events, and hand out what is there.")] = False,
    delivery: Annotated[bool, typer.Option("--delivery", help="Hand out nothing, and take new events.")] = False,
) -> None:
    """Stop both intake and handing out, or one of them; replaces the pause before. Ends with `resume`."""
    both = intake is delivery
    queue = open_queue(config, url, environment)
    _print(asyncio.run(_pause(queue, intake=intake or both, delivery=delivery or both)), as_json=as_json)


async def _pause(queue: Queue, *, intake: bool, delivery: bool) -> QueueStats:
    async with queue:
        await queue.pause(intake=intake, delivery=delivery)
        return await queue.stats()


def resume(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a pause."""
    _print(asyncio.run(_resume(open_queue(config, url, environment))), as_json=as_json)


async def _resume(queue: Queue) -> QueueStats:
    async with queue:
        await queue.resume()
        return await queue.stats()


def _print(stats: QueueStats, *, as_json: bool) -> None:
    if as_json:
        print_json({"intake_paused": stats.intake_paused, "delivery_paused": stats.delivery_paused})
    else:
        print_line(f"intake {_word(stats.intake_paused)}, handing out {_word(stats.delivery_paused)}")


def _word(paused: bool) -> str:
    return "paused" if paused else "running"
