"""What one process of `worker` does: a handler on a queue's events, until it is told to stop.

Without typer and rich, which the processes that a supervisor starts do not need.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams_queue.cli.extras import needs_extra
from streams_queue.config import Settings
from streams_queue.errors import UsageError
from streams_queue.factory import QueueFactory
from streams_queue.queue import Queue
from streams_queue.worker import Worker

if TYPE_CHECKING:
    from streams_queue.monitoring.page import MetricsPage

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SHARED_LOG_FORMAT = "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"
"""Where several processes write one log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker process is to do.

    Attributes:
        handler: Written MODULE:HANDLER.
        settings: The queue's configuration.
        concurrency: How many events run at once.
        handler_timeout: Seconds before a run counts as failed; None takes the configuration's.
        shutdown_timeout: Seconds that running handlers have to finish; None leaves it to the worker.
        name: For logs.
    """

    handler: str
    settings: Settings
    concurrency: int
    handler_timeout: float | None
    shutdown_timeout: float | None
    name: str

    def prepare(self, page: MetricsPage | None = None) -> tuple[Queue, Worker]:
        """Import the handler and make the queue and its worker; nothing runs yet.

        Args:
            page: Where what they do is to be seen, if anywhere.

        Raises:
            UsageError: The handler cannot be imported or called.
        """
        handler = load_handler(self.handler)
        queue = QueueFactory.create_queue(self.settings, registry=page.registry if page is not None else None)
        worker = Worker(
            queue,
            handler,
            concurrency=self.concurrency,
            handler_timeout=self.handler_timeout,
            shutdown_timeout=self.shutdown_timeout,
            name=self.name,
        )
        return queue, worker


def make_page(listening: socket.socket | None) -> MetricsPage | None:
    """Return the page of metrics that is served at a socket, if there is one.

    Raises:
        MissingExtraError: The extra for it is not installed.
    """
    if listening is None:
        return None
    with needs_extra("--metrics-port", "prometheus"):
        from streams_queue.monitoring.page import MetricsPage
    return MetricsPage(listening)


def served(page: MetricsPage | None, queue: Queue, worker: Worker) -> AbstractAsyncContextManager[None]:
    """Serve the page, if there is one, as long as the block runs."""
    if page is None:
        return nullcontext()
    from streams_queue.monitoring.readiness import why_worker_is_not_ready

    return page.served(partial(why_worker_is_not_ready, queue, worker))


def load_handler(spec: str) -> Callable[[Any], Any]:
    """
    Import `package.module:function`; the working directory is searched, too.

    Raises:
        UsageError: There is no such module or function, or importing it failed.
    """
    module_name, path = split_handler(spec)
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


def split_handler(spec: str) -> tuple[str, str]:
    """Return the module and the path in it. Raises UsageError."""
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise UsageError(f"A handler is written MODULE:HANDLER, not {spec!r}")
    return module_name, path


def fast_loop() -> LoopFactory | None:
    """Return uvloop's, where the extra `speed` is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def log_to_stderr(level: str, log_format: str = LOG_FORMAT) -> int:
    """Write what is logged from a level on to standard error; return the level's number. Raises UsageError."""
    number = _number_of(level)
    logging.basicConfig(level=number, format=log_format, stream=sys.stderr)
    return number


def _number_of(name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise UsageError(f"There is no log level {name!r}; there are debug, info, warning and error")
    return number
