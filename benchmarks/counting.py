"""Counting at both ends: a figure stands only if all events had arrived, or were gone, before the clock stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from benchmarks.model import Figures

QUANTILES = (1.0, 5.0, *(10.0 * tens for tens in range(1, 10)), 95.0, 97.5, 99.0, 99.5, 99.9)
"""In percent: what the JSON file keeps of a sample."""

_POLL = 0.0005
_PATIENCE = 60.0
_SENT = ("evalsha", "eval", "xreadgroup", "ping", "client|id", "client|unblock")
_SENT_BARE = ("xadd", "xack", "xdel", "xreadgroup")


class MiscountError(AssertionError):
    """The server does not hold what the run says."""


async def expect_held(client: Any, stream: str, events: int) -> None:
    """Make sure that the stream holds exactly so many events."""
    held = await client.xlen(stream)
    if held != events:
        raise MiscountError(f"{stream} holds {held} events, not {events}")


async def until_empty(client: Any, stream: str, group: str) -> None:
    """Wait until the stream is empty and nothing is pending."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while await client.xlen(stream):
        if asyncio.get_running_loop().time() > deadline:
            raise MiscountError(f"{stream} still holds {await client.xlen(stream)} events")
        await asyncio.sleep(_POLL)
    pending = (await client.xpending(stream, group))["pending"]
    if pending:
        raise MiscountError(f"{stream} is empty, but {pending} entries are pending")


class Watch:
    """Measures a stretch of work: how long it took, and how much processor time on either side.

    Processor time per event hardly depends on what else the machine does meanwhile; throughput does.

    Args:
        client: Asks the server, before the stretch begins and after it has ended.
    """

    UNITS: ClassVar = {"throughput": "events/s", "client CPU": "µs/event", "server CPU": "µs/event"}

    def __init__(self, client: Any) -> None:
        self._client = client

    async def start(self) -> None:
        """Begin."""
        self._server = await server_cpu(self._client)
        self._own, self._began = time.process_time(), time.perf_counter()

    async def stop(self, events: int) -> Figures:
        """End; all events have been counted at the other end by now."""
        seconds, own = time.perf_counter() - self._began, time.process_time() - self._own
        server = await server_cpu(self._client) - self._server
        return {"throughput": events / seconds, "client CPU": 1e6 * own / events, "server CPU": 1e6 * server / events}


async def server_cpu(client: Any) -> float:
    """Return the processor time that the server has used so far, in seconds."""
    info = await client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def commands_sent(client: Any) -> int:
    """Count what clients have sent to produce and consume, without what scripts run on the server.

    The server counts both alike, but none of our scripts runs these; a bare client sends no script, and none of ours.
    """
    counted = await client.info("commandstats")
    names = _SENT if _calls(counted, "evalsha") else _SENT_BARE
    return sum(_calls(counted, name) for name in names)


def _calls(counted: Any, command: str) -> int:
    return int(counted.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def wait_for(look: Callable[[], Awaitable[object]]) -> None:
    """Wait until another process has done what `look` looks for."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while not await look():
        if asyncio.get_running_loop().time() > deadline:
            raise MiscountError("the other process is late")
        await asyncio.sleep(0.01)


def percentile(sample: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sample lies (nearest rank)."""
    return sorted(sample)[min(len(sample) - 1, int(len(sample) * share))]


def latencies(sample: Sequence[float], name: str) -> Figures:
    """Return p50 and p99 in milliseconds of a sample in seconds."""
    return {f"{name} p50": 1000 * percentile(sample, 0.5), f"{name} p99": 1000 * percentile(sample, 0.99)}
