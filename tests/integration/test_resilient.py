"""The resilient queue over a real server that is killed, that hangs, and that runs out of memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams_queue import ResilientQueue, check_redis_health
from streams_queue.breaker import BreakerPolicy
from tests.conftest import MakeClient, MakeConfig, MakeQueue, ProxyTo, StartServer
from tests.support.builders import event, events, marker
from tests.support.proxy import FlakyProxy
from tests.support.servers import RedisServer
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Make = Callable[..., ResilientQueue]


@pytest.fixture
async def make(make_config: MakeConfig, start_server: StartServer, proxy_to: ProxyTo) -> AsyncIterator[Make]:
    """Make resilient queues with short times, `make(url, lease=1)`, and clean them up before their servers stop."""
    made: list[ResilientQueue] = []

    def new(url: str | None = None, **section: Any) -> ResilientQueue:
        config = make_config(url, **{"enqueue_timeout": 0.6, **section})
        made.append(ResilientQueue(config, breaker=BreakerPolicy(open_for=0.05, max_open_for=0.2)))
        return made[-1]

    yield new
    for queue in made:
        await queue.cleanup()


async def restored(queue: ResilientQueue) -> None:
    """Wait until Redis takes events directly again."""
    await wait_until(lambda: queue.using_redis)


async def test_no_event_is_lost_or_doubled_over_a_restart_of_the_server(make: Make, start_server: StartServer) -> None:
    """The server is killed between two events and comes back with its append-only file; order is kept as well."""
    server = start_server(appendonly="yes", appendfsync="always")
    queue = make(server.url)
    assert await queue.enqueue_many(events(10))
    await asyncio.to_thread(server.kill)
    for n in range(10, 20):
        assert await queue.enqueue(event(n))
    assert not queue.using_redis
    health = await queue.check_health()
    assert (health["status"], health["held_locally"]) == ("degraded", 10)
    await asyncio.to_thread(server.restart)
    assert await queue.enqueue(event(20))
    await restored(queue)
    assert await queue.enqueue(event(21))
    assert await take_numbers(queue, 22) == list(range(22))
    assert (await queue.stats()).waiting == 0


async def test_a_swallowed_reply_leaves_each_event_there_once(make: Make, proxy: FlakyProxy) -> None:
    """The server has written the batch, its reply never comes, and then it cannot be reached for longer than the caller
    waits: the batch is sent again verbatim, before what came later.
    """
    queue = make(proxy.url)
    assert await queue.enqueue(event(0))
    trap = proxy.swallow_reply(lambda request, _: marker(1) in b"".join(request), then="refuse")
    assert [receipt.held for receipt in await queue.enqueue_many([event(1), event(2)])] == [True, True]
    assert trap.hit.is_set()
    assert await queue.enqueue(event(3))
    assert not queue.using_redis
    proxy.restore()
    await restored(queue)
    assert await take_numbers(queue, 4) == [0, 1, 2, 3]
    assert (await queue.stats()).waiting == 0


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_a_call_of_several_batches_that_breaks_in_the_middle_leaves_each_event_there_once(
    make: Make, proxy: FlakyProxy, where: str
) -> None:
    """Large events go in batches of their own: one is there, the fate of one is unknown, one was never tried."""
    queue = make(proxy.url)
    large = [event(n, filler="x" * 3_000_000) for n in range(3)]
    if where == "reply":
        trap = proxy.swallow_reply(lambda request, _: marker(1) in b"".join(request), then="refuse")
    else:
        trap = proxy.hold_request(lambda request: marker(1) in b"".join(request), then="refuse")
    assert [receipt.held for receipt in await queue.enqueue_many(large)] == [True] * 3
    assert trap.hit.is_set()
    assert not queue.using_redis
    # Nobody may still be about to send it.
    await wait_until(lambda: not any(task.get_name() == "streams_queue.producer" for task in asyncio.all_tasks()))
    proxy.restore()
    await restored(queue)
    assert await take_numbers(queue, 3) == [0, 1, 2]
    assert (await queue.stats()).waiting == 0


async def test_a_server_without_memory_is_waited_out(make: Make, start_server: StartServer) -> None:
    """Local consumers get what is held; as soon as there is memory, the rest moves."""
    server = start_server(maxmemory_policy="noeviction")
    queue = make(server.url)
    assert await queue.enqueue(event(0))
    server.command("CONFIG", "SET", "maxmemory", "1")
    assert await queue.enqueue(event(1))
    assert await queue.enqueue(event(2))
    assert not queue.using_redis
    assert await take_numbers(queue, 1) == [1]
    server.command("CONFIG", "SET", "maxmemory", "0")
    await restored(queue)
    assert sorted(await take_numbers(queue, 2)) == [0, 2]


async def test_a_full_server_is_full(make: Make) -> None:
    """A real one as well."""
    queue = make(max_size=2)
    assert [await queue.enqueue(event(n)) for n in range(3)] == [True, True, False]
    assert queue.using_redis


async def test_local_consumers_work_on_through_an_outage(make: Make, start_server: StartServer) -> None:
    """A plain dequeue loop that began before the outage gets what comes in during it, and what comes after."""
    server = start_server()
    queue = make(server.url, timeout=10)
    got: list[int] = []

    async def consume() -> None:
        while (payload := await queue.dequeue()) is not None:
            got.append(payload["n"])

    consumer = asyncio.create_task(consume())
    assert await queue.enqueue(event(0))
    await wait_until(lambda: got == [0])
    await asyncio.to_thread(server.kill)
    for n in (1, 2, 3):
        assert await queue.enqueue(event(n))
    # The fate of the first one may be unknown, since its connection broke: then it is for Redis alone to tell.
    await wait_until(lambda: got[-2:] == [2, 3])
    await asyncio.to_thread(server.restart)
    await restored(queue)
    assert await queue.enqueue(event(4))
    await wait_until(lambda: sorted(got) == [0, 1, 2, 3, 4])
    consumer.cancel()
    await asyncio.wait([consumer])


async def test_cleanup_moves_what_is_held(
    make: Make, start_server: StartServer, make_client: MakeClient, keys: Any
) -> None:
    """The server is back for a moment; what was held is on it when cleanup returns, and no consumer is left."""
    server = start_server()
    queue = make(server.url)
    await queue.enqueue(event(0))
    await asyncio.to_thread(server.kill)
    assert await queue.enqueue(event(1))
    await asyncio.to_thread(server.restart)
    await queue.cleanup()
    assert await make_client(server.url).xlen(keys.stream) == 1


@pytest.mark.slow
@pytest.mark.faults
async def test_every_event_is_there_once_and_in_order_after_many_faults(
    make: Make, proxy: FlakyProxy, make_redis_queue: MakeQueue
) -> None:
    """Connections are cut, refused and muted and replies are swallowed while a producer goes on."""
    queue = make(proxy.url, max_size=1_000_000, enqueue_timeout=0.3, fallback={"max_size": 1_000_000})
    chance = random.Random(7)
    accepted, over = 0, False

    async def produce() -> None:
        nonlocal accepted
        while not over:
            batch = events(chance.choice((1, 1, 1, 10)), start=accepted)
            assert all(receipt.held for receipt in await queue.enqueue_many(batch))
            accepted += len(batch)
            await asyncio.sleep(chance.random() * 0.002)

    def refuse_all() -> None:
        proxy.refuse()
        proxy.cut()

    def swallow_a_reply() -> None:
        proxy.swallow_reply(lambda request, reply: True)

    producer = asyncio.create_task(produce())
    outages = 0
    for fault in (proxy.cut, refuse_all, proxy.black_hole, swallow_a_reply) * 3:
        await asyncio.to_thread(fault)
        await asyncio.sleep(0.1 + chance.random() * 0.6)
        outages += not queue.using_redis
        await asyncio.to_thread(proxy.restore)
        await asyncio.to_thread(proxy.cut)
    over = True
    await producer
    await restored(queue)
    await queue.cleanup()
    assert outages > 0
    assert await take_numbers(make_redis_queue(), accepted) == list(range(accepted))
    assert await make_redis_queue().get_queue_depth() == 0


# --- check_redis_health --------------------------------------------------------------------------------------


async def test_health_of_a_configuration_a_client_and_the_environment(
    make: Make, make_client: MakeClient, make_config: MakeConfig, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them see the same queue; what was opened for the check is closed again, and a client of others is not."""
    queue = make()
    await queue.enqueue_many(events(3))
    await queue.receive(1)
    config, client = make_config(), make_client(redis_url)
    monkeypatch.setenv("STREAMS_QUEUE_REDIS_URL", redis_url)
    monkeypatch.setenv("STREAMS_QUEUE_NAMESPACE", config["queue"]["namespace"])
    await client.ping()
    clients = len(await client.client_list())
    for target in (config, client, None):
        health = await check_redis_health(target)
        # What the first consumer has prefetched counts as in flight for all others.
        assert (health["status"], health["redis_connected"]) == ("healthy", True)
        assert health["queue_depth"] + health["processing"] == 3
        assert health["processing"] >= 1
    await wait_until(lambda: _clients(client, clients))
    assert await client.ping()


async def _clients(client: Any, expected: int) -> bool:
    return len(await client.client_list()) == expected


async def test_health_of_a_server_that_is_stopped_comes_in_time(
    start_server: StartServer, make_config: MakeConfig
) -> None:
    """A stopped process keeps its connections open and never answers."""
    server: RedisServer = start_server()
    server.pause()
    try:
        health = await asyncio.wait_for(check_redis_health(make_config(server.url)), 5.5)
    finally:
        server.resume()
    assert (health["status"], health["redis_connected"]) == ("unhealthy", False)
