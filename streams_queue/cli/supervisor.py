"""N worker processes, started, watched, started again when they die, and stopped together.

Why they are fresh interpreters and not forks, and why they are told to stop through a socket and not by a signal:
docs/decisions/0070-worker-processes.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterable
from dataclasses import dataclass

from streams_queue.cli.channel import STOP, STOP_NOW, Report, Task, from_line, pack_task
from streams_queue.retry import RetryPolicy, backoff
from streams_queue.worker import WorkerCounts
from streams_queue.worker.signals import on_stop_signals

logger = logging.getLogger(__name__)

# A process that lived this long was no failed start.
_STEADY = 60.0
_RESTART = RetryPolicy(base_delay=0.5, max_delay=30.0, jitter=0.2)
# Beyond shutdown_timeout: cancelling handlers takes a worker up to 5 s, giving back and closing the queue the rest.
_MARGIN = 20.0
_NOT_STARTED = 71  # as in sysexits.h: the system cannot do it
_LONGEST_LINE = 1024 * 1024
# What a process that is done may take to leave; a thread that never returns would keep it.
_LEAVE_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker process ended.

    Attributes:
        exit_code: Its exit code; below 0 the signal that ended it.
        report: The last that it said.
        lived: For how many seconds.
    """

    exit_code: int
    report: Report
    lived: float

    def __str__(self) -> str:
        if self.exit_code < 0:
            return f"was ended by {_signal_name(-self.exit_code)}"
        return f"ended with exit code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class StartAgain:
    """Start another process in its place after `delay` seconds; it is the `failures`-th quick end in a row."""

    delay: float
    failures: int


@dataclass(frozen=True, slots=True)
class EndAll:
    """No new process can do better: all of them end, and the command with them, with `exit_code`."""

    error: str
    exit_code: int


def decide(ended: Ended, failures: int, *, jitter: float) -> StartAgain | EndAll:
    """Decide what follows when a process ended that was not told to.

    Args:
        ended: How it ended.
        failures: How many in its place had ended quickly before it, in a row.
        jitter: A draw from [0, 1), made by the caller, so that this stays pure.
    """
    if ended.report.error is not None:
        return EndAll(ended.report.error, ended.report.exit_code)
    failures = 1 if ended.lived >= _STEADY else failures + 1
    return StartAgain(backoff(failures, _RESTART, jitter=jitter), failures)


class Child:
    """One worker process.

    It sits in a process group of its own, so that Ctrl-C in a terminal reaches it only through its supervisor.
    """

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = process.pid
        self.report = Report()
        self._process = process
        self._writer = writer
        self._began = asyncio.get_running_loop().time()
        self._timers: list[asyncio.TimerHandle] = []
        self._listener = asyncio.create_task(self._listen(reader))

    @classmethod
    async def start(cls, task: Task) -> Child:
        """Start a process and give it its task. Raises OSError if the system has no room for one."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
            # The name is for who reads a list of processes.
            passed = [theirs.fileno(), *(() if task.metrics_fd is None else (task.metrics_fd,))]
            command = ("-P", "-m", "streams_queue.cli.supervised", str(theirs.fileno()), task.work.name)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, *command, stdin=DEVNULL, pass_fds=passed, process_group=0
                )
            except OSError:
                writer.close()
                raise
        child = cls(process, reader, writer)
        child.tell(pack_task(task))
        return child

    def tell(self, what: bytes) -> None:
        """Send something to it; it may have ended."""
        self._writer.write(what)

    def kill_after(self, seconds: float) -> None:
        """Give it so long to end before it is killed."""
        self._timers.append(asyncio.get_running_loop().call_later(seconds, self._kill))

    async def ended(self) -> Ended:
        """Wait for its end, and clear away all that is left of it."""
        exit_code = await self._process.wait()
        # What it said last is there already; a process that it forked may hold the line open, however.
        await asyncio.wait({self._listener}, timeout=1.0)
        self._listener.cancel()
        for timer in self._timers:
            timer.cancel()
        self._writer.close()
        return Ended(exit_code, self.report, asyncio.get_running_loop().time() - self._began)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                self.report = from_line(line) or self.report
                if self.report.done:
                    self.kill_after(_LEAVE_TIMEOUT)
        except OSError:
            pass

    def _kill(self) -> None:
        if self._process.returncode is None:
            logger.error("process %d does not end by itself; killing it", self.pid, extra={"pid": self.pid})
            self._process.kill()


class Supervisor:
    """Keeps a number of worker processes running until SIGTERM, SIGINT, or an error that no new process mends.

    Args:
        tasks: What each of them is to do.
        shutdown_timeout: Seconds that their running handlers have to finish.

    Attributes:
        failure: The error that ended it; None if there was none.
    """

    def __init__(self, tasks: Iterable[Task], *, shutdown_timeout: float) -> None:
        self.failure: EndAll | None = None
        self._tasks = tuple(tasks)
        self._shutdown_timeout = shutdown_timeout
        self._children: set[Child] = set()
        self._ended = WorkerCounts()
        self._stopping = asyncio.Event()
        self._signals = 0

    @property
    def counts(self) -> WorkerCounts:
        """What became of the events of all processes so far, of those that ended, too; up to a second late."""
        return sum_of(self._ended, *(child.report.counts for child in self._children))

    async def run(self) -> None:
        """Start the processes and return when all have ended. Signals count as for one process: the second hurries."""
        with on_stop_signals(self._on_signal):
            async with asyncio.TaskGroup() as group:
                for task in self._tasks:
                    group.create_task(self._keep(task))

    async def _keep(self, task: Task) -> None:
        """Keep one process running."""
        failures = 0
        while not self._stopping.is_set():
            ended = await self._run_one(task)
            if self._stopping.is_set() and ended.report.error is None:
                if ended.exit_code != 0:
                    logger.warning(
                        "%s %s while stopping", task.work.name, ended, extra={"worker": task.work.name, "ended": ended}
                    )
                return
            match decide(ended, failures, jitter=random.random()):
                case StartAgain(delay, failures):
                    logger.warning(
                        "%s %s; starting another in %.1f s",
                        task.work.name,
                        ended,
                        delay,
                        extra={"worker": task.work.name, "ended": ended, "seconds": delay},
                    )
                    await self._stopped_within(delay)
                case EndAll() as failure:
                    self.failure = self.failure or failure
                    self._stop()

    async def _run_one(self, task: Task) -> Ended:
        try:
            child = await Child.start(task)
        except OSError as error:
            logger.warning(
                "%s cannot be started: %s", task.work.name, error, extra={"worker": task.work.name, "error": str(error)}
            )
            return Ended(_NOT_STARTED, Report(), 0.0)
        logger.info("%s is process %d", task.work.name, child.pid, extra={"worker": task.work.name, "pid": child.pid})
        self._children.add(child)
        if self._stopping.is_set():
            self._tell_to_stop(child)
        ended = await child.ended()
        self._children.discard(child)
        self._ended = sum_of(self._ended, ended.report.counts)
        return ended

    async def _stopped_within(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            what = (number.name, len(self._children), self._shutdown_timeout)
            logger.info(
                "%s; running handlers in %d processes have %g s to finish",
                *what,
                extra={"signal": number.name, "processes": len(self._children), "seconds": self._shutdown_timeout},
            )
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for child in self._children:
            self._tell_to_stop(child)

    def _tell_to_stop(self, child: Child) -> None:
        at_once = self._signals > 1
        child.tell(STOP_NOW if at_once else STOP)
        child.kill_after(_MARGIN if at_once else self._shutdown_timeout + _MARGIN)


def sum_of(*counts: WorkerCounts) -> WorkerCounts:
    """Add up the counts of several processes."""
    names = [field.name for field in dataclasses.fields(WorkerCounts)]
    return WorkerCounts(**{name: sum(getattr(each, name) for each in counts) for name in names})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
