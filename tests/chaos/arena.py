"""Where the storm takes place: servers, proxies, and the places for producers and workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.chaos import journal as j
from tests.chaos.parts import ProducerPart, WorkerPart
from tests.chaos.processes import Guard, Role, Slot
from tests.support.proxy import FlakyProxy

NAMESPACE, NAME, GROUP = "chaos", "events", "processors"
STREAM = f"{NAMESPACE}:{{{NAME}}}"
DELAYED, DEAD = f"{STREAM}:delayed", f"{STREAM}:dead"
MAX_RETRIES = 3
# Consumer and delivery count of a pending entry.
Owner = tuple[str, int]
# Time, entry, from whom, by whom.
Theft = tuple[float, str, str, str]
NO_ANSWER = (redis.exceptions.RedisError, OSError)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the storm is like; all times are seconds.

    Attributes:
        seed: Decides which faults come, and against whom.
        seconds: How long the faults go on.
        lease: Of the queue.
        max_size: Of the queue.
        prefetch: Of each worker: a number, so that what a process can hold is known.
        rate: Events a second of all producers together.
        poison_every: One event of the first producer in so many kills its process.
        work: What handlers do with so many of a million events, where that is to be other than usual.
        patience: How long the queue may take to drain when the storm is over.
        directory: For journals and logs.
        package: The directory that holds the `streams_queue` under test; None is this checkout.
    """

    seed: str
    seconds: float
    directory: Path
    lease: float = 2.0
    max_size: int = 600
    prefetch: int = 64
    rate: float = 1_500.0
    poison_every: int = 20_000
    work: dict[str, int] = field(default_factory=dict)
    patience: float = 60.0
    package: Path | None = None


CONCURRENCY = {"worker": 16, "threads": 8, "loop": 1, "batch": 32}
WORKERS = {"worker": 3, "threads": 1, "loop": 1, "batch": 1}
# They fall back soon: most outages of the storm are shorter than the time that others wait.
RESILIENT = {"type": "resilient", "enqueue_timeout": 0.4}
PRODUCERS: dict[str, dict[str, Any]] = {
    "single": {"batch": 1, "callers": 16, "share": 0.2},
    "batch": {"batch": 50, "callers": 2, "share": 0.4},
    "anonymous": {"batch": 25, "callers": 3, "share": 0.2, "named": False},
    "resilient": {"batch": 20, "callers": 2, "share": 0.1, "config": RESILIENT},
    "spooled": {"batch": 20, "callers": 2, "share": 0.1, "config": RESILIENT, "spool": True},
}
# What is held in the memory of a process dies with it, as the documentation says.
PRECIOUS = ("resilient",)


class Arena(ABC):
    """Servers, and the places around them; which servers, and how one gets to them, is for the subclasses to say.

    Attributes:
        name: Of the arena, for the report.
        producer_kinds: Which there are here; one of each.
        slots: All places, by name.
        client: A direct connection to the server that takes writes, for those who look.
    """

    name: str
    producer_kinds: tuple[str, ...]
    client: redis.asyncio.Redis

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self.settings = settings
        self.slots: dict[str, Slot] = {}
        self._guard = guard
        self._proxies: list[FlakyProxy] = []

    @abstractmethod
    async def open_servers(self) -> None:
        """Start the servers."""

    @abstractmethod
    async def close_servers(self) -> None:
        """End them, in whatever state they are."""

    @abstractmethod
    def way(self) -> tuple[dict[str, Any], FlakyProxy | None]:
        """Make a way to the server: what the configuration says of it, and the proxy on it, if there is one."""

    def workers(self) -> list[Slot]:
        """Return the places of workers."""
        return [slot for slot in self.slots.values() if slot.role == "worker"]

    def producers(self) -> list[Slot]:
        """Return the places of producers."""
        return [slot for slot in self.slots.values() if slot.role == "producer"]

    # --- building up and tearing down ---

    async def open(self) -> None:
        """Start the server, the proxies and all processes, and wait until each has its queue."""
        await self.open_servers()
        for kind in self.producer_kinds:
            self._add_producer(f"p_{kind}", kind)
        for mode, count in WORKERS.items():
            for number in range(count):
                self._add_worker(f"w_{mode}{number}", mode)
        for slot in self.workers():
            slot.start()
        await asyncio.gather(*(slot.until_ready() for slot in self.workers()))
        for slot in self.producers():
            slot.start()
        await asyncio.gather(*(slot.until_ready() for slot in self.producers()))

    async def close(self) -> None:
        """End everything, in whatever state it is."""
        for slot in self.slots.values():
            with contextlib.suppress(Exception):
                slot.signal(signal.SIGCONT)
                slot.kill()
        for proxy in self._proxies:
            with contextlib.suppress(Exception):
                await asyncio.to_thread(proxy.stop)
        with contextlib.suppress(Exception):
            await self.client.aclose()
        await self.close_servers()

    def _config(self, **more: Any) -> dict[str, Any]:
        queue = {
            "type": "redis",
            "max_size": self.settings.max_size,
            "timeout": 1.0,
            "lease": self.settings.lease,
            "prefetch": self.settings.prefetch,
            "enqueue_timeout": 3.0,
            "retry_policy": {"max_retries": MAX_RETRIES, "base_delay": 0.1},
            "namespace": NAMESPACE,
            "name": NAME,
            "group": GROUP,
        }
        return {"queue": {**queue, **more}}

    def proxy_to(self, port: int) -> FlakyProxy:
        """Put a proxy of its own before a server."""
        proxy = FlakyProxy(port)
        proxy.start()
        self._proxies.append(proxy)
        return proxy

    def _add(self, name: str, role: Role, proxy: FlakyProxy | None, make_part: Any, *, expendable: bool = True) -> None:
        self.slots[name] = Slot(
            name,
            role,
            proxy,
            make_part,
            expendable=expendable,
            directory=self.settings.directory,
            package=self.settings.package,
            guard=self._guard,
        )

    def _add_worker(self, name: str, mode: str) -> None:
        way, proxy = self.way()
        config = self._config(**way)

        def make(incarnation: str, journal: str, _previous: Path | None) -> WorkerPart:
            return WorkerPart(
                name=incarnation, journal=journal, config=config, mode=mode, concurrency=CONCURRENCY[mode]
            )

        self._add(name, "worker", proxy, make)

    def _add_producer(self, name: str, kind: str) -> None:
        way, proxy = self.way()
        options = dict(PRODUCERS[kind])
        more: dict[str, Any] = dict(options.pop("config", {}))
        if options.pop("spool", False):
            more["fallback"] = {"spool": str(self.settings.directory / "spool")}
        config = self._config(**way, **more)
        rate = self.settings.rate * options.pop("share")
        poison_every = self.settings.poison_every if kind == "batch" else 0

        def make(incarnation: str, journal: str, previous: Path | None) -> ProducerPart:
            open_calls = left_open(previous) if previous is not None and options.get("named", True) else []
            return ProducerPart(
                name=incarnation,
                journal=journal,
                config=config,
                rate=rate,
                poison_every=poison_every,
                work=self.settings.work,
                resend=open_calls,
                **options,
            )

        self._add(name, "producer", proxy, make, expendable=kind not in PRECIOUS)

    def watch_replies(self, on_reply: Callable[[bytes], None]) -> None:
        """Have all replies of the server shown, in the threads of the proxies."""
        for proxy in self._proxies:
            proxy.on_reply = on_reply

    # --- looking ---

    async def held_by(self, pid: int) -> list[str] | None:
        """Return the ids of the entries that the server says a process holds; None if it cannot be asked."""
        try:
            consumers = await self.client.execute_command("XINFO", "CONSUMERS", STREAM, GROUP)
            names = [consumer["name"] for consumer in consumers if f"-{pid}-" in consumer["name"]]
            held = []
            for name in names:
                pending = await self.client.xpending_range(STREAM, GROUP, "-", "+", 10_000, consumername=name)
                held += [entry["message_id"] for entry in pending]
        except NO_ANSWER:
            return None
        return held

    async def in_flight(self) -> int:
        """Return how many events are handed out; 0 if the server cannot be asked."""
        try:
            return int((await self.client.xpending(STREAM, GROUP))["pending"])
        except NO_ANSWER:
            return 0

    async def owners(self) -> dict[str, Owner] | None:
        """Return who has been handed each entry, and how often it was handed out; None if nobody can be asked."""
        try:
            pending = await self.client.xpending_range(STREAM, GROUP, "-", "+", 10_000)
        except NO_ANSWER:
            return None
        return {entry["message_id"]: (entry["consumer"], entry["times_delivered"]) for entry in pending}

    async def refused_for_memory(self) -> int:
        """Return how many commands the server has refused for want of memory so far."""
        with contextlib.suppress(*NO_ANSWER):
            stats = await self.client.info("errorstats")
            return int(stats.get("errorstat_OOM", {}).get("count", 0))
        return 0

    def open_requests(self) -> int:
        """Return how many requests wait for their reply behind all proxies, blocked reads left out."""
        return sum(proxy.open_requests() for proxy in self._proxies)

    async def sizes(self) -> tuple[int, int, int] | None:
        """Return entries, delayed and dead letters in one look; None if the server does not answer."""
        try:
            async with self.client.pipeline(transaction=True) as pipe:
                entries, delayed, dead = await pipe.xlen(STREAM).zcard(DELAYED).xlen(DEAD).execute()
        except NO_ANSWER:
            return None
        return entries, delayed, dead

    async def dead_letters(self) -> AsyncIterator[tuple[str, str]]:
        """Return event and reason of all dead letters."""
        for entry in await self.client.xrange(DEAD):
            yield _name(entry[1]), entry[1].get("reason", "")

    async def left(self) -> list[str]:
        """Return the events that the queue still holds."""
        waiting = [_name(fields) for _, fields in await self.client.xrange(STREAM)]
        return waiting + [f"delayed member {member!r}" for member in await self.client.zrange(DELAYED, 0, -1)]


def direct(port: int) -> redis.asyncio.Redis:
    """Connect to a server without a proxy."""
    return redis.asyncio.Redis(port=port, socket_timeout=2.0, retry=Retry(NoBackoff(), 0), decode_responses=True)


def _name(fields: dict[str, str]) -> str:
    """Return the name of a stored event; of one that is not ours, what is stored."""
    try:
        return str(json.loads(fields["payload"])["id"])
    except (KeyError, TypeError, ValueError):
        return f"foreign:{fields!r}"


def left_open(journal: Path) -> list[tuple[str, list[int], str]]:
    """Return the calls of a dead producer that got no answer, in the form of `ProducerPart.resend`."""
    calls = {}
    for verb, _, *words in j.read(journal):
        if verb == j.SENT:
            call, prefix, numbers, flag = words
            calls[call] = (prefix, [int(number) for number in numbers.split(",")], flag)
        elif verb in (j.ACKED, j.ERROR):
            calls.pop(words[0], None)
    return [call for call in calls.values() if call[2] != j.AGAIN]


async def sample(arena: Arena, into: list[tuple[float, int, int, int]], interval: float = 0.02) -> None:
    """Look at the queue's size again and again."""
    while True:
        sizes = await arena.sizes()
        if sizes is not None:
            into.append((time.monotonic(), *sizes))
        await asyncio.sleep(interval)


async def watch_owners(arena: Arena, into: list[Theft], interval: float = 0.1) -> None:
    """Look again and again who holds what, and note what has changed hands without being handed out anew."""
    before: dict[str, Owner] = {}
    while True:
        owners = await arena.owners()
        if owners is not None:
            into += [(time.monotonic(), *theft) for theft in thefts(before, owners)]
            before = owners
        await asyncio.sleep(interval)


def thefts(before: Mapping[str, Owner], now: Mapping[str, Owner]) -> Iterator[tuple[str, str, str]]:
    """Return entry, old and new consumer of what is held by another one, and was not handed out in between."""
    for entry, (consumer, deliveries) in now.items():
        owner, delivered = before.get(entry, (consumer, deliveries))
        if owner != consumer and delivered >= deliveries:
            yield entry, owner, consumer


def hands(settings: Settings) -> dict[str, int]:
    """Return how many events each worker can hold at once: in hand, and prefetched."""
    return {
        f"w_{mode}{number}": CONCURRENCY[mode] + settings.prefetch
        for mode, count in WORKERS.items()
        for number in range(count)
    }
