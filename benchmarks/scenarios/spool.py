"""What does `enqueue` cost while Redis is down and events go to a spool on disk, and are all of them there afterwards?

Ten producers enqueue 200 events a second in all; one after the other within each, so that each has an order. The
server, with an append-only file that is synced always, is killed for as long as the case says. Counted are the calls
that began after the breaker had opened, those while everything moves back included. Afterwards a consumer takes
everything: events that were accepted and are missing, events that came twice, and events that came before an older one
of their producer.

Beside it: writing 4 KB to the end of a file and syncing it, 200 times a second, on the same file system. That has to be
a disk: the files lie in the directory in which the benchmark is started.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import ours
from benchmarks.counting import latencies
from benchmarks.model import Case, Figures, Scenario, Side, Target
from benchmarks.payloads import payloads
from streams_queue.embedded import EmbeddedServer
from streams_queue.resilient_queue import ResilientQueue

_RATE = 200
_PRODUCERS = 10
_BEFORE, _AFTER = 1.0, 1.0
_BLOCK = os.urandom(4096)


def file_system(path: Path) -> str:
    """Name the type of the file system on which a directory lies; `unknown` where the system does not say."""
    mounts = Path("/proc/self/mounts")
    lines = mounts.read_text("utf-8").splitlines() if mounts.exists() else []
    found = [(mount, kind) for _, mount, kind, *_ in map(str.split, lines) if path.is_relative_to(mount)]
    return max(found, key=lambda each: len(each[0]), default=("", "unknown"))[1]


def _directory() -> tempfile.TemporaryDirectory[str]:
    if file_system(Path.cwd()) in ("tmpfs", "ramfs"):
        raise RuntimeError(f"{Path.cwd()} is no disk; start this benchmark in a directory on one")
    return tempfile.TemporaryDirectory(prefix=".spool-benchmark-", dir=Path.cwd())


class _Load:
    """The producers: who is told what, and how long it takes."""

    def __init__(self, queue: ResilientQueue, case: Case) -> None:
        self._queue = queue
        self._events = itertools.cycle(payloads(case.payload, 500))
        self.accepted: list[tuple[int, int]] = []
        self.sample: list[float] = []
        self.over = False

    async def produce(self, producer: int) -> None:
        """Enqueue one event after the other, each when its time has come."""
        began = time.monotonic() + producer / _RATE
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number * _PRODUCERS / _RATE - time.monotonic()))
            if self.over:
                return
            await self._enqueue(producer, number)

    async def _enqueue(self, producer: int, number: int) -> None:
        payload = next(self._events) | {"producer": producer, "number": number}
        held, begun = not self._queue.using_redis, time.perf_counter()
        if await self._queue.enqueue(payload):
            self.accepted.append((producer, number))
        if held:
            self.sample.append(time.perf_counter() - begun)


async def _ours(case: Case) -> Figures:
    with _directory() as directory, EmbeddedServer(append_fsync="always") as server:
        config = {"redis_url": server.url, "max_size": 1_000_000, "timeout": 5, "namespace": ours.NAMESPACE}
        fallback = {"max_size": 1_000_000, "spool": directory}
        async with ResilientQueue({"queue": config | {"name": ours.NAME, "fallback": fallback}}) as queue:
            load = _Load(queue, case)
            async with asyncio.TaskGroup() as producers:
                for producer in range(_PRODUCERS):
                    producers.create_task(load.produce(producer))
                await asyncio.sleep(_BEFORE)
                took = await _outage(server, queue, case.seconds)
                await asyncio.sleep(_AFTER)
                load.over = True
        if not load.sample:
            raise RuntimeError("the outage was too short to be noticed")
        figures = latencies(load.sample, "enqueue") | {"enqueue max": max(load.sample) * 1000}
        return figures | {"held": len(load.sample), "back": took} | await _counted(server.url, load.accepted)


async def _outage(server: EmbeddedServer, queue: ResilientQueue, seconds: float) -> float:
    """Kill the server for so long; return how long it then takes until Redis has everything and takes over."""
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.restart)
    back = time.monotonic()
    while not queue.using_redis:  # noqa: ASYNC110 - it is a property, not an event
        await asyncio.sleep(0.01)
    return time.monotonic() - back


async def _counted(url: str, accepted: list[tuple[int, int]]) -> Figures:
    """Take everything from the server and compare."""
    seen: list[tuple[int, int]] = []
    async with ours.make_queue(url) as queue:
        while deliveries := await queue.receive(500, timeout=1):
            seen += [(delivery.payload["producer"], delivery.payload["number"]) for delivery in deliveries]
            await queue.ack(*deliveries)
    twice = sum(count - 1 for count in Counter(seen).values())
    return {"lost": len(set(accepted) - set(seen)), "twice": twice, "out of order": _out_of_order(seen)}


def _out_of_order(seen: list[tuple[int, int]]) -> int:
    newest: dict[int, int] = {}
    wrong = 0
    for producer, number in seen:
        wrong += number < newest.get(producer, -1)
        newest[producer] = max(number, newest.get(producer, -1))
    return wrong


async def _bare(case: Case) -> Figures:
    sample: list[float] = []
    with _directory() as directory:
        file = os.open(f"{directory}/bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for _ in range(int(case.seconds * _RATE)):
            sample.append(_write(file))
            await asyncio.sleep(max(0.0, 1 / _RATE - sample[-1]))
        os.close(file)
    return latencies(sample, "enqueue") | {"enqueue max": max(sample) * 1000}


def _write(file: int) -> float:
    begun = time.perf_counter()
    os.write(file, _BLOCK)
    os.fsync(file)
    return time.perf_counter() - begun


_DISK = file_system(Path.cwd())
_FIGURES = dict.fromkeys(("enqueue p50", "enqueue p99", "enqueue max"), "ms")
_COUNTS = dict.fromkeys(("held", "lost", "twice", "out of order"), "events")

SCENARIO = Scenario(
    units={**_FIGURES, **_COUNTS, "back": "s"},
    cases=[Case(name=f"30 s, 8 KB, {_DISK}", payload="8 KB", events=30 * _RATE, seconds=30)],
    quick_cases=[Case(name=f"7 s, 8 KB, {_DISK}", payload="8 KB", events=7 * _RATE, seconds=7)],
    sides={"write and sync 4 KB": Side(_bare), "ResilientQueue": Side(_ours)},
    targets=[
        Target(side="ResilientQueue", metric="enqueue p99", at_most=20, excuse="write and sync 4 KB"),
        Target(side="ResilientQueue", metric="enqueue p99", against="write and sync 4 KB", at_most=3),
        Target(side="ResilientQueue", metric="lost", at_most=0),
        Target(side="ResilientQueue", metric="twice", at_most=0),
        Target(side="ResilientQueue", metric="out of order", at_most=0),
    ],
    warm_up=False,
)
