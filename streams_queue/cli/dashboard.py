"""`dashboard`: serve a web page on which a queue is watched and steered."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from streams_queue.cli.extras import needs_extra
from streams_queue.cli.options import (
    ConfigOption,
    EnvironmentOption,
    LogLevelOption,
    PortOption,
    SideOption,
    UrlOption,
    load_one,
)
from streams_queue.cli.working import log_to_stderr
from streams_queue.errors import UsageError

TOKEN_VARIABLE = "STREAMS_QUEUE_DASHBOARD_TOKEN"  # noqa: S105 - the name of it

_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def dashboard(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    side: SideOption = None,
    host: Annotated[str, typer.Option(help="The address to listen at; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: PortOption = 8765,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"Holds the token; without it {TOKEN_VARIABLE} does, if set.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name under which browsers reach the page; may be repeated."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PREFIX", help="The path under which a proxy has the page, such as /queue.")
    ] = "",
    log_level: LogLevelOption = "info",
) -> None:
    """Serve a web page on which the queue is watched and steered, until SIGTERM or Ctrl-C."""
    with needs_extra("The dashboard", "dashboard"):
        from streams_queue.dashboard.access import allow
        from streams_queue.dashboard.serving import serve
    from streams_queue.redis_queue import RedisEventQueue

    log_to_stderr(log_level)
    prefix = root_path.rstrip("/")
    if not _ROOT_PATH.fullmatch(prefix):
        raise UsageError(f"--root-path is a path such as /queue, not {root_path!r}")
    access = allow(host, allowed_host or [], _token(token_file))
    queue = RedisEventQueue(load_one(config, url, environment, side))
    serve(queue, host, port, access, root_path=prefix)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The token's file {file} cannot be read ({type(error).__name__})") from error
