"""`exporter`: tell Prometheus what queues are as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from streams_queue.cli.extras import needs_extra
from streams_queue.cli.options import EnvironmentOption, LogLevelOption, PortOption, UrlOption, open_each
from streams_queue.cli.working import log_to_stderr
from streams_queue.listening import listen


def exporter(
    *,
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration of a queue; once for each queue."),
    ] = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: PortOption = 8766,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve the queue's figures to Prometheus, with probes, until SIGTERM or Ctrl-C; takes no events."""
    with needs_extra("The exporter", "prometheus"):
        from streams_queue.monitoring.exporter import Exporter
    log_to_stderr(log_level)
    files: Sequence[Path | None] = config or (None,)
    queues = [queue for file in files for queue in open_each(file, url, environment)]
    with listen(host, port, "The exporter") as listening:
        asyncio.run(Exporter(queues, listening).run())
