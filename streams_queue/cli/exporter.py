"""`exporter`: tell Prometheus what queues are as a whole."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from streams_queue.cli.options import EnvironmentOption, UrlOption, open_queue
from streams_queue.cli.working import LOG_FORMAT, log_level_of
from streams_queue.errors import MissingExtraError, UsageError
from streams_queue.listening import listen

if TYPE_CHECKING:
    from streams_queue.redis_queue import RedisEventQueue


def exporter(
    *,
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration of a queue; once for each queue."),
    ] = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8766,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve the queue's figures to Prometheus, with probes, until SIGTERM or Ctrl-C; takes no events."""
    try:
        from streams_queue.monitoring.exporter import Exporter
    except ModuleNotFoundError as error:
        raise MissingExtraError("The exporter", "prometheus") from error
    logging.basicConfig(level=log_level_of(log_level), format=LOG_FORMAT, stream=sys.stderr)
    files: Sequence[Path | None] = config or (None,)
    queues = [cast("RedisEventQueue", open_queue(file, url, environment)) for file in files]
    names = [f"{queue.settings.namespace}:{queue.settings.name}" for queue in queues]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(
            f"Two configurations are of a queue {twice.pop()}; in metrics, one could not be told from the other"
        )
    with listen(host, port, "The exporter") as listening:
        asyncio.run(Exporter(queues, listening).run())
