"""The demo, end to end, as a process: what it says, what it leaves, and how it ends when it is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from streams_queue.demo.journal import JournalReader
from streams_queue.demo.ledger import Ledger
from streams_queue.embedded import EmbeddedServer
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CHECKOUT = Path(__file__).resolve().parents[2]
GIST = re.compile(r"lost (\d+), redelivered (\d+)")


class DemoRun:
    """One demo as a process, with a place of its own for temporary files."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from streams_queue.cli import main; main()", "demo", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.family: dict[int, psutil.Process] = {}

    def look(self) -> int:
        """Remember which processes belong to the demo by now; return how many were seen so far."""
        try:
            self.family |= {child.pid: child for child in psutil.Process(self.process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            pass
        return len(self.family)

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code, output and errors."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def assert_nothing_left(self) -> None:
        """No process of the demo runs any more, and its temporary files are gone."""
        wait_until_sync(lambda: not [child for child in self.family.values() if is_alive(child)], 10, what=self.alive)
        wait_until_sync(lambda: not list(self.temporary.iterdir()), 10, what=lambda: list(self.temporary.iterdir()))

    def alive(self) -> list[str]:
        """Name what still runs."""
        return [str(child) for child in self.family.values() if is_alive(child)]

    def kill(self) -> None:
        """End what a failed test would leave."""
        self.process.kill()
        self.process.communicate()
        for child in self.family.values():
            if is_alive(child):
                child.kill()


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Demos:
    """Starts demos and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[DemoRun] = []

    def __call__(self, *arguments: str) -> DemoRun:
        """Start a demo."""
        run = DemoRun(self._folder, *arguments)
        self._runs.append(run)
        return run

    def kill(self) -> None:
        """End them all."""
        for run in self._runs:
            run.look()
            run.kill()


@pytest.fixture
def demo() -> Iterator[Demos]:
    """Start demos in a short-named directory, since a journal's path may become part of a socket's some day."""
    with tempfile.TemporaryDirectory() as folder:
        demos = Demos(Path(folder))
        yield demos
        demos.kill()


def gist(out: str) -> tuple[int, int]:
    """Return lost and redelivered as the last line says."""
    found = GIST.fullmatch(out.splitlines()[-1])
    assert found is not None, out
    return int(found[1]), int(found[2])


def test_a_killed_worker_loses_nothing(demo: Demos) -> None:
    """Its events run again elsewhere; the operator's commands are shown; nothing is left behind."""
    run = demo("--events", "2000")
    wait_until_sync(lambda: run.look() >= 8 or run.process.poll() is not None, 30)
    exit_code, out, err = run.finish()
    assert exit_code == 0, err
    lost, redelivered = gist(out)
    assert lost == 0
    assert redelivered >= 1
    assert "killed with SIGKILL" in err
    for command in ("XINFO STREAM", "XINFO GROUPS", "XINFO CONSUMERS"):
        assert re.search(rf"^\$ redis-cli .*{command} 'streams-queue-demo:{{webhooks}}'", out, re.MULTILINE), out
    run.assert_nothing_left()


def test_a_dropped_event_is_found_missing(demo: Demos, tmp_path: Path) -> None:
    """With --sabotage exactly one event is lost, the exit code says so, and the journals show which."""
    kept = tmp_path / "kept"
    run = demo("--events", "2000", "--sabotage", "--json", "--keep", str(kept))
    exit_code, out, err = run.finish()
    assert exit_code == 1, err
    answer = json.loads(out)
    assert (answer["enqueued"], answer["processed"], answer["lost"]) == (2000, 1999, 1)
    assert answer["redelivered"] >= 1
    ledger = Ledger()
    for path in kept.glob("*.journal"):
        ledger.add(JournalReader(path).new_records())
    assert sorted(ledger.lost(set())) == answer["lost_ids"]


def test_the_gist_of_a_sabotaged_run_is_its_last_line(demo: Demos) -> None:
    """Without --json the last line says that one was lost."""
    exit_code, out, err = demo("--events", "500", "--sabotage").finish()
    assert exit_code == 1, err
    lost, redelivered = gist(out)
    assert lost == 1
    assert redelivered >= 1


@pytest.mark.parametrize("processes", [1, 3, 8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(demo: Demos, number: signal.Signals, processes: int) -> None:
    """Interrupted as soon as it has so many processes, it ends them all, removes its files and says what happened."""
    run = demo("--events", "200000")
    wait_until_sync(lambda: run.look() >= processes or run.process.poll() is not None, 30)
    run.process.send_signal(number)
    run.look()
    exit_code, out, err = run.finish()
    assert (exit_code, out) == (128 + number, ""), err
    assert "Traceback" not in err
    run.assert_nothing_left()


def test_interrupting_twice_does_not_interrupt_the_clearing_up(demo: Demos) -> None:
    """An impatient second and third Ctrl-C change nothing."""
    run = demo("--events", "200000")
    wait_until_sync(lambda: run.look() >= 8, 30)
    for _ in range(3):
        run.process.send_signal(signal.SIGINT)
    exit_code, _, _ = run.finish()
    assert exit_code == 130
    run.assert_nothing_left()


def test_a_killed_demo_leaves_no_process(demo: Demos) -> None:
    """SIGKILL gives it no chance to clear up; producers, workers and server end by themselves."""
    run = demo("--events", "200000")
    wait_until_sync(lambda: run.look() >= 8, 30)
    run.process.kill()
    run.process.communicate()
    wait_until_sync(lambda: not run.alive(), 10, what=run.alive)


def test_on_a_server_of_ones_own_it_removes_its_keys_and_no_others(demo: Demos) -> None:
    """What was there before is there afterwards, and nothing else, also after an interruption."""
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        client.set("mine", "1")
        client.set("streams-queue-demo:other", "1")
        exit_code, out, err = demo("--events", "500", "--url", server.url).finish()
        assert exit_code == 0, err
        assert gist(out)[0] == 0
        assert sorted(client.keys()) == [b"mine", b"streams-queue-demo:other"]
        run = demo("--events", "200000", "--url", server.url)
        wait_until_sync(lambda: client.xlen("streams-queue-demo:{webhooks}") > 0, 30)
        run.look()
        run.process.send_signal(signal.SIGINT)
        assert run.finish()[0] == 130
        assert sorted(client.keys()) == [b"mine", b"streams-queue-demo:other"]
        client.close()


def test_it_keeps_its_hands_off_a_queue_that_is_there(demo: Demos) -> None:
    """A queue under the demo's own name may be somebody's other demo: it is neither used nor removed."""
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        client.xadd("streams-queue-demo:{webhooks}", {"id": "x"})
        exit_code, out, err = demo("--events", "500", "--url", server.url).finish()
        assert (exit_code, out) == (2, "")
        assert "already" in err
        assert client.xlen("streams-queue-demo:{webhooks}") == 1
        client.close()


def test_a_directory_with_other_journals_in_it_is_refused(demo: Demos, tmp_path: Path) -> None:
    """They would be counted as well."""
    (tmp_path / "worker-1.journal").write_text("accepted a\n")
    exit_code, _, err = demo("--keep", str(tmp_path)).finish()
    assert exit_code == 2
    assert "is not empty" in err


@pytest.mark.slow
def test_twenty_thousand_webhooks_take_less_than_a_minute(demo: Demos) -> None:
    """The whole demo, as `make demo` runs it."""
    exit_code, out, err = demo("--json").finish()
    assert exit_code == 0, err
    answer = json.loads(out)
    assert answer["processed"] == 20_000
    assert answer["seconds"] < 60
