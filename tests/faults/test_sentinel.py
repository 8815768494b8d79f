"""Behind sentinels: the primary changes, and every link of a queue follows without a restart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from redis.asyncio.sentinel import Sentinel

from streams_queue import RedisEventQueue, ResilientQueue
from streams_queue.errors import BackendUnavailable
from tests.conftest import MakeConfig, MakeQueue, StartSentinel, StartSentinels, StartServer
from tests.support.builders import event, events
from tests.support.sentinels import SERVICE, SentinelServer, Watched
from tests.support.servers import RedisServer
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.faults


def ordered(watched: Watched, primary: RedisServer) -> None:
    """Ask for a failover as an operator does: the old primary is demoted and lives on."""
    watched.fail_over()


def killed(watched: Watched, primary: RedisServer) -> None:
    """Crash the primary."""
    primary.kill()


def frozen(watched: Watched, primary: RedisServer) -> None:
    """Stop the primary with all connections open: nobody answers on them, and nobody closes them."""
    primary.pause()


def clients_of(server: RedisServer) -> int:
    """Count who is connected to a server, but for replicas, sentinels and the one that asks."""
    clients = server.command("CLIENT", "LIST").decode().splitlines()
    return sum(re.search(r"flags=[SM]| name=sentinel| cmd=client", client) is None for client in clients)


@pytest.mark.slow
@pytest.mark.parametrize("fail", [ordered, killed, frozen])
async def test_every_link_follows_the_primary(
    fail: Callable[[Watched, RedisServer], None], start_sentinels: StartSentinels, make_redis_queue: MakeQueue
) -> None:
    """What was waiting is handed out, what is in hand stays in hand and is settled, and what is new is accepted."""
    watched = await asyncio.to_thread(start_sentinels)
    queue = make_redis_queue(watched.url(), lease=1.5)
    await queue.enqueue_many(events(3))
    (in_hand,) = await receive_exactly(queue, 1)
    before = watched.primary()
    assert (await queue.check_health())["redis"] == f"127.0.0.1:{before.port} ({SERVICE})"
    await asyncio.to_thread(watched.wait_for_replicas)

    await asyncio.to_thread(fail, watched, before)
    after = await asyncio.to_thread(watched.wait_for_failover, before)

    await wait_until(lambda: accepted(queue, 3))
    assert await take_numbers(queue, 3) == [1, 2, 3]
    # Longer than the lease: the keeper has moved, too, or this one would be reclaimed.
    assert await queue.receive(timeout=2.0) == []
    await queue.ack(in_hand)
    assert (await queue.stats()).totals["acked"] == 4
    assert (await queue.check_health())["redis"] == f"127.0.0.1:{after.port} ({SERVICE})"


@pytest.mark.parametrize("how", ["url", "client"])
async def test_a_demoted_primary_is_left_by_links_that_nobody_closed(
    how: str, start_server: StartServer, start_sentinel: StartSentinel, make_redis_queue: MakeQueue
) -> None:
    """One link is told READONLY or UNBLOCKED; those that only look, and would be answered, follow it."""
    before = await asyncio.to_thread(start_server)
    after = await asyncio.to_thread(start_server, replicaof=before)
    sentinel = await asyncio.to_thread(start_sentinel, before)
    url = f"redis+sentinel://{sentinel.address}/{SERVICE}"
    if how == "url":
        queue = make_redis_queue(url, lease=1.0)
    else:
        manager = Sentinel([("127.0.0.1", sentinel.port)])
        queue = make_redis_queue(client=manager.master_for(SERVICE), lease=1.0)
    reading = asyncio.create_task(queue.receive(timeout=30))
    await wait_until(lambda: clients_of(before) == 3, what=lambda: before.command("CLIENT", "LIST"))
    await queue.enqueue_many(events(2))
    held = await reading
    await wait_until(lambda: clients_of(before) == 4)

    await asyncio.to_thread(demote, before, after, sentinel)
    await wait_until(lambda: accepted(queue, 2))
    assert (await queue.stats()).consumers == 1

    rest = await receive_exactly(queue, 3 - len(held))
    await wait_until(lambda: clients_of(before) == 0, what=lambda: before.command("CLIENT", "LIST"))
    await queue.ack(*held, *rest)
    assert sorted(delivery.payload["n"] for delivery in (*held, *rest)) == [0, 1, 2]


async def test_a_link_that_only_looks_leaves_a_demoted_primary(
    start_server: StartServer, start_sentinel: StartSentinel, make_redis_queue: MakeQueue
) -> None:
    """A replica would answer it for ever; what another link was told holds for it, too."""
    before = await asyncio.to_thread(start_server)
    after = await asyncio.to_thread(start_server, replicaof=before)
    sentinel = await asyncio.to_thread(start_sentinel, before)
    queue = make_redis_queue(f"redis+sentinel://{sentinel.address}/{SERVICE}")
    await queue.enqueue(event(0))
    await queue.get_queue_depth()
    assert clients_of(before) == 2

    await asyncio.to_thread(demote, before, after, sentinel)
    await wait_until(lambda: accepted(queue, 1))
    await queue.get_queue_depth()

    assert (clients_of(before), clients_of(after)) == (0, 2)


def demote(before: RedisServer, after: RedisServer, sentinel: SentinelServer) -> None:
    """Swap the two by hand, which closes no connection; a sentinel is told afterwards."""
    wait_until_sync(lambda: after.command("ROLE")[4] >= before.command("ROLE")[1])
    after.promote()
    before.command("REPLICAOF", "127.0.0.1", after.port)
    sentinel.watch(after)


async def accepted(queue: RedisEventQueue, number: int) -> bool:
    """Enqueue one event unless it is there already; the outcome of an attempt that broke is unknown."""
    try:
        return await queue.enqueue(event(number), event_id=f"event-{number}")
    except BackendUnavailable:
        return False


async def test_hung_sentinels_are_not_waited_for(start_sentinels: StartSentinels, make_redis_queue: MakeQueue) -> None:
    """The next one is asked beside them: connecting takes no longer than one attempt may."""
    watched = await asyncio.to_thread(start_sentinels, replicas=0)
    for sentinel in watched.sentinels[:2]:
        sentinel.pause()
    queue = make_redis_queue(watched.url(), enqueue_timeout=3.0)
    assert await queue.enqueue(event(0))
    assert await take_numbers(queue, 1) == [0]
    for sentinel in watched.sentinels[:2]:
        sentinel.resume()


@pytest.mark.parametrize("which", [0, 1])
async def test_a_node_that_is_no_primary_is_not_used(
    which: int, start_server: StartServer, start_sentinel: StartSentinel, make_redis_queue: MakeQueue
) -> None:
    """A sentinel that has not heard of the failover names a replica: another one is believed, wherever it stands."""
    primary = await asyncio.to_thread(start_server)
    replica = await asyncio.to_thread(start_server, replicaof=primary)
    sentinels = [await asyncio.to_thread(start_sentinel, server) for server in (replica, primary)]
    if which:
        sentinels.reverse()
    late = make_redis_queue(f"redis+sentinel://{sentinels[which].address}/{SERVICE}", enqueue_timeout=0.5)
    with pytest.raises(BackendUnavailable, match=f"127.0.0.1:{replica.port} is not a primary at present"):
        await late.enqueue(event(0))
    assert await late.dequeue(timeout=0.1) is None

    addresses = ",".join(sentinel.address for sentinel in sentinels)
    queue = make_redis_queue(f"redis+sentinel://{addresses}/{SERVICE}", enqueue_timeout=3.0)
    assert await queue.enqueue(event(0))
    assert (await queue.check_health())["redis"] == f"127.0.0.1:{primary.port} ({SERVICE})"


@pytest.mark.slow
async def test_a_resilient_queue_holds_events_while_there_is_no_primary(
    start_sentinels: StartSentinels, make_config: MakeConfig
) -> None:
    """They go to the new primary, in order, once there is one."""
    watched = await asyncio.to_thread(start_sentinels)
    async with ResilientQueue(make_config(watched.url(), enqueue_timeout=1.0)) as queue:
        assert await queue.enqueue(event(0))
        await asyncio.to_thread(watched.wait_for_replicas)
        before = watched.primary()
        before.kill()

        assert all([await queue.enqueue(each) for each in events(3, start=1)])
        assert not queue.using_redis
        after = await asyncio.to_thread(watched.wait_for_failover, before)
        await wait_until(lambda: queue.using_redis, 20)

        assert (await queue.check_health())["redis"] == f"127.0.0.1:{after.port} ({SERVICE})"
        assert await take_numbers(queue, 4) == [0, 1, 2, 3]
