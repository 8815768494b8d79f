"""A rollout to the new server and back under load: processes with different shares side by side, nothing lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from streams_queue import RolloutQueue
from streams_queue.rollout_queue.routing import position
from tests.conftest import MakeConfig, StartServer
from tests.support.processes import Program, Programs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

SHARES = (0, 50, 100, 0)
# What each of three producers sends at each share: not the same, so that one is at the next share before the others.
COUNTS = ((3000, 5000, 5000, 4500), (4500, 4500, 3000, 5000), (5000, 4000, 4500, 5000))
EVENTS = sum(map(sum, COUNTS))
REPOS = 5000
SENT_AGAIN = 400


def processed(consumers: Iterable[Program]) -> list[int]:
    """Return which events have been processed, in no order, each as often as it was."""
    return [
        number for each in consumers for word, *rest in list(each.journal) if word == "processed" for number in rest
    ]


def held(producers: Iterable[Program]) -> list[int]:
    """Return which events a call has said to be held, each as often as one has."""
    return [
        n for each in producers for word, *rest in each.journal if word == "held" for numbers in rest for n in numbers
    ]


class Producers:
    """One slot of producing processes: for each share one after the other, the restarts of a configuration change."""

    def __init__(self, start: Callable[..., Program], first: int, counts: tuple[int, ...]) -> None:
        self._start, self._first, self._counts = start, first, counts
        self.programs: list[Program] = []
        self.sent: dict[int, range] = {}

    async def run(self, configs: list[dict[str, Any]], restarted: Callable[[int], Any]) -> None:
        """Send everything; each process also sends again what the one before it had sent at another share."""
        first, before = self._first, range(0)
        for stage, (config, count) in enumerate(zip(configs, self._counts, strict=True)):
            again = list(before[: SENT_AGAIN * 5 : 5])
            program = self._start("rollout_produce", config=config, first=first, count=count, again=again, repos=REPOS)
            self.programs.append(program)
            restarting = asyncio.create_task(restarted(stage))
            assert await program.ended(timeout=120) == 0, program.describe()
            await restarting
            self.sent[stage] = before = range(first, first + count)
            first += count


class Consumers:
    """One slot of consuming processes; a restart ends one in order and starts the next."""

    def __init__(self, start: Callable[..., Program]) -> None:
        self._start = start
        self.programs: list[Program] = []

    async def restart(self, config: dict[str, Any] | None) -> None:
        """End the process that runs and start one with this configuration, if there is one."""
        if self.programs:
            self.programs[-1].go()
            assert await self.programs[-1].ended() == 0, self.programs[-1].describe()
        if config is not None:
            self.programs.append(self._start("rollout_consume", config=config))
            await self.programs[-1].until(1)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_from_0_to_50_to_100_and_back_to_0_under_load(
    start_server: StartServer, make_config: MakeConfig, programs: Programs
) -> None:
    """53,000 events, 3,600 of them sent a second time at another share: each is held once and processed once."""
    old, new = start_server(), start_server()

    def config(percentage: float) -> dict[str, Any]:
        rollout = {
            "percentage": percentage,
            "old": {},
            "new": {"redis_url": make_config(new.url)["queue"]["redis_url"]},
        }
        return make_config(old.url, type="rollout", rollout=rollout, max_size=20_000, lease=15, enqueue_timeout=20)

    configs = [config(share) for share in SHARES]
    starts = [sum(map(sum, COUNTS[:slot])) for slot in range(len(COUNTS))]
    producers = [Producers(programs, first, counts) for first, counts in zip(starts, COUNTS, strict=True)]
    consumers = [Consumers(programs) for _ in COUNTS]

    await asyncio.gather(
        *(
            producer.run(configs, lambda stage, own=consumer: own.restart(configs[stage]))  # type: ignore[misc]
            for producer, consumer in zip(producers, consumers, strict=True)
        )
    )
    async with RolloutQueue(configs[-1]) as queue:
        await wait_until(lambda: _is_empty(queue), timeout=60)
        await asyncio.gather(*(consumer.restart(None) for consumer in consumers))
        stats, in_new = await queue.stats(), (await queue.new_queue.stats()).totals["enqueued"]

    sent_twice = len(COUNTS) * (len(SHARES) - 1) * SENT_AGAIN
    accepted = Counter(held(program for producer in producers for program in producer.programs))
    assert sorted(accepted) == list(range(EVENTS))
    assert sum(accepted.values()) == EVENTS + sent_twice
    done = Counter(processed(program for consumer in consumers for program in consumer.programs))
    assert sorted(done) == list(range(EVENTS)), f"{EVENTS - len(done)} events are lost"
    assert max(done.values()) == 1, f"{sum(count > 1 for count in done.values())} events were processed twice"
    totals = stats.totals
    assert (totals["enqueued"], totals["acked"], totals["dead"]) == (EVENTS, EVENTS, 0)
    assert totals["duplicates"] == sent_twice

    at_half = [n for producer in producers for n in producer.sent[1]]
    at_full = sum(len(producer.sent[2]) for producer in producers)
    expected = [n for n in at_half if position(f"octocat/repo-{n % REPOS}") < 50]
    assert in_new == len(expected) + at_full
    assert 0.48 <= (in_new - at_full) / len(at_half) <= 0.52
    print(
        f"{EVENTS} events, {sent_twice} sent twice; at 50 %: {(in_new - at_full) / len(at_half):.2%} to the new queue"
    )


async def _is_empty(queue: RolloutQueue) -> bool:
    stats = await queue.stats()
    return stats.waiting + stats.in_flight + stats.delayed == 0
