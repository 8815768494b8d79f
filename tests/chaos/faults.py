"""The faults: what each kind does, and how it is known whether it hit anything.

Each is a coroutine that takes the storm, strikes, lasts, and mends what it broke. The record says what was at stake at
the moment of the strike; where that can only be seen in journals, the checker decides later.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from tests.chaos.arena import NO_ANSWER, Arena
from tests.chaos.processes import Role, Slot
from tests.chaos.single import SingleServer
from tests.chaos.watched import WatchedServers
from tests.support.proxy import FlakyProxy, Trap

EVERYBODY = "*"
# A trap that has caught nothing after so long is taken away.
TRAP_PATIENCE = 3.0
# How long a failover that nobody ordered may have been under way before it is noticed.
UNNOTICED = 2.0


@dataclass
class Fault:
    """One fault that was fired.

    Attributes:
        number: Counts from 0 in each arena.
        kind: Which.
        targets: The incarnations that it struck; `*` is everybody.
        began: When, on the monotonic clock.
        ended: When it was mended; None if it had not been when the storm ended.
        held: Entries that the struck process held, as the server saw it; None if nobody looked.
        held_later: Entries that it held when the fault was mended; what it claims meanwhile is as stuck as the rest.
        hit: Whether it hit something; None where the journals will tell.
        evidence: What was at stake, in numbers.
    """

    number: int
    kind: str
    targets: list[str]
    began: float
    ended: float | None = None
    held: list[str] | None = None
    held_later: list[str] = field(default_factory=list)
    hit: bool | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it in the form of the report."""
        return asdict(self)


class Storm:
    """What the faults work on: the arena, and the list of what was done to it."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.faults: list[Fault] = []
        self.accidents: list[str] = []
        self.server_busy = asyncio.Lock()

    def record(self, kind: str, *targets: str, began: float | None = None, **evidence: Any) -> Fault:
        """Note that a fault strikes now."""
        fault = Fault(len(self.faults), kind, list(targets), began or time.monotonic(), evidence=evidence)
        self.faults.append(fault)
        return fault

    @contextmanager
    def victim(self, role: Role, draw: random.Random) -> Iterator[Slot | None]:
        """Choose a process that nobody else strikes; None if too many of its kind are struck already."""
        slots = self.arena.workers() if role == "worker" else self.arena.producers()
        free = [slot for slot in slots if not slot.busy and slot.running]
        slot = draw.choice(free) if len(free) > len(slots) // 2 else None
        if slot is None:
            yield None
            return
        slot.busy = True
        try:
            yield slot
        finally:
            slot.busy = False


Strike = Callable[[Storm, random.Random], Awaitable[None]]


def ended(fault: Fault) -> None:
    """Note that a fault is mended."""
    fault.ended = time.monotonic()


async def _restart(slot: Slot) -> None:
    slot.start()
    await slot.until_ready()


# --- processes


async def worker_kill(storm: Storm, draw: random.Random) -> None:
    """SIGKILL a worker; another takes its place after a while."""
    with storm.victim("worker", draw) as slot:
        if slot is None:
            return
        pid, name = slot.pid, slot.current
        fault = storm.record("worker_kill", name, began=slot.kill())
        fault.held = await storm.arena.held_by(pid)
        await asyncio.sleep(draw.uniform(0.0, 1.5))
        ended(fault)
        await _restart(slot)


async def worker_stop(storm: Storm, draw: random.Random) -> None:
    """SIGSTOP a worker, for less than a lease or for more, then SIGCONT."""
    lease = storm.arena.settings.lease
    with storm.victim("worker", draw) as slot:
        if slot is None:
            return
        seconds = draw.choice((draw.uniform(0.2, lease / 2), draw.uniform(lease + 0.5, 2 * lease)))
        fault = storm.record("worker_stop", slot.current, began=slot.signal(signal.SIGSTOP), seconds=seconds)
        try:
            fault.held = await storm.arena.held_by(slot.pid)
            await asyncio.sleep(seconds)
            fault.held_later = await storm.arena.held_by(slot.pid) or []
        finally:
            slot.signal(signal.SIGCONT)
            ended(fault)


async def worker_rolling(storm: Storm, draw: random.Random) -> None:
    """SIGTERM a worker and start the next one when it has left in order."""
    with storm.victim("worker", draw) as slot:
        if slot is None:
            return
        held = await storm.arena.held_by(slot.pid)
        fault = storm.record("worker_rolling_restart", slot.current)
        fault.held = held
        await slot.terminate(15.0)
        fault.evidence["orderly"] = slot.has_noted("ended")
        ended(fault)
        await _restart(slot)


async def producer_kill(storm: Storm, draw: random.Random) -> None:
    """SIGKILL a producer; its successor sends again what was left open, where event ids make that safe."""
    with storm.victim("producer", draw) as slot:
        if slot is None or not slot.expendable:
            return
        fault = storm.record("producer_kill", slot.current, began=slot.kill())
        await asyncio.sleep(draw.uniform(0.0, 0.5))
        ended(fault)
        await _restart(slot)


async def producer_stop(storm: Storm, draw: random.Random) -> None:
    """SIGSTOP a producer, then SIGCONT."""
    with storm.victim("producer", draw) as slot:
        if slot is None:
            return
        fault = storm.record("producer_stop", slot.current, began=slot.signal(signal.SIGSTOP))
        try:
            await asyncio.sleep(draw.choice((draw.uniform(0.2, 1.0), draw.uniform(2.0, 4.0))))
        finally:
            slot.signal(signal.SIGCONT)
            ended(fault)


async def producer_rolling(storm: Storm, draw: random.Random) -> None:
    """SIGTERM a producer and start the next one when it has left in order."""
    with storm.victim("producer", draw) as slot:
        if slot is None or not slot.expendable:
            return
        fault = storm.record("producer_rolling_restart", slot.current)
        await slot.terminate(40.0)
        fault.evidence["orderly"] = slot.has_noted("ended")
        ended(fault)
        await _restart(slot)


# --- the network


@contextmanager
def _cut_off(storm: Storm, kind: str, draw: random.Random) -> Iterator[tuple[Slot, FlakyProxy, Fault] | None]:
    with storm.victim(draw.choice(("worker", "worker", "producer")), draw) as slot:
        if slot is None or slot.proxy is None:
            yield None
            return
        fault = storm.record(kind, slot.current)
        try:
            yield slot, slot.proxy, fault
        finally:
            slot.proxy.restore()
            ended(fault)


async def _at_stake(storm: Storm, slot: Slot, proxy: FlakyProxy, fault: Fault) -> None:
    """Note what the process behind a proxy has open and holds."""
    fault.evidence["open_requests"] = await asyncio.to_thread(proxy.open_requests)
    if slot.role == "worker":
        fault.held = await storm.arena.held_by(slot.pid)
    fault.hit = bool(fault.evidence["open_requests"] or fault.held)


async def _still_held(storm: Storm, slot: Slot, fault: Fault) -> None:
    if slot.role == "worker" and slot.running:
        fault.held_later = await storm.arena.held_by(slot.pid) or []


async def network_cut(storm: Storm, draw: random.Random) -> None:
    """Reset all connections of a process and refuse new ones, for less than a lease or for more."""
    lease = storm.arena.settings.lease
    with _cut_off(storm, "network_cut", draw) as struck:
        if struck is None:
            return
        slot, proxy, fault = struck
        await _at_stake(storm, slot, proxy, fault)
        proxy.refuse()
        proxy.cut(draw.choice(("reset", "fin")))
        await asyncio.sleep(draw.choice((draw.uniform(0.05, lease / 2), draw.uniform(lease, 2 * lease))))
        await _still_held(storm, slot, fault)


async def half_open(storm: Storm, draw: random.Random) -> None:
    """Forward nothing any more, in both directions or one, without closing anything; then cut what was muted."""
    lease = storm.arena.settings.lease
    with _cut_off(storm, "half_open", draw) as struck:
        if struck is None:
            return
        slot, proxy, fault = struck
        await _at_stake(storm, slot, proxy, fault)
        before = proxy.counters["muted"]
        proxy.black_hole(draw.choice(("both", "requests", "replies")), new=draw.random() < 0.5)
        await asyncio.sleep(draw.uniform(0.5, 2 * lease))
        await _still_held(storm, slot, fault)
        fault.evidence["swallowed"] = proxy.counters["muted"] - before
        fault.hit = bool(fault.hit or fault.evidence["swallowed"])


async def network_delay(storm: Storm, draw: random.Random) -> None:
    """Slow a process's connections down."""
    with _cut_off(storm, "network_delay", draw) as struck:
        if struck is None:
            return
        _, proxy, fault = struck
        before = proxy.counters["requests"]
        fault.evidence["delay"] = draw.uniform(0.01, 0.15)
        proxy.delay(fault.evidence["delay"])
        await asyncio.sleep(draw.uniform(0.5, 2.5))
        fault.evidence["requests"] = proxy.counters["requests"] - before
        fault.hit = fault.evidence["requests"] > 0


async def _spring(fault: Fault, trap: Trap) -> None:
    fault.hit = await asyncio.to_thread(trap.hit.wait, TRAP_PATIENCE)
    fault.evidence["caught"] = int(fault.hit)


def is_enqueue(words: list[bytes], _reply: bytes = b"") -> bool:
    """Tell whether a request adds events: it names its producer's key."""
    return words[0].upper() == b"EVALSHA" and any(b":producer:" in word for word in words[3:9])


def is_read(words: list[bytes], reply: bytes) -> bool:
    """Tell whether a reply hands out events."""
    return words[0].upper() == b"XREADGROUP" and len(reply) > 50


def is_script(words: list[bytes], _reply: bytes = b"") -> bool:
    """Tell whether a request settles, renews or claims."""
    return words[0].upper() == b"EVALSHA" and not is_enqueue(words)


SWALLOWED: dict[str, tuple[Role, Callable[[list[bytes], bytes], bool]]] = {
    "swallowed_enqueue_reply": ("producer", is_enqueue),
    "swallowed_read_reply": ("worker", is_read),
    "swallowed_settle_reply": ("worker", is_script),
}


def swallow(kind: str) -> Strike:
    """Make the fault that loses one reply of some kind, with its connection or into silence."""
    role, matches = SWALLOWED[kind]

    async def strike(storm: Storm, draw: random.Random) -> None:
        with storm.victim(role, draw) as slot:
            if slot is None or slot.proxy is None:
                return
            fault = storm.record(kind, slot.current)
            trap = slot.proxy.swallow_reply(matches, draw.choice(("close", "silence")))
            try:
                await _spring(fault, trap)
            finally:
                slot.proxy.restore()
                ended(fault)

    return strike


async def late_request(storm: Storm, draw: random.Random) -> None:
    """Hold an enqueue back, cut its connection, and hand it to the server when it has long been sent again."""
    with storm.victim("producer", draw) as slot:
        if slot is None or slot.proxy is None:
            return
        fault = storm.record("late_request", slot.current)
        trap = slot.proxy.hold_request(is_enqueue, draw.choice(("close", "silence")))
        try:
            await _spring(fault, trap)
            if fault.hit:
                await asyncio.sleep(draw.uniform(0.05, 2.5))
                await asyncio.to_thread(trap.deliver)
        finally:
            slot.proxy.restore()
            ended(fault)


async def client_kill(storm: Storm, draw: random.Random) -> None:
    """CLIENT KILL all connections of everybody."""
    async with storm.server_busy:
        arena = storm.arena
        in_flight = await arena.in_flight()
        open_requests = await asyncio.to_thread(arena.open_requests)
        fault = storm.record("client_kill", EVERYBODY, in_flight=in_flight, open_requests=open_requests)
        try:
            killed = await arena.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        except NO_ANSWER:
            killed = 0
        fault.evidence["killed"] = int(killed)
        fault.hit = bool(killed and (in_flight or open_requests))
        ended(fault)


# --- the server


async def _server_at_stake(storm: Storm, kind: str) -> Fault:
    in_flight = await storm.arena.in_flight()
    open_requests = await asyncio.to_thread(storm.arena.open_requests)
    fault = storm.record(kind, EVERYBODY, in_flight=in_flight, open_requests=open_requests)
    fault.hit = bool(in_flight or open_requests)
    return fault


AnArena = TypeVar("AnArena", bound=Arena)


def _only(kind: type[AnArena], storm: Storm) -> AnArena:
    if not isinstance(storm.arena, kind):
        raise TypeError(f"this fault needs another arena than {storm.arena.name}")
    return storm.arena


async def server_kill(storm: Storm, draw: random.Random) -> None:
    """SIGKILL the server; it comes back with its append-only file."""
    arena = _only(SingleServer, storm)
    async with storm.server_busy:
        fault = await _server_at_stake(storm, "server_kill")
        await asyncio.to_thread(arena.server.kill)
        await asyncio.sleep(draw.choice((0.0, draw.uniform(0.1, 1.0), draw.uniform(1.0, 3.5))))
        await asyncio.to_thread(arena.server.restart)
        ended(fault)


async def server_stop(storm: Storm, draw: random.Random) -> None:
    """SIGSTOP the server with all its connections open, then SIGCONT."""
    arena = _only(SingleServer, storm)
    async with storm.server_busy:
        fault = await _server_at_stake(storm, "server_stop")
        arena.stop_server()
        try:
            await asyncio.sleep(draw.choice((draw.uniform(0.2, 1.0), draw.uniform(1.0, 3.5))))
        finally:
            arena.continue_server()
            ended(fault)


async def memory_squeeze(storm: Storm, draw: random.Random) -> None:
    """Let the server have no memory to write with; draining must go on."""
    async with storm.server_busy:
        arena = storm.arena
        refused = await arena.refused_for_memory()
        fault = storm.record("memory_squeeze", EVERYBODY)
        try:
            await arena.client.config_set("maxmemory", "1mb")
            await asyncio.sleep(draw.uniform(0.5, 3.0))
        except NO_ANSWER:
            fault.evidence["no_answer"] = 1
        finally:
            await _unsqueeze(arena)
            ended(fault)
        fault.evidence["refused"] = await arena.refused_for_memory() - refused
        fault.hit = fault.evidence["refused"] > 0


async def _unsqueeze(arena: Arena) -> None:
    for _ in range(50):
        try:
            await arena.client.config_set("maxmemory", "0")
            return
        except NO_ANSWER:
            await asyncio.sleep(0.1)
    raise RuntimeError("The server does not take its memory back")


# --- failover


async def sentinel_failover(storm: Storm, draw: random.Random) -> None:
    """Order a failover: the replica becomes the primary, and the primary its replica."""
    arena = _only(WatchedServers, storm)
    async with storm.server_busy:
        fault = await _server_at_stake(storm, "sentinel_failover")
        fault.hit = await arena.fail_over() and fault.hit
        ended(fault)


async def primary_kill(storm: Storm, draw: random.Random) -> None:
    """SIGKILL the primary: the sentinels make the replica one, and it comes back as a replica."""
    arena = _only(WatchedServers, storm)
    async with storm.server_busy:
        fault = await _server_at_stake(storm, "primary_kill")
        await arena.kill_primary(draw.uniform(0.0, 1.0))
        ended(fault)


async def notice_failovers(storm: Storm) -> None:
    """Note failovers that nobody ordered: they are faults like the others, but do not count as hits."""
    if not isinstance(storm.arena, WatchedServers):
        return
    while True:
        async with storm.server_busy:
            if await storm.arena.has_moved_by_itself():
                fault = storm.record("sentinel_failover", EVERYBODY, began=time.monotonic() - UNNOTICED, unordered=1)
                fault.hit = False
                await storm.arena.settle()
                ended(fault)
        await asyncio.sleep(UNNOTICED)


KINDS: dict[str, Strike] = {
    "worker_kill": worker_kill,
    "worker_stop": worker_stop,
    "worker_rolling_restart": worker_rolling,
    "producer_kill": producer_kill,
    "producer_stop": producer_stop,
    "producer_rolling_restart": producer_rolling,
    "network_cut": network_cut,
    "half_open": half_open,
    "network_delay": network_delay,
    **{kind: swallow(kind) for kind in SWALLOWED},
    "late_request": late_request,
    "client_kill": client_kill,
    "server_kill": server_kill,
    "server_stop": server_stop,
    "memory_squeeze": memory_squeeze,
    "sentinel_failover": sentinel_failover,
    "primary_kill": primary_kill,
}
