"""The whole state of a queue in one value, so that a test says all that must be true, not only what it looked for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from streams_queue.queue import Queue


@dataclass(frozen=True)
class Whole:
    """How many events are in each state, and what was counted so far (zeros left out)."""

    waiting: int = 0
    in_flight: int = 0
    delayed: int = 0
    dead: int = 0
    totals: frozenset[tuple[str, int]] = frozenset()


def whole(
    *, waiting: int = 0, in_flight: int = 0, delayed: int = 0, dead: int = 0, died: int | None = None, **totals: int
) -> Whole:
    """Return the state that a test expects; `died` is the total of dead letters, by default as many as there are."""
    died = dead if died is None else died
    counted = {**totals, "dead": died} if died else totals
    return Whole(waiting, in_flight, delayed, dead, frozenset(counted.items()))


async def state_of(queue: Queue) -> Whole:
    """Return the state that the queue reports, in one look."""
    stats = await queue.stats()
    totals = frozenset((name, count) for name, count in stats.totals.items() if count)
    return Whole(stats.waiting, stats.in_flight, stats.delayed, stats.dead, totals)


async def assert_state(queue: Queue, expected: Whole, timeout: float = 5.0) -> None:
    """Wait until the whole state is as expected (acknowledgements may travel some milliseconds), or fail showing it."""
    deadline = time.monotonic() + timeout
    while True:
        actual = await state_of(queue)
        if actual == expected or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.01)
    assert actual == expected, f"{actual} is not {expected}"
