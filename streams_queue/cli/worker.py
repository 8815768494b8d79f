"""`worker`: run a handler on a queue's events."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from streams_queue.cli.options import ConfigOption, EnvironmentOption, JsonOption, UrlOption, as_fields, load_settings
from streams_queue.cli.output import print_fields, print_json
from streams_queue.errors import UsageError
from streams_queue.factory import QueueFactory
from streams_queue.queue import Queue
from streams_queue.worker import Worker, WorkerCounts

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def work(
    handler: Annotated[str, typer.Argument(metavar="MODULE:HANDLER", help="A function, such as app.tasks:handle.")],
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    concurrency: Annotated[int, typer.Option(min=1, help="How many events run at once.")] = 10,
    handler_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds before a run counts as failed; default: the configuration's."),
    ] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds that running handlers get to finish at the end.")
    ] = None,
    name: Annotated[str, typer.Option(help="For logs.")] = "worker",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a handler on the queue's events until SIGTERM or Ctrl-C, then print what became of them."""
    _log_to_stderr(log_level)
    function = load_handler(handler)
    queue = QueueFactory.create_queue(load_settings(config, url, environment))
    worker = Worker(
        queue,
        function,
        concurrency=concurrency,
        handler_timeout=handler_timeout,
        shutdown_timeout=shutdown_timeout,
        name=name,
    )
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        counts = runner.run(_run(queue, worker))
    if as_json:
        print_json(as_fields(counts))
    else:
        print_fields({field.replace("_", " "): count for field, count in as_fields(counts).items()})


async def _run(queue: Queue, worker: Worker) -> WorkerCounts:
    async with queue:
        await worker.run()
    return worker.counts


def load_handler(spec: str) -> Callable[[Any], Any]:
    """
    Import `package.module:function`; the working directory is searched, too.

    Raises:
        UsageError: There is no such module or function, or importing it failed.
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise UsageError(f"A handler is written MODULE:HANDLER, not {spec!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    for name in path.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise UsageError(f"{module_name} has no function {path!r}")
    return found  # type: ignore[no-any-return]


def _fast_loop() -> LoopFactory | None:
    """Return uvloop's, where the extra `speed` is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _log_to_stderr(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(f"There is no log level {level!r}; there are debug, info, warning and error")
    logging.basicConfig(level=number, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
