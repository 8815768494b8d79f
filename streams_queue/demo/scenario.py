"""The course of the demo: producers and workers start, one worker is killed, the others go on, the count is taken."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams_queue.demo.audience import Audience
from streams_queue.demo.ledger import Ledger
from streams_queue.demo.part import ProducerPart, WorkerPart
from streams_queue.demo.processes import Child
from streams_queue.demo.server_view import Look, ServerView
from streams_queue.embedded import EmbeddedServer
from streams_queue.errors import ConfigError, StreamsQueueError
from streams_queue.factory import QueueFactory
from streams_queue.keys import QueueKeys
from streams_queue.queue import Queue

NAMESPACE = "streams-queue-demo"
NAME = "webhooks"
GROUP = "processors"
KILL_AT = 0.4
"""The worker is killed when this share of the events has been processed."""

_POLL_INTERVAL = 0.02
_PATIENCE = 30.0
_HANG_AFTER_AT_MOST = 200


class DemoError(StreamsQueueError):
    """The demo could not be carried through; nothing is said about lost events."""


class DemoInterruptedError(StreamsQueueError):
    """The demo was stopped by a signal, and has cleared up.

    Attributes:
        signal_number: Which signal.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the demo is to do.

    Attributes:
        events: How many webhooks are enqueued.
        producers: How many processes enqueue them.
        workers: How many processes handle them, the one that will be killed included; at least 2.
        seed: The same seed gives the same webhooks.
        sabotage: Drop one event behind the queue's back, to show that the count notices.
        url: A server of one's own; None starts an embedded one.
        keep: A directory for journals and logs that is left behind; None uses one that is removed.
    """

    events: int = 20_000
    producers: int = 3
    workers: int = 3
    seed: int = 1
    sabotage: bool = False
    url: str | None = None
    keep: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the count says.

    Attributes:
        enqueued: Events whose enqueue was acknowledged.
        processed: Events finished at least once.
        repeated: Events finished more than once.
        redelivered: Events handed out more than once.
        dead: Dead letters.
        lost: The ids of the events that were acknowledged and then neither finished nor kept as dead letters.
        seconds: From the first event to the last.
        held_by_killed: How many events the killed worker held.
        looks: What an operator saw shortly before the kill.
    """

    enqueued: int
    processed: int
    repeated: int
    redelivered: int
    dead: int
    lost: tuple[str, ...]
    seconds: float
    held_by_killed: int
    looks: tuple[Look, ...]

    @property
    def events_per_second(self) -> float:
        """Throughput, the outage of the killed worker's events included."""
        return self.processed / self.seconds


def run(options: DemoOptions, audience: Audience) -> DemoResult:
    """
    Run the demo and clear up behind it, however it ends.

    Raises:
        DemoInterruptedError: SIGINT, SIGTERM or SIGHUP came; everything has been cleared up.
        DemoError: A process of the demo failed, or nothing moved any more.
        ConfigError: The directory or the queue on the server is in use already.
        BackendError: The server cannot be used.
    """
    return asyncio.run(_until_signal(options, audience))


async def _until_signal(options: DemoOptions, audience: Audience) -> DemoResult:
    """Cancel the run at the first signal; the ones after it find the clearing up under way and change nothing."""
    task = asyncio.create_task(_run(options, audience))
    received: list[int] = []

    def interrupt(number: int) -> None:
        if not received:
            received.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise DemoInterruptedError(received[0]) from None
        raise


async def _run(options: DemoOptions, audience: Audience) -> DemoResult:
    with _directory(options.keep) as directory, _server(options.url, audience) as url:
        config = queue_config(url)
        keys = QueueKeys(NAMESPACE, NAME)
        async with ServerView(url, keys, GROUP) as view, QueueFactory.create_queue(config) as queue:
            if await view.is_used():
                raise ConfigError(f"{view.address} has a queue {keys.stream!r} already; the demo wants one of its own")
            try:
                return await Scenario(options, directory, config, queue, view, audience).play()
            finally:
                if options.url is not None:
                    await queue.cleanup()
                    await view.remove_keys()


def queue_config(url: str) -> dict[str, Any]:
    """Return the configuration of the demo's queue: a short lease, so that one need not wait long for the recovery."""
    return {
        "queue": {
            "type": "redis",
            "redis_url": url,
            "max_size": 2_000,
            "timeout": 30,
            "overflow": "block",
            "retry_policy": {"max_retries": 3, "base_delay": 0.2},
            "namespace": NAMESPACE,
            "name": NAME,
            "group": GROUP,
            "lease": 2,
        }
    }


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield _empty_directory(keep)
        return
    directory = Path(tempfile.mkdtemp(prefix="streams-queue-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _empty_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"{path} is not empty; journals of another run in it would be counted as well")
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}") from error
    return path


@contextlib.contextmanager
def _server(url: str | None, audience: Audience) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with EmbeddedServer(append_fsync="everysec") as server:
        audience.say(f"Valkey with an append-only file on 127.0.0.1:{server.port}, pid {server.pid}")
        yield server.url


class Scenario:
    """One run, step by step, on a queue that exists."""

    def __init__(
        self,
        options: DemoOptions,
        directory: Path,
        config: dict[str, Any],
        queue: Queue,
        view: ServerView,
        audience: Audience,
    ) -> None:
        self._options = options
        self._directory = directory
        self._config = config
        self._queue = queue
        self._view = view
        self._audience = audience
        self._ledger = Ledger()
        self._producers: list[Child] = []
        self._workers: list[Child] = []
        self._last_change = (0, time.monotonic())

    async def play(self) -> DemoResult:
        """Play the whole scenario; no process is left when this returns or raises."""
        try:
            await self._start()
            began = time.monotonic()
            await self._begin()
            looks = await self._kill_one()
            await self._wait_until_done()
            seconds = time.monotonic() - began
            self._stop_workers()
            return await self._count(seconds, tuple(looks))
        finally:
            for child in self._children:
                child.kill()

    @property
    def _children(self) -> list[Child]:
        return [*self._producers, *self._workers]

    @property
    def _victim(self) -> Child:
        return self._workers[0]

    async def _start(self) -> None:
        options = self._options
        for i in range(options.producers):
            share = options.events // options.producers + (i < options.events % options.producers)
            self._producers.append(Child("producer", self._producer_part(i + 1, share)))
        for i in range(options.workers):
            self._workers.append(Child("consumer", self._worker_part(i + 1)))
        await self._until(lambda: self._ledger.ready == len(self._children))
        self._audience.say(f"{options.producers} producers and {options.workers} workers are ready")

    def _producer_part(self, number: int, events: int) -> ProducerPart:
        journal = str(self._directory / f"producer-{number}.journal")
        return ProducerPart(journal=journal, config=self._config, seed=f"{self._options.seed}/{number}", events=events)

    def _worker_part(self, number: int) -> WorkerPart:
        journal = str(self._directory / f"worker-{number}.journal")
        hang_after = self._hang_after if number == 1 else None
        return WorkerPart(journal=journal, config=self._config, hang_after=hang_after)

    @property
    def _hang_after(self) -> int:
        return min(_HANG_AFTER_AT_MOST, self._options.events // 10)

    async def _begin(self) -> None:
        """Begin in an order that makes sure of what is to be shown: an event to drop, and a worker that holds some."""
        for producer in self._producers:
            producer.begin()
        if self._options.sabotage:
            await self._drop_one()
        victim = self._victim.ledger
        self._victim.begin()
        await self._until(lambda: len(victim.finished) >= self._hang_after and bool(victim.held))
        for worker in self._workers[1:]:
            worker.begin()

    async def _drop_one(self) -> None:
        await self._until(lambda: bool(self._ledger.accepted))
        if not await self._view.drop_waiting():
            raise DemoError("There was no waiting event to drop")
        self._audience.say("sabotage: one waiting event has been deleted from the stream")

    async def _kill_one(self) -> list[Look]:
        """Kill the worker whose agents hang, with the events that it holds; return what an operator saw before."""
        goal = KILL_AT * self._options.events
        await self._until(lambda: len(self._ledger.finished) >= goal)
        looks = await self._view.look()
        self._killed = self._workers[0]
        self._killed.kill()
        self._observe()
        held = len(self._killed.ledger.held)
        self._audience.say(
            f"{self._killed.name} (pid {self._killed.pid}) killed with SIGKILL while it held {held} events"
        )
        return looks

    async def _wait_until_done(self) -> None:
        await self._until(lambda: all(producer.exit_code == 0 for producer in self._producers))
        while not await self._is_drained():
            await self._pause()

    async def _is_drained(self) -> bool:
        stats = await self._queue.stats()
        return stats.waiting + stats.in_flight + stats.delayed == 0

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.wait()

    async def _count(self, seconds: float, looks: tuple[Look, ...]) -> DemoResult:
        self._observe()
        dead = await self._dead()
        return DemoResult(
            enqueued=len(self._ledger.accepted),
            processed=len(self._ledger.finished),
            repeated=self._ledger.repeated,
            redelivered=len(self._ledger.redelivered),
            dead=len(dead),
            lost=tuple(sorted(self._ledger.lost(dead))),
            seconds=seconds,
            held_by_killed=len(self._victim.ledger.held),
            looks=looks,
        )

    async def _dead(self) -> set[str]:
        found: set[str] = set()
        after: str | None = None
        while page := await self._queue.dead_letters(after=after):
            found.update(letter.event_id for letter in page)
            after = page[-1].dead_id
        return found

    # --- watching ---

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(_POLL_INTERVAL)
        self._observe()
        self._check()

    def _observe(self) -> None:
        for child in self._children:
            self._ledger.add(child.new_records())
        self._audience.update(len(self._ledger.accepted), len(self._ledger.finished))

    def _check(self) -> None:
        """See that the processes are well and that something moves."""
        for child in self._children:
            was_killed = child is self._victim and child.exit_code == -signal.SIGKILL
            if child.exit_code not in {None, 0} and not was_killed:
                raise DemoError(f"{child.name} ended with exit code {child.exit_code}: {child.last_words}")
        moved = self._ledger.ready + len(self._ledger.accepted) + len(self._ledger.finished)
        last_moved, at = self._last_change
        if moved != last_moved:
            self._last_change = (moved, time.monotonic())
        elif time.monotonic() - at > _PATIENCE:
            raise DemoError(f"Nothing has moved for {_PATIENCE:g} s")
