"""`dead`: dead letters listed, shown, put back and deleted."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from streams_queue.cli import exit_codes
from streams_queue.cli.options import ConfigOption, EnvironmentOption, JsonOption, UrlOption, as_fields, open_queue
from streams_queue.cli.output import moment, print_error, print_fields, print_json, print_line, print_table, shortened
from streams_queue.errors import UsageError
from streams_queue.messages import DeadLetter
from streams_queue.queue import Queue

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Dead letters: list, show, redrive, purge.")

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters, as `dead list` names them.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@app.command("list")
def list_letters(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many to list.")] = 100,
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Begin behind this one.")] = None,
) -> None:
    """List dead letters, oldest first."""
    found = asyncio.run(_list(open_queue(config, url, environment), count, after))
    if as_json:
        print_json([_as_json(letter) for letter in found])
    else:
        columns = ("id", "event", "died at", "reason", "deliveries", "error", "payload")
        print_table(columns, map(_row, found))


async def _list(queue: Queue, count: int, after: str | None) -> list[DeadLetter]:
    async with queue:
        return await queue.dead_letters(count, after=after)


def _row(letter: DeadLetter) -> tuple[object, ...]:
    what = (letter.reason, letter.deliveries, letter.error, shortened(letter.payload))
    return (letter.dead_id, letter.event_id, moment(letter.died_at), *what)


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    raw = {name: value.decode("utf-8", "backslashreplace") for name, value in letter.raw.items()}
    return {**as_fields(letter), "raw": raw}


@app.command()
def show(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="A dead letter, as `dead list` names it.")],
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with its whole payload."""
    letter = asyncio.run(_find(open_queue(config, url, environment), dead_id))
    if letter is None:
        print_error(f"there is no dead letter {dead_id}")
        raise typer.Exit(exit_codes.NO)
    if as_json:
        print_json(_as_json(letter))
    else:
        fields = {**as_fields(letter), "enqueued_at": moment(letter.enqueued_at), "died_at": moment(letter.died_at)}
        hidden = "payload" if letter.payload is None else "raw"
        print_fields({name: value for name, value in fields.items() if name != hidden})


async def _find(queue: Queue, dead_id: str) -> DeadLetter | None:
    async with queue:
        async for letter in _all_letters(queue):
            if letter.dead_id == dead_id:
                return letter
    return None


async def _all_letters(queue: Queue) -> AsyncIterator[DeadLetter]:
    after: str | None = None
    while page := await queue.dead_letters(after=after):
        for letter in page:
            yield letter
        after = page[-1].dead_id


@app.command()
def redrive(
    dead_ids: IdsArgument = None,
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    everything: AllOption = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="At most so many, oldest first.")] = None,
) -> None:
    """Put dead letters back into the queue, with a fresh delivery count. Exit code 1 if some did not go back."""
    ids = dead_ids or []
    _check_selection(ids, everything=everything or count is not None)
    moved, left = asyncio.run(_redrive(open_queue(config, url, environment), ids, count))
    if as_json:
        print_json({"redriven": moved, "dead": left})
    else:
        print_line(f"{moved} redriven, {left} dead letters left")
    raise typer.Exit(exit_codes.NO if moved < len(ids) or (everything and left) else exit_codes.OK)


async def _redrive(queue: Queue, dead_ids: list[str], count: int | None) -> tuple[int, int]:
    async with queue:
        moved = await queue.redrive(*dead_ids, count=count)
        return moved, (await queue.stats()).dead


@app.command()
def purge(
    dead_ids: IdsArgument = None,
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good. Exit code 1 if some were not there."""
    ids = dead_ids or []
    _check_selection(ids, everything=everything)
    queue = open_queue(config, url, environment)
    if not yes:
        what = f"{len(ids)} dead letters" if ids else "all dead letters"
        typer.confirm(f"Delete {what} for good?", abort=True, err=True)
    deleted = asyncio.run(_purge(queue, ids))
    if as_json:
        print_json({"deleted": deleted})
    else:
        print_line(f"{deleted} deleted")
    raise typer.Exit(exit_codes.NO if deleted < len(ids) else exit_codes.OK)


async def _purge(queue: Queue, dead_ids: list[str]) -> int:
    async with queue:
        return await queue.purge_dead(*dead_ids, who=f"{getpass.getuser()}@{socket.gethostname()}")


def _check_selection(dead_ids: list[str], *, everything: bool) -> None:
    """To the queue no ids mean all of them; here a list that came out empty must not."""
    if bool(dead_ids) == everything:
        raise UsageError("Name dead letters, or say --all, but not both")
