"""The primary is lost under load: what `enqueue` said yes to, and what was handled in the end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from streams_queue import RedisEventQueue
from tests.conftest import MakeConfig, MakeQueue, StartSentinel, StartSentinels, StartServer
from tests.support.builders import Keys, event
from tests.support.failing_over import accepted, numbers, pair, stored_numbers
from tests.support.processes import Program, Programs
from tests.support.sentinels import SERVICE, Watched
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

LAG = 0.05
"""Seconds that the replica is behind: what it had not got is lost with the primary."""


def killed(primary: RedisServer) -> None:
    """Crash it."""
    primary.kill()


def frozen(primary: RedisServer) -> None:
    """Stop it with all connections open."""
    primary.pause()


async def more_accepted(producer: Program, count: int = 300) -> None:
    """Return when so many more events were accepted."""
    wanted = len(numbers(producer, "accepted")) + count
    await wait_until(lambda: accepted(producer, wanted), 30, what=producer.describe)


async def stop(producer: Program) -> None:
    """Let a producer end by itself, so that its journal is complete."""
    producer.go()
    assert await producer.ended() == 0, producer.describe()


async def drained(config: dict[str, Any], *workers: Program) -> set[str]:
    """Return when the workers have left nothing to be handled; the ids of the dead letters."""
    async with RedisEventQueue(config) as queue:

        async def nothing_left() -> bool:
            stats = await queue.stats()
            return not (stats.waiting or stats.in_flight or stats.delayed)

        await wait_until(nothing_left, 30, what=lambda: [worker.describe() for worker in workers])
        return {letter.event_id for letter in await queue.dead_letters()}


async def test_what_is_replicated_survives_the_loss_of_the_primary(
    start_server: StartServer, make_config: MakeConfig, programs: Programs
) -> None:
    """The machine is lost with all that was on its way to the replica, under load; every event is handled."""
    with pair(LAG) as servers:
        config = make_config(servers.url, durability="replicated", lease=1.0)
        producer = programs("keep_enqueueing", config=config, tasks=32)
        await more_accepted(producer)

        servers.lose_primary()
        servers.promote_replica()
        start_server(replicaof=servers.replica)
        # Only now, or it would have handled what the replica had not got.
        worker = programs("work", config=config, concurrency=8)
        await more_accepted(producer)
        await stop(producer)

        assert await drained(config, worker) == set()
        assert numbers(producer, "accepted") - numbers(worker, "end") == set()


async def test_what_is_only_accepted_may_be_lost_and_its_producer_is_told(
    make_config: MakeConfig, programs: Programs, keys: Keys
) -> None:
    """The same loss without waiting for the replica: events are gone, and the producer's log counts them."""
    with pair(LAG) as servers:
        config = make_config(servers.url)
        producer = programs("keep_enqueueing", config=config, tasks=32)
        await more_accepted(producer)
        await wait_until(lambda: stored_numbers(servers.replica, keys))

        servers.lose_primary()
        servers.promote_replica()
        await more_accepted(producer)
        await stop(producer)

        told = numbers(producer, "accepted")
        assert told - stored_numbers(servers.replica, keys)
        assert any("forgot batches" in line for line in producer.errors), producer.describe()


async def test_a_wait_does_not_go_on_at_another_server(
    start_server: StartServer, start_sentinel: StartSentinel, make_redis_queue: MakeQueue, keys: Keys
) -> None:
    """Another link learns of a new primary during the wait: there the event has to be written before it counts."""
    before, after = start_server(), start_server()
    replica = start_server(replicaof=before)
    sentinel = start_sentinel(before)
    url = f"redis+sentinel://{sentinel.address}/{SERVICE}"
    queue = make_redis_queue(url, durability="replicated", min_replicas=0, enqueue_timeout=20)
    assert await queue.enqueue(event(0))
    replica.pause()
    enqueueing = asyncio.create_task(queue.enqueue(event(1)))
    await wait_until(lambda: stored_numbers(before, keys) == {0, 1})

    sentinel.watch(after)
    kill_idle_clients(before)
    assert await queue.get_queue_depth() == 0

    assert await enqueueing
    assert stored_numbers(after, keys) == {1}


def kill_idle_clients(server: RedisServer) -> None:
    """Close the connections on which nobody waits, but for those of replicas, sentinels and the one that asks."""
    for client in server.command("CLIENT", "LIST").decode().splitlines():
        if re.search(r"flags=[SMb]| name=sentinel| cmd=client| cmd=role", client) is None:
            server.command("CLIENT", "KILL", "ID", re.findall(r"id=(\d+)", client)[0])


@pytest.mark.slow
@pytest.mark.parametrize("fail", [killed, frozen])
async def test_sentinels_fail_over_under_load_and_nothing_acknowledged_is_lost(
    fail: Callable[[RedisServer], None], start_sentinels: StartSentinels, make_config: MakeConfig, programs: Programs
) -> None:
    """One replica, no partition, `replicated`: three failovers, and every accepted event is handled."""
    watched: Watched = await asyncio.to_thread(start_sentinels)
    config = make_config(watched.url(), durability="replicated", lease=1.0)
    producers = [programs("keep_enqueueing", config=config, tasks=16, first=first) for first in (0, 1_000_000)]
    workers = [programs("work", config=config, concurrency=8) for _ in range(2)]
    for _ in range(3):
        await asyncio.gather(*map(more_accepted, producers))
        await asyncio.to_thread(watched.wait_for_replicas)
        before = watched.primary()

        fail(before)
        await asyncio.to_thread(watched.wait_for_failover, before)

        # The old primary comes back, as one that does not know better, and is made a replica of the new one.
        await asyncio.to_thread(before.restart if fail is killed else before.resume)
        await asyncio.gather(*map(more_accepted, producers))
    await asyncio.gather(*map(stop, producers))

    assert await drained(config, *workers) == set()
    handled = set.union(*(numbers(worker, "end") for worker in workers))
    told = set.union(*(numbers(producer, "accepted") for producer in producers))
    assert told - handled == set()
