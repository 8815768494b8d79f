"""A server that is away for longer than the lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import LookAt, MakeConfig, MakeQueue, ProxyTo, StartServer
from tests.support.builders import event, events
from tests.support.processes import Program, Programs
from tests.support.proxy import FlakyProxy
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.working import working

pytestmark = pytest.mark.faults

LEASE, OUTAGE, HANDLER, EVENTS = 2.0, 5.0, 7.5, 10


def killed(server: RedisServer, proxy: FlakyProxy) -> Callable[[], None]:
    """Crash the server; the result brings it back with its append-only file."""
    server.kill()
    return server.restart


def stopped(server: RedisServer, proxy: FlakyProxy) -> Callable[[], None]:
    """Freeze the server with all connections open; the result lets it go on."""
    server.pause()
    return server.resume


def unreachable(server: RedisServer, proxy: FlakyProxy) -> Callable[[], None]:
    """Cut the network between workers and server; the result mends it."""
    proxy.refuse()
    proxy.cut()
    return proxy.restore


def lines(programs: list[Program], word: str) -> list[int]:
    """Return the numbers that the programs' journals hold behind a word."""
    return sorted(line[1] for program in programs for line in program.journal if line[0] == word)


@pytest.mark.parametrize(
    "fail", [killed, *(pytest.param(how, marks=pytest.mark.slow) for how in (stopped, unreachable))]
)
async def test_nothing_runs_twice_whose_process_lived_through_an_outage(  # noqa: PLR0917 - fixtures go by name
    fail: Callable[[RedisServer, FlakyProxy], Callable[[], None]],
    start_server: StartServer,
    proxy_to: ProxyTo,
    programs: Programs,
    make_config: MakeConfig,
    make_redis_queue: MakeQueue,
    look_at: LookAt,
) -> None:
    """5 s without a server, lease 2, handlers in flight in two processes: each event is started and ended once."""
    server = start_server(appendonly="yes", appendfsync="always")
    proxy = proxy_to(server)
    queue = make_redis_queue(server.url, lease=LEASE)
    config = make_config(proxy.url, lease=LEASE)
    workers = [programs("work", config=config, seconds=HANDLER, concurrency=EVENTS // 2) for _ in range(2)]
    await queue.enqueue_many(events(EVENTS))
    await wait_until(lambda: len(lines(workers, "start")) == EVENTS, what=lambda: [each.describe() for each in workers])

    mend = await asyncio.to_thread(fail, server, proxy)
    await asyncio.sleep(OUTAGE)
    await asyncio.to_thread(mend)

    await wait_until(lambda: len(lines(workers, "end")) >= EVENTS, what=lambda: [each.describe() for each in workers])
    await wait_until(look_at(server).empty, timeout=5, what=lambda: [each.describe() for each in workers])
    assert lines(workers, "start") == list(range(EVENTS))
    assert lines(workers, "end") == list(range(EVENTS))
    assert await queue.dead_letters() == []
    await queue.enqueue(event(99))
    await wait_until(lambda: 99 in lines(workers, "start"), what=lambda: [each.describe() for each in workers])


async def test_dequeue_waits_through_an_outage_and_says_so_once(
    start_server: StartServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """While nobody answers `dequeue` returns None in time instead of raising; afterwards events come as before."""
    server = start_server(appendonly="yes", appendfsync="always")
    queue = make_redis_queue(server.url)
    await queue.enqueue(event(0))
    assert await queue.dequeue(1) == event(0)
    server.kill()
    caplog.clear()

    for _ in range(3):
        begun = time.monotonic()
        assert await queue.dequeue(0.5) is None
        assert 0.4 <= time.monotonic() - begun <= 1.5

    warnings = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert len(warnings) == 1, [record.getMessage() for record in warnings]
    server.restart()
    await queue.enqueue(event(1))
    assert await queue.dequeue(5) == event(1)


async def test_a_client_kill_is_hardly_noticed(start_server: StartServer, make_redis_queue: MakeQueue) -> None:
    """CLIENT KILL of all connections while a worker runs: every event is handled exactly once."""
    server = start_server()
    producer, queue = make_redis_queue(server.url), make_redis_queue(server.url)
    handled: list[int] = []

    async def handle(payload: dict[str, Any]) -> None:
        handled.append(payload["n"])
        await asyncio.sleep(0)

    async with working(queue, handle, concurrency=4):
        for round_ in range(10):
            await producer.enqueue_many(events(50, start=50 * round_))
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wait_until(lambda: len(handled) >= 500, what=lambda: f"handled {len(handled)} events")

    assert sorted(handled) == list(range(500))
