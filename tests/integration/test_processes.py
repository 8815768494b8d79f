"""`worker --processes N` on a real server: who works, what a death costs, how all of them leave."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from streams_queue import Queue, QueueFactory, QueueStats
from streams_queue.cli import supervisor as supervision
from streams_queue.cli.channel import Task
from streams_queue.cli.supervisor import Supervisor
from streams_queue.cli.working import Work
from streams_queue.config import load_config
from tests.conftest import StartServer
from tests.support.builders import redis_config
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.integration
CHECKOUT = Path(__file__).resolve().parents[2]

# A test run in the background of a script ignores Ctrl-C, and its children would inherit that.
IN_THE_FOREGROUND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from streams_queue.cli import main
main()
"""

# Each run of a handler is a line `begun PID N`, and `done PID N` when the file `go` is there.
TASKS = """
import asyncio, os, time
from pathlib import Path

def note(what, event):
    with open("journal.txt", "a") as journal:
        journal.write(f"{what} {os.getpid()} {event['n']}\\n")

async def handle(event):
    note("begun", event)
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    note("done", event)

def hang(event):
    note("begun", event)
    time.sleep(60)

async def block(event):
    hang(event)
"""


class Fleet:
    """The command with several processes, in a directory of its own, on a queue of its own.

    Attributes:
        folder: Where handlers, journal and configuration lie.
        config: The queue's.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.errors: list[str] = []
        self._file = folder / "webhook_config.yaml"
        self._file.write_text(yaml.safe_dump(config))
        self._journal = folder / "journal.txt"
        self._journal.touch()
        (folder / "my_tasks.py").write_text(TASKS)
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The supervisor."""
        assert self._process is not None
        return self._process

    def start(self, processes: int, *options: str, handler: str = "my_tasks:handle") -> None:
        """Start it in a session of its own, so that a test can send to its whole process group."""
        arguments = ["worker", handler, "--config", str(self._file), "--json", "--processes", str(processes), *options]
        self._process = subprocess.Popen(
            [sys.executable, "-c", IN_THE_FOREGROUND, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read_errors, name="journal", daemon=True).start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)

    def on_queue(self, action: Callable[[Queue], Awaitable[Any]]) -> Any:
        """Do something with the queue."""

        async def act() -> Any:
            async with QueueFactory.create_queue(self.config) as queue:
                return await action(queue)

        return asyncio.run(act())

    def enqueue(self, count: int) -> None:
        """Enqueue numbered events."""
        self.on_queue(lambda queue: queue.enqueue_many([{"n": n} for n in range(count)]))

    def stats(self) -> QueueStats:
        """The queue's figures."""
        found: QueueStats = self.on_queue(lambda queue: queue.stats())
        return found

    def journal(self, what: str) -> list[tuple[int, int]]:
        """Return (process, event) of each line of that kind."""
        lines = [line.split() for line in self._journal.read_text().splitlines()]
        return [(int(pid), int(number)) for kind, pid, number in lines if kind == what]

    def go(self) -> None:
        """Let handlers finish."""
        (self.folder / "go").touch()

    def until(self, true: Callable[[], Any], timeout: float = 30.0) -> None:
        """Wait for something, or fail with what the processes logged."""
        wait_until_sync(true, timeout, what=lambda: "".join(self.errors[-30:]))

    def until_logged(self, text: str, times: int = 1) -> None:
        """Wait until so many lines of the log hold a text."""
        self.until(lambda: sum(text in line for line in self.errors) >= times)

    def pids(self) -> set[int]:
        """The worker processes, by what the system says."""
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def wait(self, timeout: float = 30.0) -> tuple[int, str]:
        """Wait for the end; return exit code and standard output."""
        assert self.process.stdout is not None
        self.until(lambda: self.process.poll() is not None, timeout)
        return self.process.returncode, self.process.stdout.read()

    def stop(self) -> None:
        """Kill what is left."""
        if self._process is None:
            return
        left = [self._process.pid, *(pid for pid, _ in self.journal("begun"))]
        if self._process.poll() is None:
            left += self.pids()
        for pid in left:
            if is_ours(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


def is_ours(pid: int) -> bool:
    """Whether a process still runs and is one of the command's."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "streams_queue" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def fleet(tmp_path: Path, redis_url: str) -> Iterator[Fleet]:
    """A fleet on a queue of this test's own."""
    made = Fleet(tmp_path, redis_config(redis_url, namespace=f"procs{uuid.uuid4().hex[:10]}"))
    yield made
    made.stop()


def test_all_processes_work_and_their_counts_are_added_up(fleet: Fleet) -> None:
    """Three processes share the events; each runs once, and the sum is printed as one process prints it."""
    fleet.enqueue(60)
    fleet.start(3, "--concurrency", "2")
    fleet.until(lambda: len({pid for pid, _ in fleet.journal("begun")}) == 3)
    pids = fleet.pids()
    assert {pid for pid, _ in fleet.journal("begun")} == pids
    fleet.go()
    fleet.until(lambda: len(fleet.journal("done")) == 60)
    fleet.process.send_signal(signal.SIGTERM)
    code, out = fleet.wait()
    assert (code, json.loads(out)["processed"]) == (0, 60)
    assert sorted(n for _, n in fleet.journal("begun")) == list(range(60))
    stats = fleet.stats()
    assert (stats.waiting, stats.in_flight, stats.totals["acked"]) == (0, 0, 60)
    assert not any(map(is_ours, pids))


def test_a_killed_process_is_replaced_and_its_events_run_again(fleet: Fleet) -> None:
    """The supervisor says which signal it was; what the dead one held is done by somebody; nothing is left of it."""
    fleet.enqueue(4)
    fleet.start(2, "--concurrency", "2")
    fleet.until(lambda: len(fleet.journal("begun")) == 4)
    victim, held = fleet.journal("begun")[0]
    number = 1 if any(f"worker-1 is process {victim}\n" in line for line in fleet.errors) else 2
    before, before_pids = psutil.Process(fleet.process.pid).num_fds(), fleet.pids()
    os.kill(victim, signal.SIGKILL)
    fleet.until_logged(f"worker-{number} was ended by SIGKILL")
    fleet.until(lambda: len(fleet.pids()) == 2)
    fleet.go()
    fleet.until(lambda: {n for _, n in fleet.journal("done")} == {0, 1, 2, 3})
    # The other one, which has lived for longer than a lease by now, knows of nothing.
    assert fleet.pids() & before_pids == before_pids - {victim}
    assert not any("the supervisor is gone" in line for line in fleet.errors)
    assert [pid for pid, n in fleet.journal("done") if n == held] != [victim]
    assert psutil.Process(fleet.process.pid).num_fds() <= before
    fleet.process.send_signal(signal.SIGTERM)
    code, out = fleet.wait()
    assert (code, json.loads(out)["processed"]) == (0, 4)
    assert fleet.stats().in_flight == 0


def test_running_handlers_finish_when_the_supervisor_is_told_to_stop(fleet: Fleet) -> None:
    """SIGTERM is passed on; nothing new is begun, what runs may finish, and the rest stays in the queue."""
    fleet.enqueue(10)
    fleet.start(2, "--concurrency", "2")
    fleet.until(lambda: len(fleet.journal("begun")) == 4)
    fleet.process.send_signal(signal.SIGTERM)
    fleet.until_logged("SIGTERM; running handlers in 2 processes")
    fleet.go()
    code, out = fleet.wait()
    counts = json.loads(out)
    assert (code, counts["processed"], counts["released"]) == (0, 4, 0)
    stats = fleet.stats()
    assert (stats.waiting, stats.in_flight) == (6, 0)


def test_processes_that_are_still_starting_end_at_once(fleet: Fleet) -> None:
    """A handler's module that takes its time, or hangs, holds nothing; so it is not waited for."""
    (fleet.folder / "slow_import.py").write_text(
        "import time\nfrom pathlib import Path\nPath('importing').touch()\ntime.sleep(300)\n"
    )
    fleet.start(2, handler="slow_import:handle")
    fleet.until((fleet.folder / "importing").exists)
    pids = fleet.pids()
    fleet.process.send_signal(signal.SIGTERM)
    code, out = fleet.wait(15)
    assert (code, json.loads(out)["processed"]) == (0, 0)
    assert not any(map(is_ours, pids))


def test_what_does_not_finish_in_time_is_given_back(fleet: Fleet) -> None:
    """After shutdown_timeout handlers are cancelled, in all processes, and their events are there for others."""
    fleet.enqueue(4)
    fleet.start(2, "--concurrency", "2", "--shutdown-timeout", "0.2")
    fleet.until(lambda: len(fleet.journal("begun")) == 4)
    fleet.process.send_signal(signal.SIGTERM)
    code, out = fleet.wait()
    assert (code, json.loads(out)["released"]) == (0, 4)
    assert (fleet.stats().waiting, fleet.stats().in_flight) == (4, 0)


@pytest.mark.parametrize("whom", ["process group", "everybody"])
def test_a_signal_that_reaches_everybody_counts_once(fleet: Fleet, whom: str) -> None:
    """Neither Ctrl-C in a terminal nor a service manager that signals each process cancels what may finish."""
    fleet.enqueue(4)
    fleet.start(2, "--concurrency", "2", "--shutdown-timeout", "60")
    fleet.until(lambda: len(fleet.journal("begun")) == 4)
    if whom == "process group":
        os.killpg(fleet.process.pid, signal.SIGINT)
    else:
        for pid in (*fleet.pids(), fleet.process.pid):
            os.kill(pid, signal.SIGTERM)
    fleet.until_logged("; running handlers in 2 processes")
    if whom == "everybody":
        fleet.until_logged(": SIGTERM; running handlers have", 2)
    fleet.go()
    code, out = fleet.wait()
    assert (code, json.loads(out)["processed"], json.loads(out)["released"]) == (0, 4, 0)


def test_a_second_signal_cancels_at_once(fleet: Fleet) -> None:
    """Long before shutdown_timeout is over everything is given back."""
    fleet.enqueue(4)
    fleet.start(2, "--concurrency", "2", "--shutdown-timeout", "600")
    fleet.until(lambda: len(fleet.journal("begun")) == 4)
    fleet.process.send_signal(signal.SIGINT)
    fleet.until_logged("SIGINT; running handlers")
    fleet.process.send_signal(signal.SIGINT)
    code, out = fleet.wait()
    assert (code, json.loads(out)["released"]) == (0, 4)
    assert (fleet.stats().waiting, fleet.stats().in_flight) == (4, 0)


def test_processes_end_gracefully_when_their_supervisor_is_killed(fleet: Fleet) -> None:
    """Nobody tells them, so they notice by themselves; they finish, give back, and are gone."""
    fleet.enqueue(6)
    fleet.start(2, "--concurrency", "2")
    fleet.until(lambda: len(fleet.journal("begun")) == 4)
    pids = fleet.pids()
    fleet.process.kill()
    fleet.until_logged("the supervisor is gone", 2)
    fleet.go()
    fleet.until(lambda: not any(map(is_ours, pids)))
    assert len(fleet.journal("done")) == 4
    stats = fleet.stats()
    assert (stats.waiting, stats.in_flight, stats.consumers) == (2, 0, 0)


def test_a_process_that_is_told_to_stop_makes_room_for_a_fresh_one(fleet: Fleet) -> None:
    """SIGTERM to one worker process lets it finish; another takes its place, and the counts go on."""
    fleet.enqueue(2)
    fleet.start(2, "--concurrency", "1")
    fleet.until(lambda: len(fleet.journal("begun")) == 2)
    old = fleet.pids()
    (chosen, _), _ = fleet.journal("begun")
    os.kill(chosen, signal.SIGTERM)
    fleet.until_logged("SIGTERM; running handlers have")
    fleet.go()
    fleet.until(lambda: len(fleet.pids() - old) == 1)
    fleet.process.send_signal(signal.SIGTERM)
    code, out = fleet.wait()
    assert (code, json.loads(out)["processed"], json.loads(out)["released"]) == (0, 2, 0)


def test_a_crash_loop_slows_down(fleet: Fleet) -> None:
    """A module that ends its process at import is tried again, each time after a longer wait."""
    (fleet.folder / "crashing.py").write_text(
        "import os, time\nwith open('starts.txt', 'a') as file: file.write(f'{time.monotonic()}\\n')\nos._exit(7)\n"
    )
    starts = fleet.folder / "starts.txt"
    starts.touch()
    # The second process has nothing to do with it, and would only start as often.
    fleet.start(2, handler="crashing:handle")
    fleet.until(lambda: len(starts.read_text().splitlines()) >= 8)
    waits = [
        float(line.rsplit(" in ", 1)[1].split()[0])
        for line in fleet.errors
        if "worker-1 ended with exit code 7" in line
    ]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(waits))
    moments = sorted(map(float, starts.read_text().split()))
    assert moments[7] - moments[0] >= 0.5 + 1 + 2
    fleet.process.send_signal(signal.SIGTERM)
    assert fleet.wait()[0] == 0


def test_a_wrong_password_ends_everything(tmp_path: Path, start_server: StartServer) -> None:
    """No new process mends it: one line, the exit code of one process, no password, nobody left."""
    server = start_server(requirepass="right")
    url = server.url.replace("redis://", "redis://:hunter2@")
    config = redis_config(server.url)
    config["queue"]["redis_url"] = url
    fleet = Fleet(tmp_path, config)
    try:
        fleet.start(3)
        code, out = fleet.wait()
        told = [line for line in fleet.errors if line.startswith("streams-queue: ")]
        assert (code, out, len(told)) == (3, "", 1)
        assert "WRONGPASS" in told[0]
        assert "hunter2" not in "".join(fleet.errors)
    finally:
        fleet.stop()


def test_a_handler_that_cannot_be_imported_ends_everything(fleet: Fleet) -> None:
    """As with one process: one line, exit code 2."""
    fleet.start(3, handler="no_such_module_here:handle")
    code, out = fleet.wait()
    told = [line for line in fleet.errors if line.startswith("streams-queue: ")]
    assert (code, out) == (2, "")
    (line,) = told
    assert line.startswith("streams-queue: no_such_module_here cannot be imported: ModuleNotFoundError: No module")


@pytest.fixture
def make_task(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Task]:
    """Make tasks for a supervisor in the test's own process."""
    monkeypatch.syspath_prepend(fleet.folder)
    monkeypatch.chdir(fleet.folder)

    def make(handler: str) -> Task:
        work = Work(
            handler=f"my_tasks:{handler}",
            settings=load_config(fleet.config),
            concurrency=1,
            handler_timeout=None,
            shutdown_timeout=0.1,
            name=handler,
        )
        return Task(work=work, log_level=logging.INFO, path=sys.path)

    return make


async def test_what_a_killed_process_had_done_is_counted(
    fleet: Fleet, make_task: Callable[[str], Task], caplog: pytest.LogCaptureFixture
) -> None:
    """Processes report while they run, not only at their end."""
    fleet.go()
    async with QueueFactory.create_queue(fleet.config) as queue:
        await queue.enqueue_many([{"n": n} for n in range(20)])
        supervisor = Supervisor([make_task("handle")], shutdown_timeout=0.1)
        run = asyncio.create_task(supervisor.run())
        await wait_until(lambda: supervisor.counts.processed == 20, 20)
        (victim,) = {pid for pid, _ in fleet.journal("done")}
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: "handle was ended by SIGKILL" in caplog.text)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, 20)
    assert supervisor.counts.processed == 20


async def test_a_thread_that_never_returns_holds_nobody_up(
    fleet: Fleet, make_task: Callable[[str], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is done and does not leave is killed; its event went back before."""
    monkeypatch.setattr(supervision, "_LEAVE_TIMEOUT", 0.2)
    async with QueueFactory.create_queue(fleet.config) as queue:
        await queue.enqueue({"n": 1})
        supervisor = Supervisor([make_task("hang")], shutdown_timeout=0.1)
        run = asyncio.create_task(supervisor.run())
        await wait_until(lambda: fleet.journal("begun"), 20)
        ((pid, _),) = fleet.journal("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, 20)
        assert not psutil.pid_exists(pid)
        assert supervisor.counts.released == 1
        stats = await queue.stats()
        assert (stats.waiting, stats.in_flight) == (1, 0)


async def test_a_process_whose_event_loop_is_stuck_is_killed(
    fleet: Fleet, make_task: Callable[[str], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot stop by itself, and is not waited for without end; its event runs again once the lease is over."""
    monkeypatch.setattr(supervision, "_MARGIN", 0.2)
    async with QueueFactory.create_queue(fleet.config) as queue:
        await queue.enqueue({"n": 1})
        supervisor = Supervisor([make_task("block")], shutdown_timeout=0.1)
        run = asyncio.create_task(supervisor.run())
        await wait_until(lambda: fleet.journal("begun"), 20)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, 20)
        (delivery,) = await queue.receive(timeout=20)
        assert (delivery.payload, delivery.deliveries) == ({"n": 1}, 2)
        await queue.ack(delivery)
