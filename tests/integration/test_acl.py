"""The user of config/redis/: what it may do is what a queue does, and all of that in one namespace only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from streams_queue import RedisEventQueue
from streams_queue.errors import BackendRejected, StreamsQueueError
from tests.conftest import MakeQueue, StartServer
from tests.support.builders import Keys, event, events, queue_config
from tests.support.logins import PASSWORD, shipped_rule
from tests.support.servers import RedisServer, chosen_flavour
from tests.support.taking import receive_exactly, take
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

US, THEM = "ours", "theirs"
NEWEST = not chosen_flavour().startswith("redis-6")
RULE = shipped_rule(US, newest=NEWEST)
GRANTED = sorted(word.removeprefix("+") for word in RULE if word.startswith("+"))
# Redis 6.2 counts a command with all its subcommands.
COUNTED = GRANTED if NEWEST else sorted({name.partition("|")[0] for name in GRANTED})


@pytest.fixture
def server(start_server: StartServer) -> RedisServer:
    """A server with an append-only file and our user."""
    server = start_server(appendonly="yes", acllog_max_len=1000)
    server.command("ACL", "SETUSER", US, *RULE)
    return server


def make(server: RedisServer, **queue: Any) -> RedisEventQueue:
    """Make a queue that logs in as our user."""
    url = f"redis://{US}:{PASSWORD}@127.0.0.1:{server.port}/0"
    return RedisEventQueue(queue_config(**{"redis_url": url, "namespace": US, "lease": 0.5, **queue}))


def admin(server: RedisServer) -> redis.Redis:
    """Return a client that may do everything."""
    return redis.Redis(port=server.port, socket_timeout=10)


def leave_a_dead_consumer(server: RedisServer, name: str) -> None:
    """Leave behind what a killed process does: a consumer with an entry, not heard of for a minute."""
    keys = Keys(US, name)
    with admin(server) as client:
        entry_id: Any = client.xadd(keys.stream, {"id": "left", "payload": '{"n":1}', "meta": '{"v":1}'})
        client.xgroup_create(keys.stream, keys.group, "0")
        client.xreadgroup(keys.group, "gone", {keys.stream: ">"})
        client.xclaim(keys.stream, keys.group, "gone", 0, [entry_id], idle=60_000, justid=True)


async def live(server: RedisServer) -> None:
    """Do everything that a queue can do."""
    async with make(server, durability="fsynced" if NEWEST else "accepted") as queue:
        assert await queue.enqueue(event(0), event_id="once")
        assert await queue.enqueue(event(0), event_id="once")
        assert await queue.cede(["once", "elsewhere"]) == [False, True]
        await queue.take_back(["elsewhere"])
        await take(queue, 1)
    async with make(server, name="looked-at", durability="replicated", min_replicas=0, max_size=4) as queue:
        await settle_in_every_way(queue)
        await operate(queue)
    async with make(
        server, name="small", max_size=1, overflow="drop_oldest", dead_letter={"max_size": 1, "when_full": "drop"}
    ) as queue:
        await queue.enqueue_many(events(3))
    async with make(server, name="patient", max_size=1, overflow="block", timeout=0.05) as queue:
        assert [await queue.enqueue(each) for each in events(2)] == [True, False]
    async with make(server, name="left") as queue:
        await take(queue, 1)
        await look_beside_a_read(queue)


async def look_beside_a_read(queue: RedisEventQueue) -> None:
    """Look for events while a read waits for some, and leave it to the end of the queue."""
    waiting = asyncio.create_task(queue.receive(timeout=30))
    await wait_until(lambda: queue._session.reader.is_reading)
    assert await queue.receive(timeout=0) == []
    await queue.cleanup()
    assert await waiting == []


async def settle_in_every_way(queue: RedisEventQueue) -> None:
    """Ack, nack, release, extend and dead-letter."""
    await queue.enqueue_many(events(4))
    first, second, third, fourth = await receive_exactly(queue, 4)
    await queue.extend(first)
    await queue.ack(first)
    await queue.nack(second, delay=0.01)
    await queue.release(third)
    await queue.dead_letter(fourth, "rejected")
    await take(queue, 2)


async def operate(queue: RedisEventQueue) -> None:
    """Look, pause, purge and redrive."""
    assert await queue.receive(timeout=0) == []
    await queue.enqueue(event(5), delay=60)
    await queue.enqueue(event(6))
    assert len(await queue.peek()) == 2
    assert [consumer.in_flight for consumer in (await queue.in_flight()).consumers] == [0]
    await queue.pause()
    await queue.resume()
    await queue.purge()
    letters = await queue.dead_letters()
    await queue.redrive(letters[0].dead_id)
    await queue.redrive(count=1)
    await queue.purge_dead(letters[-1].dead_id)
    await queue.purge_dead()
    assert (await queue.check_health())["status"] == "healthy"


def used(server: RedisServer) -> set[str]:
    """Return the commands that were carried out since `CONFIG RESETSTAT`, those inside of scripts included."""
    with admin(server) as client:
        return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


def denied(server: RedisServer) -> set[str]:
    """Return what was denied: commands and keys. Before 7.2 that redis-py tells its name is denied, and no matter."""
    with admin(server) as client:
        found = {entry["object"] for entry in client.acl_log()}
    return found - ({"client"} if not NEWEST else set())


async def test_no_permission_is_superfluous_and_none_is_missing(server: RedisServer) -> None:
    """Everything that the rule grants is used, nothing is denied, and nothing else is used."""
    await asyncio.to_thread(leave_a_dead_consumer, server, "left")
    server.command("CONFIG", "RESETSTAT")
    await live(server)
    carried_out = used(server) - {"config|resetstat", "config", "info", "auth", "hello"}
    assert denied(server) == set()
    assert (sorted(carried_out - set(COUNTED)), sorted(set(COUNTED) - carried_out)) == ([], [])


@pytest.mark.skipif(os.environ.get("STREAMS_QUEUE_TEST_USER") != "acl", reason="this run logs in as the default user")
async def test_this_run_logs_in_as_the_namespaces_user(
    make_redis_queue: MakeQueue, raw: redis.asyncio.Redis, namespace: str
) -> None:
    """Else `make test-acl` would show nothing."""
    queue = make_redis_queue()
    await queue.enqueue(event(0))
    await take(queue, 1)
    users = [client["user"] for client in await raw.client_list()]
    assert users.count(namespace) >= 3


# --- what it may not do ---

FOREIGN = f"{THEM}:{{events}}"
# One call of each command on a key; what has none is left out, and so are scripts, which have tests of their own.
ON_A_KEY: dict[str, tuple[str, ...]] = {
    "type": ("TYPE", FOREIGN),
    "exists": ("EXISTS", FOREIGN),
    "del": ("DEL", FOREIGN),
    "get": ("GET", FOREIGN),
    "set": ("SET", FOREIGN, "v"),
    "pexpire": ("PEXPIRE", FOREIGN, "1"),
    "hget": ("HGET", FOREIGN, "f"),
    "hmget": ("HMGET", FOREIGN, "f"),
    "hgetall": ("HGETALL", FOREIGN),
    "hexists": ("HEXISTS", FOREIGN, "f"),
    "hset": ("HSET", FOREIGN, "f", "v"),
    "hsetnx": ("HSETNX", FOREIGN, "f", "v"),
    "hdel": ("HDEL", FOREIGN, "f"),
    "hincrby": ("HINCRBY", FOREIGN, "f", "1"),
    "sadd": ("SADD", FOREIGN, "m"),
    "sismember": ("SISMEMBER", FOREIGN, "m"),
    "srem": ("SREM", FOREIGN, "m"),
    "xadd": ("XADD", FOREIGN, "*", "f", "v"),
    "xreadgroup": ("XREADGROUP", "GROUP", "processors", "me", "STREAMS", FOREIGN, ">"),
    "xrange": ("XRANGE", FOREIGN, "-", "+"),
    "xlen": ("XLEN", FOREIGN),
    "xpending": ("XPENDING", FOREIGN, "processors"),
    "xclaim": ("XCLAIM", FOREIGN, "processors", "me", "0", "1-1"),
    "xack": ("XACK", FOREIGN, "processors", "1-1"),
    "xdel": ("XDEL", FOREIGN, "1-1"),
    "xtrim": ("XTRIM", FOREIGN, "MAXLEN", "0"),
    "xgroup|create": ("XGROUP", "CREATE", FOREIGN, "g", "0", "MKSTREAM"),
    "xgroup|delconsumer": ("XGROUP", "DELCONSUMER", FOREIGN, "processors", "me"),
    "xinfo|groups": ("XINFO", "GROUPS", FOREIGN),
    "xinfo|consumers": ("XINFO", "CONSUMERS", FOREIGN, "processors"),
    "zadd": ("ZADD", FOREIGN, "1", "m"),
    "zcard": ("ZCARD", FOREIGN),
    "zrange": ("ZRANGE", FOREIGN, "0", "-1"),
    "zrangebyscore": ("ZRANGEBYSCORE", FOREIGN, "0", "1"),
    "zrem": ("ZREM", FOREIGN, "m"),
}
WITHOUT_KEY = {"ping", "client|id", "client|unblock", "client|setinfo", "role", "wait", "waitaof", "time"}
FORBIDDEN = """
    FLUSHALL | FLUSHDB | KEYS * | SCAN 0 | RANDOMKEY | DBSIZE | SELECT 1 | SWAPDB 0 1 | CONFIG GET * | CONFIG RESETSTAT
    SCRIPT FLUSH | SCRIPT KILL | SCRIPT LOAD x | ACL LIST | ACL WHOAMI | ACL SETUSER ours +@all | ACL LOG | INFO
    CLIENT LIST | CLIENT KILL TYPE normal | CLIENT PAUSE 1 | SHUTDOWN NOSAVE | SAVE | BGSAVE | BGREWRITEAOF | MONITOR
    REPLICAOF NO ONE | SLOWLOG GET | LATENCY RESET | MEMORY STATS | MODULE LIST | COMMAND | LASTSAVE | PUBLISH c m
    SUBSCRIBE c | PSUBSCRIBE * | XREAD STREAMS ours:{events} 0 | XGROUP DESTROY ours:{events} processors
    XGROUP SETID ours:{events} processors $ | XSETID ours:{events} 9-9 | RENAME ours:{events} ours:{x}
    DUMP ours:{events} | RESTORE ours:{x} 0 x | MIGRATE h 1 ours:{events} 0 1 | COPY ours:{events} ours:{x}
    OBJECT ENCODING ours:{events} | UNLINK ours:{events} | EXPIRE ours:{events} 1 | PERSIST ours:{events}
    APPEND ours:{x} v | LPUSH ours:{x} v | SORT ours:{x}
"""
DENIED = "(?i)no permission|NOPERM|user executing the script can't|ACL failure"


@pytest.fixture
def ours(server: RedisServer) -> Iterator[redis.Redis]:
    """A bare client that logs in as our user, on a server that holds a queue of theirs."""
    with admin(server) as client:
        client.xadd(FOREIGN, {"id": "1", "payload": "secret"}, id="1-1")
        client.xgroup_create(FOREIGN, "processors", "0")
    with redis.Redis(port=server.port, username=US, password=PASSWORD, protocol=2, socket_timeout=10) as client:
        yield client


def test_every_permission_ends_at_the_namespace(ours: redis.Redis, server: RedisServer) -> None:
    """No command that the rule grants works on a key of another namespace, nor of no namespace."""
    assert {*ON_A_KEY, *WITHOUT_KEY, "eval", "evalsha"} >= set(GRANTED)
    before = server.command("DUMP", FOREIGN)
    for words in ON_A_KEY.values():
        for key in (FOREIGN, "events", f"{US}x:{{events}}", f"{US}:events", f"x{US}:{{events}}"):
            with pytest.raises(redis.ResponseError, match=DENIED):
                ours.execute_command(*(key if word == FOREIGN else word for word in words))
    assert server.command("DUMP", FOREIGN) == before
    assert server.command("DBSIZE") == 1


def test_a_script_reaches_no_further(ours: redis.Redis, server: RedisServer) -> None:
    """Neither with a key that it is given nor with one that it makes up, nor with a command that is not granted."""
    before = server.command("DUMP", FOREIGN)
    with pytest.raises(redis.ResponseError, match=DENIED):
        ours.eval("return 1", 1, FOREIGN)
    for call in (f"'XDEL', '{FOREIGN}', '1-1'", f"'GET', '{FOREIGN}'", "'FLUSHALL'", "'KEYS', '*'"):
        with pytest.raises(redis.ResponseError, match=DENIED):
            ours.eval(f"return redis.call({call})", 0)
    assert server.command("DUMP", FOREIGN) == before


def test_nothing_else_is_granted(ours: redis.Redis, server: RedisServer) -> None:
    """Not on our own keys, and least of all what is about the server."""
    for line in re.split(r"[|\n]", FORBIDDEN.strip()):
        with pytest.raises(redis.ResponseError) as denied:
            ours.execute_command(*line.split())
        assert re.search(DENIED, str(denied.value)), f"{line}: {denied.value}"
    assert server.command("PING")


@pytest.mark.parametrize("change", ["password", "missing command", "foreign namespace"])
async def test_a_queue_that_is_refused_says_so_at_once(change: str, server: RedisServer) -> None:
    """Waiting mends none of these: dequeue raises as enqueue does, and the message holds no password."""
    if change == "missing command":
        server.command("ACL", "SETUSER", US, "-xreadgroup", "-xadd")
    queue = make(server, namespace=THEM if change == "foreign namespace" else US, timeout=60)
    if change == "password":
        server.command("ACL", "SETUSER", US, "resetpass", ">another")
    for call in (lambda: queue.enqueue(event(0)), queue.dequeue):
        with pytest.raises(BackendRejected) as refused:
            await call()
        assert (refused.value.code, refused.value.passing) == ("WRONGPASS" if change == "password" else "NOPERM", False)
        assert PASSWORD not in str(refused.value)
    await queue.cleanup()


def test_the_rule_for_newer_servers_grants_two_more() -> None:
    """One file for all servers, and one for those that know these two."""
    base, newest = (shipped_rule(US, newest=newest) for newest in (False, True))
    assert newest == [*base, "+waitaof", "+client|setinfo"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in GRANTED if name != "client|setinfo"])
async def test_without_any_one_permission_a_queue_fails(command: str, server: RedisServer) -> None:
    """Each is needed: something is refused, in words or in the server's log."""
    server.command("ACL", "SETUSER", US, f"-{command}")
    await asyncio.to_thread(leave_a_dead_consumer, server, "left")
    with contextlib.suppress(StreamsQueueError, AssertionError, TimeoutError):
        async with asyncio.timeout(3):
            await live(server)
    assert denied(server)
