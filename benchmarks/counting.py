"""Counting at both ends: a figure stands only if all events had arrived, or were gone, before the clock stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks.model import Figures

_POLL = 0.0005
_PATIENCE = 60.0


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


def percentile(sample: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sample lies (nearest rank)."""
    return sorted(sample)[min(len(sample) - 1, int(len(sample) * share))]


def latencies(sample: Sequence[float], name: str) -> Figures:
    """Return p50 and p99 in milliseconds of a sample in seconds."""
    return {f"{name} p50": 1000 * percentile(sample, 0.5), f"{name} p99": 1000 * percentile(sample, 0.99)}
