"""Drains and imports whose connection breaks, that stand still for too long, or whose server loses everything."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from streams_queue import RedisEventQueue
from streams_queue.draining.events import Event
from streams_queue.draining.file import ExportFile
from streams_queue.redis_client import script
from tests.support.commanded import CommandedQueue
from tests.support.processes import Programs
from tests.support.proxy import FlakyProxy, Then
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.faults

EVENTS = 1100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file for events."""
    return tmp_path / "events.jsonl"


def numbers_in(path: Path) -> list[int]:
    """Return the numbers of a file's events."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [json.loads(line["payload"])["n"] for line in lines if "n" in line]


def lose_reply(proxy: FlakyProxy, name: str, then: Then) -> None:
    """Lose the next reply to a script; the server has done its work then."""
    sha = script(name).sha.encode()
    proxy.swallow_reply(lambda words, _: sha in words, then)


@pytest.fixture
def behind(proxy: FlakyProxy, redis_url: str, tmp_path: Path) -> CommandedQueue:
    """A queue that the command reaches through a proxy."""
    queue = CommandedQueue(redis_url, tmp_path, through=proxy.url, lease=0.5, enqueue_timeout=1.5)
    queue.put(*({"n": n} for n in range(EVENTS)))
    queue.put({"n": EVENTS}, delay=3600)
    return queue


@pytest.mark.parametrize("then", ["close", "silence"])
@pytest.mark.parametrize("name", ["drain_begin", "drain_take", "drain_page", "drain_settle"])
def test_a_lost_reply_neither_loses_nor_doubles_an_event(
    name: str, then: Then, behind: CommandedQueue, proxy: FlakyProxy, path: Path
) -> None:
    """The request is sent again; where the server does not answer in time, the same command goes on."""
    lose_reply(proxy, name, then)
    done = behind.run("drain", "--to", "jsonl", str(path), "--json")
    if done.exit_code == 3:
        done = behind.run("drain", "--to", "jsonl", str(path), "--json")
    assert json.loads(done.stdout)["adds_up"]
    assert numbers_in(path) == list(range(EVENTS + 1))
    assert (behind.waiting(), behind.delayed()) == ([], [])


@pytest.mark.parametrize("name", ["drain_take", "drain_settle"])
def test_a_lost_reply_neither_loses_nor_doubles_an_event_of_a_list(
    name: str, behind: CommandedQueue, proxy: FlakyProxy
) -> None:
    """Likewise."""
    lose_reply(proxy, name, "close")
    report = behind.json("drain", "--to", "list", behind.list)
    assert (report["drained"], report["adds_up"]) == ({"waiting": EVENTS, "delayed": 1, "dead": 0}, True)
    assert [json.loads(payload)["n"] for payload in behind.payloads()] == list(range(EVENTS + 1))


def test_a_lost_reply_of_an_import_puts_nothing_in_twice(behind: CommandedQueue, proxy: FlakyProxy, path: Path) -> None:
    """The server knows which events are in."""
    behind.json("drain", "--to", "jsonl", str(path))
    lose_reply(proxy, "import", "close")
    done = behind.json("import", str(path))
    assert (done["waiting"], done["delayed"]) == (EVENTS, 1)
    assert [json.loads(fields[b"payload"])["n"] for _, fields in behind.waiting()] == list(range(EVENTS))


def test_a_drain_that_stood_still_for_longer_than_its_lease(
    programs: Programs, redis_url: str, tmp_path: Path, path: Path
) -> None:
    """Somebody else has processed what was in the file already: it is cut off there, and the drain goes on."""
    queue = CommandedQueue(redis_url, tmp_path, lease=0.5)
    queue.put(*({"n": n} for n in range(EVENTS)))
    drain = programs(
        "killed_at",
        step="file.append",
        side="stopped",
        number=1,
        command=["drain", "--to", "jsonl", str(path), "--json", "--config", str(queue.file)],
    )
    process = psutil.Process(drain.pid)
    wait_until_sync(lambda: process.status() == psutil.STATUS_STOPPED, what=drain.describe)
    assert numbers_in(path) == list(range(500))

    async def work(worker: RedisEventQueue) -> list[int]:
        processed: list[int] = []
        while 3 not in processed:
            for delivery in await worker.receive(1, timeout=5):
                processed.append(delivery.payload["n"])
                await worker.ack(delivery)
        return processed

    processed = queue.on_queue(work)
    os.kill(drain.pid, signal.SIGCONT)
    assert drain.wait() == 0, drain.describe()
    assert sorted(numbers_in(path) + processed) == list(range(EVENTS))


def test_a_server_that_loses_everything_does_not_cost_the_file_a_line(
    redis_url: str, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is kept: it is nowhere else. The counts do not add up, and the exit code says so."""
    queue = CommandedQueue(redis_url, tmp_path, lease=0.5)
    queue.put(*({"n": n} for n in range(EVENTS)))
    append = ExportFile.append

    def append_and_lose(self: ExportFile, page: list[Event]) -> None:
        append(self, page)
        queue.raw.delete(queue.keys.stream, queue.keys.stats, f"{queue.keys.stream}:drains")

    monkeypatch.setattr(ExportFile, "append", append_and_lose)
    report = queue.json("drain", "--to", "jsonl", str(path), exit_code=1)
    assert (report["drained"]["waiting"], report["adds_up"], report["empty"]) == (500, False, True)
    assert numbers_in(path) == list(range(500))
