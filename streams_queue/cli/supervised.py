"""A worker process as a supervisor starts it: `python -m streams_queue.cli.supervised FD`.

It works like `streams-queue worker` with one process, and besides follows its supervisor: it stops when told to, or
when the supervisor is gone, however that died. Why so: docs/decisions/0070-worker-processes.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from streams_queue.cli.channel import STOP_NOW, Report, Task, receive_task, to_line
from streams_queue.cli.working import SHARED_LOG_FORMAT, fast_loop, make_page, served
from streams_queue.errors import StreamsQueueError
from streams_queue.queue import Queue
from streams_queue.worker import Worker, WorkerCounts
from streams_queue.worker.signals import on_stop_signals

if TYPE_CHECKING:
    from streams_queue.monitoring.page import MetricsPage

logger = logging.getLogger(__name__)

_REPORT_EVERY = 1.0


class Supervision:
    """The line to the supervisor, watched by a thread, since a busy event loop is no reason not to listen.

    Args:
        channel: The socket.
        name: For the log.
    """

    def __init__(self, channel: socket.socket, name: str) -> None:
        self._channel = channel
        self._name = name
        self._running: tuple[Worker, asyncio.Task[None], asyncio.AbstractEventLoop] | None = None
        self._reported = WorkerCounts()
        self._reporting = threading.Lock()
        self._done = False
        channel.settimeout(_REPORT_EVERY)
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def lead(self, worker: Worker, run: asyncio.Task[None]) -> None:
        """From now on pass on to this worker what the supervisor says, and report what it does.

        Before that nothing is held, and being told to stop ends the process at once.
        """
        self._running = (worker, run, asyncio.get_running_loop())

    def finish(self, report: Report) -> None:
        """Report for the last time."""
        with self._reporting:
            self._done = True
            self._tell(report)

    def _listen(self) -> None:
        order = STOP_NOW
        while order:
            try:
                order = self._channel.recv(1)
            except TimeoutError:
                self._report()
                continue
            except OSError:
                order = b""
            self._obey(order)

    def _obey(self, order: bytes) -> None:
        if self._running is None:
            os._exit(0)
        worker, run, loop = self._running
        if not order and not self._done:
            logger.warning("%s: the supervisor is gone", self._name, extra={"worker": self._name})
        if order == STOP_NOW:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended by itself
                loop.call_soon_threadsafe(run.cancel)
        worker.stop()

    def _report(self) -> None:
        """Report what is new, so that little is forgotten if this process is killed."""
        if self._running is None:
            return
        counts = dataclasses.replace(self._running[0].counts)
        with self._reporting:
            if counts != self._reported and not self._done:
                self._tell(Report(counts))
                self._reported = counts

    def _tell(self, report: Report) -> None:
        # The supervisor may be gone, or stopped by somebody; neither is a reason to stay.
        with contextlib.suppress(OSError):
            self._channel.sendall(to_line(report))


def main() -> int:
    """Work as told; return the exit code."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        channel.set_inheritable(False)
        try:
            task = receive_task(channel)
        except EOFError:
            return 0
        sys.path[:] = task.path
        logging.basicConfig(level=task.log_level, format=SHARED_LOG_FORMAT, stream=sys.stderr)
        supervision = Supervision(channel, task.work.name)
        report = _work(task, supervision)
        supervision.finish(report)
        return report.exit_code


def _work(task: Task, supervision: Supervision) -> Report:
    """Work until the end; an error that ends every process is told to the supervisor, any other one is a crash."""
    counts = WorkerCounts()
    try:
        page = make_page(_metrics_socket(task))
        queue, worker = task.work.prepare(page)
        counts = worker.counts
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            runner.run(_serve(queue, worker, supervision, page))
    except StreamsQueueError as error:
        if task.debug:
            traceback.print_exc()
        from streams_queue.cli.exit_codes import exit_code_for

        return Report(counts, done=True, error=str(error), exit_code=exit_code_for(error))
    return Report(counts, done=True)


def _metrics_socket(task: Task) -> socket.socket | None:
    if task.metrics_fd is None:
        return None
    listening = socket.socket(fileno=task.metrics_fd)
    listening.set_inheritable(False)
    return listening


async def _serve(queue: Queue, worker: Worker, supervision: Supervision, page: MetricsPage | None) -> None:
    """Run the worker. A signal in between its end and that of the queue must not cut the latter short."""
    with on_stop_signals(lambda _: worker.stop()):
        async with served(page, queue, worker), queue:
            run = asyncio.create_task(worker.run(), name=f"{worker.name}: run")
            supervision.lead(worker, run)
            await asyncio.wait({run})
            if not run.cancelled():
                run.result()


if __name__ == "__main__":
    sys.exit(main())
