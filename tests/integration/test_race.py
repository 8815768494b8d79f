from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from tests.conftest import MakeConfig, MakeQueue
from tests.support.builders import event
from tests.support.processes import Program, Programs
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take, take_numbers

pytestmark = pytest.mark.integration

PROCESSES, TASKS, EVENTS, MAX_SIZE = 4, 8, 5000, 1000
RUNS = [0, *(pytest.param(run, marks=pytest.mark.slow) for run in range(1, 20))]


async def race(programs: Programs, config: dict[str, Any]) -> list[int]:
    """Let 32 tasks in 4 processes enqueue 5000 events at once; return the numbers that were accepted."""
    racers = [
        programs("produce", config=config, tasks=TASKS, numbers=list(range(first, EVENTS, PROCESSES)))
        for first in range(PROCESSES)
    ]
    for racer in racers:
        await racer.until(1)
    for racer in racers:
        racer.go()
    return sorted([number for racer in racers for number in await accepted_by(racer)])


async def accepted_by(racer: Program) -> list[int]:
    """Wait for a producer's end and return what it got accepted."""
    assert await racer.ended() == 0, racer.describe()
    numbers: list[int] = racer.journal[-1][1]
    return numbers


@pytest.mark.parametrize("run", RUNS)
async def test_a_full_queue_accepts_exactly_max_size(
    run: int, programs: Programs, make_redis_queue: MakeQueue, make_config: MakeConfig
) -> None:
    """32 producers race for 1000 places with 5000 events: exactly 1000 are accepted, and those come out."""
    config = make_config(max_size=MAX_SIZE)

    accepted = await race(programs, config)

    assert len(accepted) == MAX_SIZE
    queue = make_redis_queue(max_size=MAX_SIZE)
    assert sorted(await take_numbers(queue, MAX_SIZE)) == accepted
    stats = await queue.stats()
    assert (stats.waiting, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, 0)
    assert (stats.totals["enqueued"], stats.totals["rejected"]) == (MAX_SIZE, EVENTS - MAX_SIZE)


class Sampler:
    """Looks at the queue's size again and again."""

    def __init__(self, stored: StoredQueue) -> None:
        self._stored = stored
        self.sizes: list[int] = []
        self.running = True

    async def run(self) -> None:
        while self.running:
            self.sizes.append(await self._stored.size())


@pytest.mark.parametrize("run", RUNS)
async def test_drop_oldest_keeps_the_newest_and_never_touches_what_is_held(
    run: int,
    programs: Programs,
    make_redis_queue: MakeQueue,
    make_config: MakeConfig,
    stored: StoredQueue,
) -> None:
    """In the same race with `drop_oldest`: accepted = handed out + dead(overflow), and never more than max_size."""
    settings = {"max_size": MAX_SIZE, "overflow": "drop_oldest", "prefetch": 1, "lease": 30}
    queue = make_redis_queue(**settings)
    await queue.enqueue_many([event(-number) for number in range(1, 11)])
    held = await receive_exactly(queue, 10)
    sampler = Sampler(stored)
    sampling = asyncio.create_task(sampler.run())

    accepted = await race(programs, make_config(**settings))
    sampler.running = False
    await sampling

    assert len(accepted) == EVENTS
    assert len(sampler.sizes) > 20
    assert max(sampler.sizes) <= MAX_SIZE
    await queue.ack(*held)
    left = [payload["n"] for payload in await take(queue, MAX_SIZE - len(held))]
    dead = [letter.payload["n"] for letter in await queue.dead_letters(EVENTS) if letter.reason == "overflow"]
    assert sorted(left + dead) == accepted
    assert_newest(left, dead)
    stats = await queue.stats()
    assert (stats.waiting, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, len(dead))
    assert stats.totals["acked"] == MAX_SIZE


def assert_newest(left: list[int], dead: list[int]) -> None:
    """Each producer task sent rising numbers, so what is left of it must lie above all that was dropped of it."""
    dropped: dict[tuple[int, int], int] = defaultdict(lambda: -1)
    for number in dead:
        dropped[task_of(number)] = max(dropped[task_of(number)], number)
    assert [number for number in left if number < dropped[task_of(number)]] == []


def task_of(number: int) -> tuple[int, int]:
    """Name the task that sent a number: which process, and which of its tasks."""
    return number % PROCESSES, number // PROCESSES % TASKS
