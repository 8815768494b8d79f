"""The command's frame: its subcommands, its version, and how errors end."""

from __future__ import annotations

import traceback
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streams_queue.cli import (
    alerts,
    dashboard,
    dead,
    demo,
    doctor,
    drain,
    enqueue,
    exit_codes,
    exporter,
    importing,
    looking,
    migrate,
    pausing,
    worker,
)
from streams_queue.cli.output import print_error
from streams_queue.cli.top.command import top
from streams_queue.errors import StreamsQueueError


class Commands(TyperGroup):
    """The subcommands; an error in one of them becomes one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except StreamsQueueError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            print_error(str(error))
            raise typer.Exit(exit_codes.exit_code_for(error)) from None
        except KeyboardInterrupt:
            print_error("interrupted")
            raise typer.Exit(exit_codes.INTERRUPTED) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"streams-queue {metadata.version('streams-queue')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """An event queue on Redis Streams (or Valkey) that never loses an event."""


app.command("demo")(demo.demo)
app.command("worker")(worker.work)
app.command("enqueue")(enqueue.enqueue)
app.command("drain")(drain.drain)
app.command("import")(importing.import_events)
app.command("stats")(looking.stats)
app.command("health")(looking.health)
app.command("peek")(looking.peek)
app.command("pause")(pausing.pause)
app.command("resume")(pausing.resume)
app.command("doctor")(doctor.doctor)
app.command("top")(top)
app.command("dashboard")(dashboard.dashboard)
app.command("exporter")(exporter.exporter)
app.command("alerts")(alerts.alerts)
app.command("migrate")(migrate.migrate)
app.add_typer(dead.app, name="dead")
