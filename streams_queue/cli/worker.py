"""`worker`: run a handler on a queue's events, in one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from streams_queue.cli.channel import Task
from streams_queue.cli.cores import usable_cores
from streams_queue.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    LogLevelOption,
    UrlOption,
    as_fields,
    load_settings,
)
from streams_queue.cli.output import print_error, print_fields, print_json
from streams_queue.cli.supervisor import Supervisor
from streams_queue.cli.working import (
    LOG_FORMAT,
    SHARED_LOG_FORMAT,
    Work,
    fast_loop,
    log_to_stderr,
    make_page,
    served,
    split_handler,
)
from streams_queue.errors import UsageError
from streams_queue.listening import listen
from streams_queue.queue import Queue
from streams_queue.worker import Worker, WorkerCounts

if TYPE_CHECKING:
    from streams_queue.monitoring.page import MetricsPage

_MOST_PROCESSES = 1024
_LAST_PORT = 65535
_DEFAULT_SHUTDOWN_TIMEOUT = 30.0


def _processes(given: object) -> int:
    """Read `4` or `auto`."""
    text = str(given)
    if text == "auto":
        return usable_cores()
    if text.isdecimal() and 1 <= int(text) <= _MOST_PROCESSES:
        return int(text)
    raise typer.BadParameter(f"a number from 1 to {_MOST_PROCESSES}, or auto")


def work(
    context: typer.Context,
    handler: Annotated[str, typer.Argument(metavar="MODULE:HANDLER", help="A function, such as app.tasks:handle.")],
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    processes: Annotated[
        int,
        typer.Option(
            parser=_processes, metavar="N|auto", help="Worker processes; auto: as many as there are cores to use."
        ),
    ] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="How many events run at once, in each process.")] = 10,
    handler_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds before a run counts as failed; default: the configuration's."),
    ] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds that running handlers get to finish at the end.")
    ] = None,
    name: Annotated[str, typer.Option(help="For logs.")] = "worker",
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve metrics and probes there; with N processes also at the N-1 next."),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="The address to serve them at.")] = "127.0.0.1",
    log_level: LogLevelOption = "info",
) -> None:
    """Run a handler on the queue's events until SIGTERM or Ctrl-C, then print what became of them."""
    level = log_to_stderr(log_level, LOG_FORMAT if processes == 1 else SHARED_LOG_FORMAT)
    its_work = Work(
        handler=handler,
        settings=load_settings(config, url, environment),
        concurrency=concurrency,
        handler_timeout=handler_timeout,
        shutdown_timeout=shutdown_timeout,
        name=name,
    )
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(each) for each in _metrics_sockets(metrics_host, metrics_port, processes)]
        if processes == 1:
            counts = _run_here(its_work, next(iter(places), None))
        else:
            debug = bool(context.find_root().params.get("debug"))
            counts = _run_in_processes(
                processes, Task(work=its_work, log_level=level, path=sys.path, debug=debug), places
            )
    if as_json:
        print_json(as_fields(counts))
    else:
        print_fields({field.replace("_", " "): count for field, count in as_fields(counts).items()})


def _metrics_sockets(host: str, port: int | None, processes: int) -> Iterator[socket.socket]:
    """Listen for each process at a port of its own, one after the other; nowhere if no port is given."""
    if port is None:
        return
    if port + processes - 1 > _LAST_PORT:
        raise UsageError(f"--metrics-port {port} leaves no ports for {processes} processes")
    for number in range(processes):
        yield listen(host, port and port + number, f"Process {number + 1} of the worker" if number else "The worker")


def _run_here(its_work: Work, listening: socket.socket | None) -> WorkerCounts:
    page = make_page(listening)
    queue, worker = its_work.prepare(page)
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(_run(queue, worker, page))
    return worker.counts


async def _run(queue: Queue, worker: Worker, page: MetricsPage | None) -> None:
    async with served(page, queue, worker), queue:
        await worker.run()


def _run_in_processes(count: int, task: Task, places: Sequence[socket.socket]) -> WorkerCounts:
    """Run the task in `count` processes; what can be said to be wrong without them is said first, and once.

    Args:
        count: How many.
        task: Of each.
        places: Where each serves its metrics; empty if none does.
    """
    split_handler(task.work.handler)
    if sys.platform == "win32":
        raise UsageError("--processes needs an operating system with process groups and file descriptors to pass on")
    if task.work.settings.type == "asyncio":
        raise UsageError("An asyncio queue lives in one process: there is nothing in it for --processes to share")
    # Said here if it cannot be done, before anything is started.
    make_page(next(iter(places), None))
    tasks = [
        dataclasses.replace(task, work=_named(task.work, number), metrics_fd=None if place is None else place.fileno())
        for number, place in zip(range(1, count + 1), places or itertools.repeat(None), strict=False)
    ]
    supervisor = Supervisor(tasks, shutdown_timeout=_shutdown_timeout(task.work))
    asyncio.run(supervisor.run())
    if supervisor.failure is not None:
        print_error(supervisor.failure.error)
        raise typer.Exit(supervisor.failure.exit_code)
    return supervisor.counts


def _named(its_work: Work, number: int) -> Work:
    return dataclasses.replace(its_work, name=f"{its_work.name}-{number}")


def _shutdown_timeout(its_work: Work) -> float:
    """Return how long a worker lets running handlers finish; the supervisor has to wait for longer than that."""
    if its_work.shutdown_timeout is not None:
        return its_work.shutdown_timeout
    handler_timeout = its_work.handler_timeout or its_work.settings.handler_timeout
    return _DEFAULT_SHUTDOWN_TIMEOUT if handler_timeout in {None, math.inf} else handler_timeout
