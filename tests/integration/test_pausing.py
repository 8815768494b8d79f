"""A pause holds for everybody, also for who comes later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from streams_queue import Queue, QueueFactory
from tests.conftest import MakeConfig, MakeQueue
from tests.support.builders import event, events
from tests.support.processes import Program, Programs
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


async def test_a_consumer_that_comes_during_a_pause_is_handed_nothing(make_redis_queue: MakeQueue) -> None:
    """It does not begin before its first round of housekeeping; when the pause ends, it goes on in order."""
    operator = make_redis_queue()
    await operator.enqueue_many(events(3))
    await operator.pause(intake=False)
    newcomer = make_redis_queue()

    assert await newcomer.receive(timeout=0) == []
    assert await newcomer.receive(timeout=0.05) == []
    stats = await operator.stats()
    assert (stats.waiting, stats.in_flight, stats.totals["released"]) == (3, 0, 0)

    await operator.resume()
    assert await take_numbers(newcomer, 3) == [0, 1, 2]


async def test_a_look_during_a_pause_returns_at_once(make_redis_queue: MakeQueue) -> None:
    """`timeout=0` waited as long as a server may take to answer, for an answer to a question that it did not ask."""
    queue = make_redis_queue()
    await queue.pause(intake=False)
    assert await queue.receive(timeout=0) == []

    async with asyncio.timeout(queue.settings.enqueue_timeout / 10):
        for _ in range(3):
            assert await queue.receive(timeout=0) == []


# --- seen by all processes within a second ---

WITHIN = 1.0
KINDS = ["redis", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("resilient", "rollout"))]


def _config(make_config: MakeConfig, kind: str) -> dict[str, Any]:
    rollout = {"percentage": 50, "old": {}, "new": {"name": "new"}}
    return make_config(type=kind, lease=15, **({"rollout": rollout} if kind == "rollout" else {}))


def times(program: Program, what: str, after: float = 0.0) -> list[float]:
    """Return when something happened in a process, as far as that was after a moment."""
    return [at for word, *rest in list(program.journal) if word == what for at in rest if at > after]


async def everybody(programs: Sequence[Program], what: str, after: float) -> float:
    """Wait until something has happened in all processes since a moment; return how many seconds the last one took."""
    await wait_until(lambda: all(times(program, what, after) for program in programs))
    return max(times(program, what, after)[0] for program in programs) - after


async def until(moment: float) -> None:
    """Let time go by in which nothing is to happen."""
    await asyncio.sleep(moment - time.monotonic())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pause_and_its_end_are_seen_by_all_processes_within_a_second(
    make_config: MakeConfig, programs: Programs, kind: str
) -> None:
    """Producers are refused, consumers are handed nothing; when it ends, both go on."""
    config = _config(make_config, kind)
    producers = [programs("seen_pausing", config=config, role="produce") for _ in range(2)]
    consumers = [programs("seen_pausing", config=config, role="consume") for _ in range(2)]
    async with QueueFactory.create_queue(config) as operator:
        await everybody(producers, "accepted", 0.0)
        await everybody(consumers, "handed out", 0.0)

        await operator.pause()
        paused = time.monotonic()
        assert await everybody(producers, "refused", paused) < WITHIN
        await until(paused + WITHIN + 0.5)
        assert [times(program, "accepted", paused + 0.05) for program in producers] == [[], []]
        assert [times(program, "handed out", paused + WITHIN) for program in consumers] == [[], []]
        assert (await operator.stats()).in_flight <= len(consumers)

        await operator.resume()
        resumed = time.monotonic()
        assert await everybody(producers, "accepted", resumed) < WITHIN
        assert await everybody(consumers, "handed out", resumed) < WITHIN


@pytest.mark.parametrize("kind", KINDS)
async def test_a_consumer_that_waits_in_a_read_is_handed_nothing_either(
    make_config: MakeConfig, programs: Programs, kind: str
) -> None:
    """What comes in meanwhile stays where it is, and goes out within a second of the end."""
    config = _config(make_config, kind)
    consumers = [programs("seen_pausing", config=config, role="consume") for _ in range(2)]
    async with QueueFactory.create_queue(config) as operator:
        for consumer in consumers:
            await consumer.until(1)
        await wait_until(lambda: _somebody_consumes(operator))

        await operator.pause(intake=False)
        paused = time.monotonic()
        await until(paused + WITHIN)
        for number in range(20):
            assert await operator.enqueue(event(number, repo=f"octocat/{number}"))
        await until(paused + WITHIN + 1.0)
        assert [times(program, "handed out") for program in consumers] == [[], []]

        await operator.resume()
        resumed = time.monotonic()
        await wait_until(lambda: sum(len(times(program, "handed out")) for program in consumers) == 20)
        assert max(at for program in consumers for at in times(program, "handed out")) - resumed < WITHIN


async def _somebody_consumes(queue: Queue) -> bool:
    return (await queue.stats()).consumers_idle is not None
