"""Drains and imports that are killed: between each two steps, and at random; every event is somewhere, and once."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams_queue import RedisEventQueue
from tests.support.commanded import CommandedQueue
from tests.support.processes import CHECKOUT, Programs

pytestmark = pytest.mark.faults

COMMAND = [str(Path(sys.executable).with_name("streams-queue"))]
PAGE = 500
EVENTS = 2 * PAGE + 100


@pytest.fixture
def queue(redis_url: str, tmp_path: Path) -> CommandedQueue:
    """A queue with events of every state: numbered as they are to come out."""
    queue = CommandedQueue(redis_url, tmp_path, lease=0.5, max_size=100_000)
    queue.bury({"n": EVENTS + 2}, {"n": EVENTS + 3})
    queue.put(*({"n": n} for n in range(EVENTS)))
    queue.put({"n": EVENTS}, delay=1800)
    queue.put({"n": EVENTS + 1}, delay=3600)
    return queue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file for events."""
    return tmp_path / "events.jsonl"


def in_file(path: Path) -> list[int]:
    """Return the numbers of a complete file's events."""
    first, *lines, last = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert first["streams_queue_events"] == 1
    assert last["events"] == len(lines)
    return [json.loads(line["payload"])["n"] for line in lines]


def on_list(queue: CommandedQueue) -> list[int]:
    """Return the numbers of the list's events, in the order in which the plan's consumers take them."""
    return [json.loads(payload)["n"] for payload in queue.payloads()]


def in_queue(queue: CommandedQueue) -> list[int]:
    """Return the numbers of all events that the queue holds, dead letters included."""
    stored = [fields[b"payload"] for _, fields in (*queue.waiting(), *queue.dead())]
    members = [member.rsplit(b"7:payload", 1)[1].split(b":", 1)[1] for member, _ in queue.delayed()]
    return [json.loads(payload)["n"] for payload in stored] + [
        json.JSONDecoder().raw_decode(text.decode())[0]["n"] for text in members
    ]


def killed(programs: Programs, queue: CommandedQueue, step: str, side: str, number: int, *command: str) -> None:
    """Run the command until it is killed at a step."""
    program = programs(
        "killed_at", step=step, side=side, number=number, command=[*command, "--config", str(queue.file)]
    )
    assert program.wait() == -9, program.describe()


FILE_STEPS = [
    ("file._write_header", "before", 1),
    ("file._write_header", "after", 1),
    ("stock.note_taken_out", "before", 1),
    ("stock.note_taken_out", "after", 1),
    ("stock.take", "before", 1),
    ("stock.take", "after", 1),
    ("file._sync", "torn", 4),
    ("file.append", "before", 2),
    ("file.append", "after", 2),
    ("stock.settle", "before", 2),
    ("stock.settle", "after", 2),
    ("stock.delayed", "after", 1),
    ("stock.settle", "before", 4),
    ("stock.settle", "after", 4),
    ("stock.settle", "before", 5),
    ("stock.settle", "after", 5),
    ("file.finish", "before", 1),
    ("file.finish", "after", 1),
    ("stock.forget", "after", 1),
]
QUICK_STEPS = [("file.append", "after", 1), ("stock.settle", "after", 1)]


def check_file(programs: Programs, queue: CommandedQueue, path: Path, step: tuple[str, str, int]) -> None:
    """Kill a drain into a file at a step, run it again, and look where everything is."""
    killed(programs, queue, *step, "drain", "--to", "jsonl", str(path), "--dead")
    report = queue.json("drain", "--to", "jsonl", str(path), "--dead")
    assert (report["empty"], report["adds_up"]) == (True, True)
    assert in_file(path) == list(range(EVENTS + 4))
    assert in_queue(queue) == []
    assert not queue.raw.exists(f"{queue.keys.stream}:drains")


@pytest.mark.parametrize("step", QUICK_STEPS, ids=map(str, QUICK_STEPS))
def test_a_drain_into_a_file_goes_on_where_it_was_killed(
    step: tuple[str, str, int], programs: Programs, queue: CommandedQueue, path: Path
) -> None:
    """Each event is in the file once, in order, although it was in the file and in the queue for a while."""
    check_file(programs, queue, path, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", FILE_STEPS, ids=map(str, FILE_STEPS))
def test_a_drain_into_a_file_is_killed_between_each_two_steps(
    step: tuple[str, str, int], programs: Programs, queue: CommandedQueue, path: Path
) -> None:
    """The same for all of them."""
    check_file(programs, queue, path, step)


LIST_STEPS = [
    ("stock.note_taken_out", "after", 1),
    ("stock.take", "after", 2),
    ("stock.settle", "before", 2),
    ("stock.settle", "after", 2),
    ("stock.settle", "after", 4),
    ("stock.settle", "after", 5),
    ("stock.forget", "before", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("step", LIST_STEPS, ids=map(str, LIST_STEPS))
def test_a_drain_onto_a_list_is_killed_between_each_two_steps(
    step: tuple[str, str, int], programs: Programs, queue: CommandedQueue
) -> None:
    """At each moment an event is in the queue or on the list; a second run brings the rest, in order."""
    killed(programs, queue, *step, "drain", "--to", "list", queue.list, "--dead")
    assert sorted(on_list(queue) + in_queue(queue)) == list(range(EVENTS + 4))
    report = queue.json("drain", "--to", "list", queue.list, "--dead")
    assert (report["empty"], report["adds_up"]) == (True, True)
    assert on_list(queue) == list(range(EVENTS + 4))
    assert in_queue(queue) == []


IMPORT_STEPS = [
    ("stock.imported", "after", 1),
    ("stock.put_back", "before", 2),
    ("stock.put_back", "after", 1),
    ("stock.put_back", "after", 2),
    ("stock.put_back", "after", 4),
]


@pytest.mark.slow
@pytest.mark.parametrize("step", IMPORT_STEPS, ids=map(str, IMPORT_STEPS))
def test_an_import_is_killed_between_each_two_steps(
    step: tuple[str, str, int], programs: Programs, queue: CommandedQueue, path: Path
) -> None:
    """A second run puts in what is missing, although what was in has been processed meanwhile."""
    queue.json("drain", "--to", "jsonl", str(path), "--dead")
    killed(programs, queue, *step, "import", str(path))
    processed = in_queue(queue)
    for key in (queue.keys.stream, queue.keys.dead):
        queue.raw.xtrim(key, maxlen=0, approximate=False)
    queue.raw.delete(queue.keys.delayed)

    done = queue.json("import", str(path))
    assert done["already"] == len(processed)
    assert sorted(processed + in_queue(queue)) == list(range(EVENTS + 4))


# --- at random, among workers and producers ---


class Traffic:
    """A producer and a worker in threads of their own, which say what was accepted and what was processed."""

    def __init__(self, queue: CommandedQueue, *, works: bool) -> None:
        self.accepted: list[int] = []
        self.processed: list[int] = []
        self._numbers = itertools.count(1_000_000)
        self._stop = threading.Event()
        roles = [self._produce, self._work] if works else [self._produce]
        self._threads = [threading.Thread(target=queue.on_queue, args=(role,)) for role in roles]
        for thread in self._threads:
            thread.start()

    async def _produce(self, queue: RedisEventQueue) -> None:
        while not self._stop.is_set():
            chunk = list(itertools.islice(self._numbers, 20))
            receipts = await queue.enqueue_many([{"n": n} for n in chunk])
            self.accepted += [n for n, receipt in zip(chunk, receipts, strict=True) if receipt.held]
            await asyncio.sleep(0.02)

    async def _work(self, queue: RedisEventQueue) -> None:
        while not self._stop.is_set():
            deliveries = await queue.receive(5, timeout=0.1)
            await asyncio.sleep(0.01)
            await queue.ack(*deliveries)
            self.processed += [delivery.payload["n"] for delivery in deliveries]

    def end(self) -> None:
        """Stop both."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def traffic() -> Iterator[Callable[..., Traffic]]:
    """Make traffic on a queue."""
    made: list[Traffic] = []

    def make(queue: CommandedQueue, **options: Any) -> Traffic:
        made.append(Traffic(queue, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


def kill_at_random(queue: CommandedQueue, *command: str, times: int) -> int:
    """Start the command again and again, and kill it each time; return how often it was still running."""
    hits = 0
    for _ in range(times):
        process = subprocess.Popen(
            [*COMMAND, *command, "--config", str(queue.file)],
            cwd=CHECKOUT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(random.uniform(0.5, 1.6))
        except subprocess.TimeoutExpired:
            process.kill()
            hits += 1
        process.wait(10)
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("target", ["jsonl", "list"])
def test_a_drain_is_killed_at_random_under_load(
    target: str, queue: CommandedQueue, path: Path, traffic: Callable[..., Traffic]
) -> None:
    """What was accepted was processed or is where it was drained to; nothing is missing, nothing is twice."""
    queue.put(*({"n": n} for n in range(10_000, 50_000)))
    where = str(path) if target == "jsonl" else queue.list
    load = traffic(queue, works=True)
    assert kill_at_random(queue, "drain", "--to", target, where, "--dead", "--wait", "5", times=8) > 0
    load.end()
    report = queue.json("drain", "--to", target, where, "--dead", "--wait", "20")
    assert (report["empty"], report["adds_up"]) == (True, True)

    drained = in_file(path) if target == "jsonl" else on_list(queue)
    expected = [*range(EVENTS + 4), *range(10_000, 50_000), *load.accepted]
    assert sorted(drained + load.processed) == sorted(expected)


@pytest.mark.slow
def test_an_import_is_killed_at_random(queue: CommandedQueue, path: Path, traffic: Callable[..., Traffic]) -> None:
    """Each event goes in once, among those of producers."""
    queue.put(*({"n": n} for n in range(10_000, 50_000)))
    queue.json("drain", "--to", "jsonl", str(path), "--dead")
    load = traffic(queue, works=False)
    kill_at_random(queue, "import", str(path), times=8)
    load.end()
    queue.json("import", str(path))
    expected = [*range(EVENTS + 4), *range(10_000, 50_000), *load.accepted]
    assert sorted(in_queue(queue)) == sorted(expected)


def test_a_disk_that_fills_up_takes_nothing_from_the_queue(queue: CommandedQueue, path: Path) -> None:
    """The command says so; when there is room again it goes on."""
    done = subprocess.run(
        [*COMMAND, "drain", "--to", "jsonl", str(path), "--dead", "--config", str(queue.file)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000)),
    )
    assert done.returncode == 1
    assert f"{path} cannot be written: File too large" in done.stderr
    assert 0 < len(in_queue(queue)) < EVENTS + 4
    assert queue.json("drain", "--to", "jsonl", str(path), "--dead")["empty"]
    assert in_file(path) == list(range(EVENTS + 4))
