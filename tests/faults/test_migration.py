"""A migration that is killed again and again while producers push to the list and workers consume from the stream."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml

from streams_queue import RedisEventQueue
from tests.conftest import MakeClient, MakeConfig, StartServer
from tests.support.builders import Keys, events
from tests.support.plan_lists import PlanLists, pushed
from tests.support.processes import Program, Programs
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.integration]
SEED = 20_261_129


class Scene:
    """A list, a queue, producers of the one, workers on the other, and a bridge between them.

    Args:
        programs: Starts processes.
        lists: On their server.
        url: Of that server.
        config: Of the queue.
        folder: For its file.
        from_url: Where the bridge is to find the lists, if not with the queue.
    """

    def __init__(
        self,
        programs: Programs,
        lists: PlanLists,
        url: str,
        *,
        config: dict[str, Any],
        folder: Path,
        from_url: str | None,
    ) -> None:
        self._programs = programs
        self.lists = lists
        self._url = url
        self._config = config
        file = folder / "webhook_config.yaml"
        file.write_text(yaml.safe_dump(config))
        self._words = ["migrate", "--config", str(file), "--json", "--follow"]
        self._words += ["--list", lists.source, "--processing-list", lists.processing]
        self._words += ["--from-url", from_url] if from_url else []
        self.workers: list[Program] = []

    @property
    def counter(self) -> str:
        """Numbers what is pushed."""
        return f"{self.lists.namespace}:counter"

    async def fill(self, count: int) -> None:
        """Push the first events."""
        for start in range(0, count, 5000):
            await self.lists.push(pushed(range(start, min(count, start + 5000))))
        await self.lists.raw.set(self.counter, count)

    def produce(self, processes: int, count: int, pause: float) -> list[Program]:
        """Start producers, each of which pushes `count` events."""
        arguments = {"url": self._url, "key": self.lists.source, "counter": self.counter, "count": count}
        return [self._programs("plan_produce", pause=pause, **arguments) for _ in range(processes)]

    def work(self, processes: int) -> None:
        """Start workers."""
        self.workers = [self._programs("plan_work", config=self._config) for _ in range(processes)]

    def bridge(self) -> Program:
        """Start a bridge."""
        return self._programs("command", words=self._words)

    async def kill_bridges(self, times: int, dice: random.Random) -> None:
        """Start a bridge, and kill it at random once it moves something; again and again."""
        for _ in range(times):
            bridge = self.bridge()
            before = self.done()
            await wait_until(lambda before=before: self.done() > before, 30, what=bridge.describe)  # type: ignore[misc]
            await asyncio.sleep(dice.uniform(0, 0.1))
            assert bridge.running, bridge.describe()
            bridge.kill()

    def done(self) -> int:
        """Return how many events have been processed, if all were once."""
        return sum(len(each.journal) for each in self.workers)

    async def end(self, total: int, producers: list[Program], timeout: float) -> dict[str, Any]:
        """Let a last bridge bring everything to its end; return its report."""
        bridge = self.bridge()
        for each in producers:
            assert await each.ended(timeout) == 0
        await wait_until(lambda: self.done() >= total, timeout, what=lambda: f"{self.done()} of {total} are processed")
        bridge.signal(signal.SIGTERM)
        assert await bridge.ended() == 0, bridge.describe()
        for each in self.workers:
            each.signal(signal.SIGTERM)
        for each in self.workers:
            assert await each.ended() == 0, each.describe()
        (report,) = bridge.journal
        return dict(report)

    def processed(self) -> list[int]:
        """Return the numbers of all events that were processed, in the order of their entries in the stream."""
        seen = [(*map(int, entry_id.split("-")), number) for each in self.workers for entry_id, number in each.journal]
        return [number for *_, number in sorted(seen)]


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(
    programs: Programs, make_client: MakeClient, make_config: MakeConfig, namespace: str, tmp_path: Path
) -> MakeScene:
    """Set a scene on servers of the test's own, which have an append-only file."""

    def make(queue_url: str, lists_url: str, **queue: Any) -> Scene:
        from_url = lists_url if lists_url != queue_url else None
        config = make_config(redis_url=queue_url, lease=15, **queue)
        return Scene(
            *(programs, PlanLists(make_client(lists_url), namespace), lists_url),
            config=config,
            folder=tmp_path,
            from_url=from_url,
        )

    return make


async def test_a_bridge_that_is_killed_loses_nothing_and_doubles_nothing(
    start_server: StartServer, make_scene: MakeScene
) -> None:
    """2,000 events in the list and 200 that come meanwhile; three kills. Each runs once, and the stream is in order."""
    url = start_server().url
    scene = make_scene(url, url, max_size=100)
    await scene.fill(2000)
    scene.work(2)
    producers = scene.produce(2, 100, pause=0.005)
    await scene.kill_bridges(3, random.Random(SEED))
    report = await scene.end(2200, producers, 30)
    assert scene.processed() == list(range(2200))
    assert (report["adds_up"], report["waiting"]["moved"], report["waiting"]["left"]) == (True, 2200, 0)


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_a_hundred_thousand_events_under_load(
    start_server: StartServer,
    make_scene: MakeScene,
    make_client: MakeClient,
    keys: Keys,
    record_property: Callable[[str, object], None],
) -> None:
    """Four producers, four workers, ten kills. No command of the migration keeps the server from others for long."""
    server = start_server(slowlog_log_slower_than=500, slowlog_max_len=100_000)
    raw, scene = make_client(server.url), make_scene(server.url, server.url)
    # The same processes without a migration: what the machine itself makes slow.
    scene.work(4)
    calm = await slowest_without(scene, raw)
    already = [each.journal.copy() for each in scene.workers]
    for each in scene.workers:
        each.journal.clear()
    await scene.fill(100_000)
    await raw.execute_command("SLOWLOG", "RESET")
    producers = scene.produce(4, 2500, pause=0.002)
    await scene.kill_bridges(10, random.Random(SEED))
    report = await scene.end(110_000, producers, 120)
    slowest = await slowest_command(raw)
    print(f"slowest command: {slowest / 1000:.1f} ms with the migration, {calm / 1000:.1f} ms without; {report}")
    assert sum(map(len, already)) == 10_000
    assert scene.processed() == list(range(110_000))
    assert (report["adds_up"], report["waiting"]["moved"], report["waiting"]["left"]) == (True, 110_000, 0)
    assert await raw.xlen(keys.stream) == 0
    assert slowest <= max(10_000, 2 * calm)


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_forty_thousand_events_between_two_servers(start_server: StartServer, make_scene: MakeScene) -> None:
    """Four producers, four workers, ten kills."""
    at = [start_server().url for _ in range(2)]
    scene = make_scene(*at, max_size=500)
    await scene.fill(40_000)
    scene.work(4)
    producers = scene.produce(4, 250, pause=0.002)
    await scene.kill_bridges(10, random.Random(SEED))
    report = await scene.end(41_000, producers, 60)
    assert scene.processed() == list(range(41_000))
    assert (report["adds_up"], report["waiting"]["moved"], report["waiting"]["left"]) == (True, 41_000, 0)


async def slowest_without(scene: Scene, raw: redis.asyncio.Redis) -> int:
    """Return the microseconds of the slowest command while 10,000 events are enqueued, processed, and others pushed."""
    await raw.execute_command("SLOWLOG", "RESET")
    producers = scene.produce(4, 500, pause=0.002)
    async with RedisEventQueue(scene._config) as queue:
        for start in range(0, 10_000, 500):
            await queue.enqueue_many(events(500, start))
    for each in producers:
        assert await each.ended() == 0
    await wait_until(lambda: scene.done() == 10_000, 30)
    slowest = await slowest_command(raw)
    await raw.delete(scene.lists.source)
    return slowest


async def slowest_command(raw: redis.asyncio.Redis) -> int:
    """Return the microseconds of the slowest command since the slow log was reset; 0 if there was none."""
    found = await raw.execute_command("SLOWLOG", "GET", 100_000)
    return max((each["duration"] if isinstance(each, dict) else each[2] for each in found), default=0)
