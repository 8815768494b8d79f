"""What `worker --processes` decides, without a process: when one starts again, and what is said over the line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from streams_queue.cli.channel import Report, Task, from_line, pack_task, receive_task, to_line
from streams_queue.cli.cores import usable_cores
from streams_queue.cli.supervisor import EndAll, Ended, StartAgain, decide, sum_of
from streams_queue.cli.working import Work
from streams_queue.config import load_config
from streams_queue.worker import WorkerCounts
from tests.support.builders import redis_config

PASSWORD_URL = "redis://:hunter2@localhost:6379/0"


def test_quick_ends_in_a_row_wait_longer_and_longer() -> None:
    """0.5 s, doubled each time, and no longer than half a minute."""
    failures, waits = 0, []
    for _ in range(10):
        again = decide(Ended(1, Report(), lived=1.0), failures, jitter=0.0)
        assert isinstance(again, StartAgain)
        failures = again.failures
        waits.append(again.delay)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


@pytest.mark.parametrize("exit_code", [0, 1, 70, -9])
def test_a_process_that_had_lived_is_replaced_soon(exit_code: int) -> None:
    """Whatever ended it, and however often it had failed to start before."""
    assert decide(Ended(exit_code, Report(), lived=60.0), 20, jitter=0.0) == StartAgain(0.5, 1)


def test_an_error_that_nothing_mends_ends_all() -> None:
    """The process said so itself; an exit code alone says nothing, since a handler may end its process with any."""
    report = Report(done=True, error="no such module", exit_code=2)
    assert decide(Ended(2, report, lived=600.0), 0, jitter=0.0) == EndAll("no such module", 2)
    assert isinstance(decide(Ended(2, Report(), lived=600.0), 0, jitter=0.0), StartAgain)


def test_an_end_is_told_by_its_signal_or_exit_code() -> None:
    """Signals by name, where they have one."""
    ends = [str(Ended(code, Report(), 1.0)) for code in (0, 7, -9, -15, -200)]
    assert ends == [
        "ended with exit code 0",
        "ended with exit code 7",
        "was ended by SIGKILL",
        "was ended by SIGTERM",
        "was ended by signal 200",
    ]


def test_counts_are_added_field_by_field() -> None:
    """None is left out."""
    assert sum_of(WorkerCounts(*range(7)), WorkerCounts(*range(10, 17))) == WorkerCounts(*range(10, 24, 2))
    assert sum_of() == WorkerCounts()


def test_a_report_arrives_although_the_one_before_was_cut() -> None:
    """What cannot be read is passed over."""
    report = Report(WorkerCounts(processed=3, released=1), done=True, error="a\nb", exit_code=3)
    lines = (to_line(report)[:20] + to_line(report)).split(b"\n")
    assert [found for found in map(from_line, lines) if found is not None] == [report]


def test_a_task_travels_whole() -> None:
    """With the whole configuration, however the pieces arrive; the end of the line is an end."""
    settings = load_config(redis_config(PASSWORD_URL, lease=3, handler_timeout=4.5))
    work = Work(
        handler="a:b", settings=settings, concurrency=2, handler_timeout=None, shutdown_timeout=1.5, name="worker-1"
    )
    task = Task(work=work, log_level=20, path=["a", "b"], debug=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack_task(task))
        assert receive_task(theirs) == task
        ours.sendall(pack_task(task)[:-1])
        ours.close()
        with pytest.raises(EOFError):
            receive_task(theirs)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("20000 100000", 1), ("", None), ("1 0", None), ("junk", None)],
)
def test_a_container_has_as_many_cores_as_its_quota(tmp_path: Path, quota: str, cores: int | None) -> None:
    """A part of a core is one; no quota, or none that can be read, leaves what the system says."""
    (tmp_path / "cpu.max").write_text(quota)
    every = usable_cores(tmp_path / "missing")
    assert usable_cores(tmp_path / "cpu.max") == (cores or every)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_has_as_many_cores_as_it_may_run_on(tmp_path: Path) -> None:
    """Not as many as the machine has."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores(tmp_path / "missing") == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores(tmp_path / "missing") == len(before)
