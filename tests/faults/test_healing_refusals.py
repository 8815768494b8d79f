"""A server that answers with a refusal that passes: everything goes on by itself afterwards, and it is told once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from streams_queue import RedisEventQueue
from streams_queue.redis_client import passes
from tests.conftest import MakeQueue, StartServer
from tests.support.builders import event
from tests.support.servers import RedisServer, chosen_flavour, free_port
from tests.support.traffic import Traffic
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.faults

Undo = Callable[[], Any]
Fail = Callable[[RedisServer], Undo]
SESSIONS = 3
# The first attempts follow each other closely; then a session's event loop and its keeper each try four times a second.
FIRST_ATTEMPTS, ATTEMPTS_PER_SECOND = 12, 10
# A server that keeps everything, and takes its time to read it again: 50 µs a command.
SERVER = {"appendonly": "yes", "appendfsync": "always", "key_load_delay": 50, "dbfilename": "snapshot"}
FILL = "for i = 1, 20000 do redis.call('SET', 'filler' .. i, i) end"


def demoted(server: RedisServer) -> Undo:
    """Make a replica of it whose primary is gone, as a failover does."""
    server.command("REPLICAOF", "127.0.0.1", free_port())
    return lambda: server.command("REPLICAOF", "NO", "ONE")


def demoted_and_stale(server: RedisServer) -> Undo:
    """The same with `replica-serve-stale-data no`: it does not even let read."""
    server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
    return demoted(server)


def without_replicas(server: RedisServer) -> Undo:
    """Let it insist on a replica that is not there."""
    server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    return lambda: server.command("CONFIG", "SET", "min-replicas-to-write", "0")


def unable_to_save(server: RedisServer) -> Undo:
    """Let it have failed to write a snapshot, as with a full disk."""
    server.command("CONFIG", "SET", "save", "3600 1")
    (server.directory / SERVER["dbfilename"]).mkdir()
    server.command("BGSAVE")
    wait_until_sync(lambda: server.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
    return lambda: server.command("CONFIG", "SET", "save", "")


def loading(server: RedisServer) -> Undo:
    """Crash it, and let it take its time to read its data."""
    server.command("EVAL", FILL, 0)
    server.kill()
    starting = threading.Thread(target=server.restart, name="asyncio_restart")
    starting.start()
    return starting.join


def busy(server: RedisServer) -> Undo:
    """Let it run somebody's endless script."""
    server.command("CONFIG", "SET", "lua-time-limit", "50")

    def run() -> None:
        with pytest.raises(redis.exceptions.ResponseError):
            server.command("EVAL", "while true do end", 0)

    running = threading.Thread(target=run, name="asyncio_busy")
    running.start()

    def kill() -> None:
        server.command("SCRIPT", "KILL")
        running.join()

    return kill


def crowded(server: RedisServer) -> Undo:
    """Let others have taken all connections that it allows."""
    admin = redis.Redis(port=server.port, single_connection_client=True)
    admin.config_set("maxclients", 1)
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def mend() -> None:
        admin.config_set("maxclients", 1000)
        admin.close()

    return mend


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        (demoted, "READONLY"),
        (demoted_and_stale, "MASTERDOWN"),
        (without_replicas, "NOREPLICAS"),
        (busy, "BUSY"),
        pytest.param(loading, "LOADING", marks=pytest.mark.slow),
        (unable_to_save, "MISCONF"),
        (crowded, ""),  # what it says may go down with the connection
    ],
)
async def test_traffic_goes_on_after_a_refusal(
    fail: Fail, code: str, start_server: StartServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Enqueue, worker and dequeue recover, each event runs once; the log has a line per session, health says why."""
    if (code, chosen_flavour()) == ("NOREPLICAS", "redis-6.2"):
        pytest.skip("before Redis 7 scripts are not refused for lack of replicas")
    server = start_server(**SERVER)
    traffic = Traffic(lambda: make_redis_queue(server.url, lease=4.0, enqueue_timeout=1.0))
    async with traffic.flowing():
        caplog.clear()
        before, begun = connections(server), time.monotonic()
        mend = await asyncio.to_thread(fail, server)
        await wait_until(lambda: everybody_says(traffic, code), what=lambda: traffic.answers)
        await wait_until(lambda: any(code in str(error) for error in traffic.refusals))
        await wait_until(lambda: len(told(caplog)) == SESSIONS, what=lambda: told(caplog))
        await asyncio.to_thread(mend)
        took, attempts = time.monotonic() - begun, connections(server) - before
        await traffic.goes_on()

        assert all(passes(error) for error in traffic.refusals), traffic.refusals
        assert attempts <= SESSIONS * (FIRST_ATTEMPTS + ATTEMPTS_PER_SECOND * took)
        await traffic.ends_with_each_event_run_once()
    assert len(told(caplog)) == SESSIONS, told(caplog)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the queues had to say that somebody should read."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_health_tells_of_a_read_that_finds_no_connection(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """At the limit of clients the old connections still work: degraded, until the read has one as well."""
    server = start_server()
    queue, producer = (make_redis_queue(server.url) for _ in range(2))
    await producer.enqueue(event(0))
    assert await queue.dequeue(5) == event(0)
    taking = asyncio.create_task(queue.dequeue(30))
    with contextlib.closing(redis.Redis(port=server.port, single_connection_client=True)) as admin:
        (read,) = await wait_until(lambda: [each for each in admin.client_list() if "b" in each["flags"]])
        admin.config_set("maxclients", len(admin.client_list()) - 1)
        admin.client_kill_filter(_id=read["id"])

        await wait_until(lambda: is_degraded(queue))
        admin.config_set("maxclients", 1000)

    await producer.enqueue(event(1))
    assert await taking == event(1)


async def is_degraded(queue: RedisEventQueue) -> bool:
    """Tell whether the queue works, and says what is the matter."""
    health = await queue.check_health()
    return bool(health["status"] == "degraded" and health["error"] and health["redis_connected"])


async def everybody_says(traffic: Traffic, code: str) -> bool:
    """Tell whether the health of every session names the refusal."""
    return all(code in answer.get("error", "") and answer["status"] == "unhealthy" for answer in await traffic.health())


def connections(server: RedisServer) -> int:
    """Count the connections that the server has accepted or turned away."""
    stats = server.command("INFO", "stats")
    return int(stats["total_connections_received"] + stats["rejected_connections"])
