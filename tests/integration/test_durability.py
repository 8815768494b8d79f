"""Durability levels: what `enqueue` waits for, and what it says when that does not come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from streams_queue import RedisEventQueue, ResilientQueue
from streams_queue.errors import BackendError, BackendRejected, NotDurable
from streams_queue.messages import ReceiptStatus
from streams_queue.observer import Observer
from tests.conftest import LookAt, MakeConfig, MakeQueue, ProxyTo, StartServer
from tests.support.builders import Keys, event, events, marker
from tests.support.proxy import request_with
from tests.support.servers import RedisServer, chosen_flavour, require_binary
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.integration

SHORT = 0.4
"""An enqueue_timeout that is going to be used up."""

HAS_WAITAOF = chosen_flavour() != "redis-6.2"
needs_waitaof = pytest.mark.skipif(not HAS_WAITAOF, reason="this server has no WAITAOF")


def is_waiting(server: RedisServer) -> bool:
    """Whether some client is blocked, which in these tests can only be in WAIT or WAITAOF."""
    return b"cmd=wait" in server.command("CLIENT", "LIST", "TYPE", "NORMAL")


async def until_waiting(server: RedisServer) -> None:
    """Return when an enqueue waits for its level."""
    await wait_until(lambda: is_waiting(server), what="nobody waits for replicas")


def entries(server: RedisServer, keys: Keys) -> int:
    """Count the entries that a server holds, as somebody who asks it sees them."""
    return int(server.command("XLEN", keys.stream))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica, which these tests share: a replica of Valkey 9.1 takes a second to join."""
    binary = require_binary(chosen_flavour())
    primary = RedisServer(binary)
    primary.start()
    replica = RedisServer(binary, replicaof=primary)
    replica.start()
    yield primary, replica
    replica.stop()
    primary.stop()


@pytest.fixture
def primary(pair: tuple[RedisServer, RedisServer]) -> Iterator[RedisServer]:
    """The primary; a test may change its configuration and users, but not stop it."""
    primary = pair[0]
    yield primary
    primary.command("CONFIG", "SET", "maxmemory", "0")
    primary.command("ACL", "DELUSER", "app")


@pytest.fixture
def replica(pair: tuple[RedisServer, RedisServer]) -> Iterator[RedisServer]:
    """The replica; a test may pause it, but not stop it."""
    primary, replica = pair
    yield replica
    replica.resume()
    wait_until_sync(lambda: primary.offset() == replica.offset(), what="the replica did not catch up")


@pytest.fixture
def make_replicated(make_redis_queue: MakeQueue, primary: RedisServer) -> Callable[..., RedisEventQueue]:
    """Make queues that wait for replicas, which no test should have to wait for longer than its own patience."""

    def make(url: str | None = None, **queue: Any) -> RedisEventQueue:
        return make_redis_queue(url or primary.url, **{"durability": "replicated", "enqueue_timeout": 30, **queue})

    return make


MakeReplicated = Callable[..., RedisEventQueue]

# --- accepted ---


async def test_by_default_nothing_is_asked_beside_the_script(
    primary: RedisServer, replica: RedisServer, make_redis_queue: MakeQueue
) -> None:
    """`accepted` costs not one command more."""
    asked = primary.command("INFO", "commandstats")
    queue = make_redis_queue(primary.url)
    await queue.enqueue_many(events(700))

    counted = primary.command("INFO", "commandstats")
    extra = ("cmdstat_wait", "cmdstat_waitaof", "cmdstat_role", "cmdstat_pexpire")
    assert [counted.get(name) for name in extra] == [asked.get(name) for name in extra]


# --- replicated ---


async def test_enqueue_returns_when_the_replica_has_the_event(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, keys: Keys
) -> None:
    """While the replica stands still the primary has the event and the caller waits; then both have it."""
    queue = make_replicated()
    assert await queue.enqueue(event(0))
    assert entries(replica, keys) == 1
    replica.pause()

    enqueueing = asyncio.create_task(queue.enqueue(event(1)))
    await until_waiting(primary)
    assert entries(primary, keys) == 2
    assert not enqueueing.done()
    replica.resume()

    assert await enqueueing
    assert entries(replica, keys) == 2


@pytest.mark.parametrize("option", [{"delay": 60.0}, {"event_id": "one"}])
async def test_delayed_and_named_events_are_on_the_replica_as_well(
    option: dict[str, Any], replica: RedisServer, make_replicated: MakeReplicated, keys: Keys
) -> None:
    """Whatever the script writes is replicated when `enqueue` returns."""
    queue = make_replicated(max_size=1, overflow="drop_oldest")
    assert await queue.enqueue(event(0))
    assert await queue.enqueue(event(1), **option)

    held = entries(replica, keys) + replica.command("ZCARD", keys.delayed)

    assert held == 1
    assert replica.command("XLEN", keys.dead) == 1


async def test_an_event_that_no_replica_has_in_time_is_reported_with_its_receipt(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, look_at: LookAt
) -> None:
    """The event is in the queue and the caller learns where, and that a second call with its id waits once more."""
    queue = make_replicated(enqueue_timeout=SHORT)
    replica.pause()

    with pytest.raises(NotDurable, match="0 of 1 replicas have it") as raised:
        await queue.enqueue(event(1), event_id="one")

    assert raised.value.receipt.status is ReceiptStatus.ACCEPTED
    assert [raised.value.receipt.entry_id] == await look_at(primary).entry_ids()
    assert queue.get_queue_size() == 1
    replica.resume()
    assert await queue.enqueue(event(1), event_id="one")
    assert await look_at(replica).numbers() == [1]


async def test_without_any_replica_min_replicas_decides(redis_url: str, make_replicated: MakeReplicated) -> None:
    """By default one replica has to have it; with 0 the ones that are connected, if there are any."""
    with pytest.raises(NotDurable, match=r"0 of 1 replicas have it \(0 connected\)"):
        await make_replicated(redis_url, enqueue_timeout=SHORT).enqueue(event(1))

    assert await make_replicated(redis_url, min_replicas=0).enqueue(event(2))


async def test_all_connected_replicas_have_to_have_it(
    primary: RedisServer, replica: RedisServer, start_server: StartServer, make_replicated: MakeReplicated
) -> None:
    """One of two stands still: not durable, as it may be the one that is promoted. Gone, it does not count."""
    queue = make_replicated(enqueue_timeout=SHORT)
    assert await queue.enqueue(event(0))
    other = start_server(replicaof=primary)
    other.pause()
    with pytest.raises(NotDurable, match="1 of 2 replicas"):
        await queue.enqueue(event(1))

    other.kill()

    await wait_until(lambda: primary.replica_ports() == [replica.port])
    assert await queue.enqueue(event(2))


async def test_a_replica_that_leaves_during_the_wait_is_not_waited_for(
    primary: RedisServer, replica: RedisServer, start_server: StartServer, make_replicated: MakeReplicated
) -> None:
    """The wait is for those that are connected now, not for those that were when it began."""
    other = start_server(replicaof=primary)
    queue = make_replicated()
    other.pause()
    enqueueing = asyncio.create_task(queue.enqueue(event(1)))
    await until_waiting(primary)

    other.kill()

    assert await enqueueing


async def test_a_replica_that_still_loads_its_copy_does_not_count(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """It cannot have the event, the server lists it as online all the same, and loading may take minutes."""
    primary = start_server(repl_diskless_sync="no")
    start_server(replicaof=primary)
    primary.command("MSET", *(word for number in range(50) for word in (f"key-{number}", "x")))
    loading = start_server(key_load_delay=1_000_000)
    loading.command("REPLICAOF", "127.0.0.1", primary.port)
    await wait_until(lambda: loading.port in primary.replica_ports(), what="the replica is not listed")

    queue = make_redis_queue(primary.url, durability="replicated")

    assert await queue.enqueue(event(1))
    assert loading.port in primary.replica_ports()
    loading.kill()


async def test_a_duplicate_waits_for_the_event_whose_duplicate_it_is(
    primary: RedisServer, replica: RedisServer, make_redis_queue: MakeQueue, make_replicated: MakeReplicated
) -> None:
    """The first event came by another connection and no replica has it yet: True would promise too much."""
    await make_replicated().enqueue(event(0))
    replica.pause()
    assert await make_redis_queue(primary.url).enqueue(event(1), event_id="one")

    with pytest.raises(NotDurable) as raised:
        await make_replicated(enqueue_timeout=SHORT).enqueue(event(1), event_id="one")

    assert raised.value.receipt.status is ReceiptStatus.DUPLICATE


async def test_a_duplicate_waits_also_when_the_server_has_no_memory_left(
    primary: RedisServer, replica: RedisServer, make_redis_queue: MakeQueue, make_replicated: MakeReplicated
) -> None:
    """The reply cannot be kept then, and something has to be written for WAIT to have a meaning."""
    queue = make_replicated(enqueue_timeout=SHORT)
    assert await queue.enqueue(event(0))
    replica.pause()
    assert await make_redis_queue(primary.url).enqueue(event(1), event_id="one")
    primary.command("CONFIG", "SET", "maxmemory", "100kb")

    with pytest.raises(NotDurable) as raised:
        await queue.enqueue(event(1), event_id="one")

    assert raised.value.receipt.status is ReceiptStatus.DUPLICATE


async def test_who_is_refused_does_not_wait(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated
) -> None:
    """Full and paused are answers about nothing that a replica could have."""
    queue = make_replicated(max_size=1)
    assert await queue.enqueue(event(0))
    replica.pause()

    async with asyncio.timeout(10):
        assert await queue.enqueue(event(1)) is False
        await queue.pause(delivery=False)
        assert await queue.enqueue(event(2)) is False


async def test_who_is_refused_does_not_wait_for_others_of_the_batch(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated
) -> None:
    """Two callers share a batch and there is room for one: the other is told so while the first still waits."""
    queue = make_replicated(max_size=2)
    assert await queue.enqueue(event(0))
    replica.pause()

    first, second = (asyncio.create_task(queue.enqueue(event(number))) for number in (1, 2))

    assert await second is False
    assert not first.done()
    replica.resume()
    assert await first


async def test_callers_of_one_batch_get_their_own_receipts(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, look_at: LookAt
) -> None:
    """Twenty calls in one batch that misses its level: each error has the one receipt that is its caller's."""
    queue = make_replicated(enqueue_timeout=SHORT)
    await queue.enqueue(event(0), event_id="warm")
    replica.pause()

    calls = [queue.enqueue(event(number), event_id=f"id-{number}") for number in range(20)]
    errors = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(error) for error in errors] == [NotDurable] * 20
    receipts = [receipt for error in errors if isinstance(error, NotDurable) for receipt in error.receipts]
    assert [receipt.event_id for receipt in receipts] == [f"id-{number}" for number in range(20)]
    assert [receipt.entry_id for receipt in receipts] == (await look_at(primary).entry_ids())[1:]


class Counter(Observer):
    """Counts what the server has accepted."""

    def __init__(self) -> None:
        self.total = 0

    def accepted(self, count: int) -> None:
        self.total += count


class PauseAfterFirst(Observer):
    """Stops a server as soon as a queue has accepted its first batch."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._paused = False

    def accepted(self, count: int) -> None:
        if not self._paused:
            self._paused = True
            self._server.pause()


async def test_of_a_long_call_the_error_says_how_far_it_got(
    primary: RedisServer, replica: RedisServer, make_redis_queue: MakeQueue, keys: Keys
) -> None:
    """Of three batches the first reached its level and the second did not; the third was not sent."""
    queue = make_redis_queue(
        primary.url, durability="replicated", enqueue_timeout=SHORT, observers=(PauseAfterFirst(replica),)
    )

    with pytest.raises(NotDurable) as raised:
        await queue.enqueue_many(events(1200))

    assert (len(raised.value.receipts), raised.value.durable) == (1000, 500)
    assert all(receipt.held for receipt in raised.value.receipts)
    assert entries(primary, keys) == queue.get_queue_size() == 1000


# --- lost connections ---


async def test_a_batch_whose_reply_was_lost_is_waited_for_all_the_same(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, proxy_to: ProxyTo, look_at: LookAt
) -> None:
    """Sent again on a new connection it is only replayed: without a write there WAIT would answer at once."""
    proxy = proxy_to(primary)
    queue = make_replicated(proxy.url)
    assert await queue.enqueue(event(0))
    replica.pause()
    trap = proxy.swallow_reply(request_with(marker(1)))

    enqueueing = asyncio.create_task(queue.enqueue(event(1)))
    await wait_until(trap.hit.is_set)
    await until_waiting(primary)
    # Longer than one piece of the wait: the count of the replay is in by then.
    waits = partial(primary.command, "INFO", "commandstats")
    before = waits()["cmdstat_wait"]["calls"]
    await wait_until(lambda: waits()["cmdstat_wait"]["calls"] >= before + 2)
    assert not enqueueing.done()
    replica.resume()

    assert await enqueueing
    assert await look_at(replica).numbers() == [0, 1]


async def test_a_connection_that_breaks_during_the_wait_does_not_end_it(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, proxy_to: ProxyTo, look_at: LookAt
) -> None:
    """The batch is replayed and the wait begins anew; the event is there once."""
    proxy = proxy_to(primary)
    queue = make_replicated(proxy.url)
    assert await queue.enqueue(event(0))
    replica.pause()
    enqueueing = asyncio.create_task(queue.enqueue(event(1)))
    await until_waiting(primary)

    proxy.cut()

    await wait_until(lambda: not is_waiting(primary))
    await until_waiting(primary)
    assert not enqueueing.done()
    replica.resume()
    assert await enqueueing
    assert await look_at(replica).numbers() == [0, 1]


async def test_a_server_that_is_gone_after_its_answer_leaves_the_caller_with_the_receipt(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """It said that it had the event: more is known than that the outcome is unknown."""
    primary = start_server()
    replica = start_server(replicaof=primary)
    counter = Counter()
    queue = make_redis_queue(primary.url, durability="replicated", enqueue_timeout=SHORT, observers=(counter,))
    assert await queue.enqueue(event(0))
    replica.pause()
    enqueueing = asyncio.create_task(queue.enqueue(event(1), event_id="one"))
    await until_waiting(primary)

    primary.kill()

    with pytest.raises(NotDurable) as raised:
        await enqueueing
    assert raised.value.receipt.event_id == "one"
    await wait_until(lambda: counter.total == 2)


async def test_a_batch_of_unknown_fate_is_resolved_when_it_has_reached_its_level(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, proxy_to: ProxyTo, look_at: LookAt
) -> None:
    """Handed over with its fate unknown, sent again later: it is done when the replica has it, and there once."""
    proxy = proxy_to(primary)
    queue = make_replicated(proxy.url, enqueue_timeout=SHORT)
    queue.keep_unresolved = True
    assert await queue.enqueue(event(0))
    replica.pause()
    proxy.black_hole("replies")
    with pytest.raises(Exception, match="outcome is unknown") as raised:
        await queue.enqueue(event(1))
    proxy.restore()
    proxy.cut()
    assert await queue.get_queue_depth() == 2
    batch = raised.value.unresolved  # type: ignore[attr-defined]

    with pytest.raises(NotDurable) as short:
        await queue.resolve(batch)
    assert short.value.receipt.held
    replica.resume()

    assert [receipt.held for receipt in await queue.resolve(batch)] == [True]
    assert await look_at(replica).numbers() == [0, 1]


# --- fsynced ---


@needs_waitaof
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_fsynced_returns_when_the_file_is_on_the_disk(
    appendfsync: str, start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """The server says so itself, at once or within a second."""
    server = start_server(appendonly="yes", appendfsync=appendfsync)
    queue = make_redis_queue(server.url, durability="fsynced", enqueue_timeout=30)

    assert await queue.enqueue(event(1))

    assert server.command("INFO", "commandstats")["cmdstat_waitaof"]["calls"] >= 2


@needs_waitaof
async def test_a_file_that_is_never_synced_is_not_durable(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """`appendfsync no` leaves it to the operating system, so that the server cannot know."""
    server = start_server(appendonly="yes", appendfsync="no")

    with pytest.raises(NotDurable, match="the server has not written it to disk") as raised:
        await make_redis_queue(server.url, durability="fsynced", enqueue_timeout=SHORT).enqueue(event(1))

    assert raised.value.receipt.held


@needs_waitaof
@pytest.mark.parametrize(("appendonly", "is_durable"), [("yes", True), ("no", False)])
async def test_replicas_have_to_sync_as_well_where_min_replicas_says_so(
    appendonly: str, is_durable: bool, start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """A replica without an append-only file never has it on its disk."""
    primary = start_server(appendonly="yes", appendfsync="always")
    start_server(replicaof=primary, appendonly=appendonly, appendfsync="always")
    assert await make_redis_queue(primary.url, durability="fsynced", enqueue_timeout=30).enqueue(event(0))
    queue = make_redis_queue(
        primary.url, durability="fsynced", min_replicas=1, enqueue_timeout=30 if is_durable else SHORT
    )

    if is_durable:
        assert await queue.enqueue(event(1))
    else:
        with pytest.raises(NotDurable, match="only 0 of 1 replicas have written it to disk"):
            await queue.enqueue(event(1))


async def test_a_server_that_cannot_do_it_is_refused_before_anything_is_written(
    primary: RedisServer, make_redis_queue: MakeQueue, keys: Keys
) -> None:
    """No WAITAOF, or no append-only file: the error names the setting and the server's reason."""
    queue = make_redis_queue(primary.url, durability="fsynced")

    for _ in range(2):
        with pytest.raises(
            BackendRejected, match=r"^queue\.durability: fsynced is not to be had on this server: .*WAITAOF"
        ):
            await queue.enqueue(event(1))

    assert entries(primary, keys) == 0


@needs_waitaof
async def test_a_server_is_asked_again_on_every_new_connection(
    start_server: StartServer, make_redis_queue: MakeQueue, proxy_to: ProxyTo, keys: Keys
) -> None:
    """What answers after a reconnect may be another server, or the same one with another configuration."""
    server = start_server(appendonly="yes", appendfsync="always")
    proxy = proxy_to(server)
    queue = make_redis_queue(proxy.url, durability="fsynced")
    assert await queue.enqueue(event(0))
    server.command("CONFIG", "SET", "appendonly", "no")
    proxy.cut()

    with pytest.raises(BackendError):  # what it sent on the old connection may have arrived
        await queue.enqueue(event(1))
    with pytest.raises(BackendRejected, match="fsynced is not to be had"):
        await queue.enqueue(event(2))
    assert entries(server, keys) == 1

    server.command("CONFIG", "SET", "appendonly", "yes")
    assert await queue.enqueue(event(3))


@needs_waitaof
async def test_a_server_that_stops_doing_it_leaves_the_caller_with_the_receipt(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """The append-only file is switched off under a living connection: the event is there, and not on the disk."""
    server = start_server(appendonly="yes", appendfsync="always")
    queue = make_redis_queue(server.url, durability="fsynced")
    assert await queue.enqueue(event(0))
    server.command("CONFIG", "SET", "appendonly", "no")

    with pytest.raises(NotDurable, match="appendonly is disabled") as raised:
        await queue.enqueue(event(1))

    assert raised.value.receipt.held


async def test_a_replica_is_not_taken_for_a_server_that_cannot_do_it(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated
) -> None:
    """It refuses WAIT, as it refuses writes: for now, until a primary is found."""
    assert await make_replicated().enqueue(event(0))

    with pytest.raises(BackendRejected) as refused:
        await make_replicated(replica.url, enqueue_timeout=SHORT).enqueue(event(1))

    assert (refused.value.code, refused.value.passing) == ("READONLY", True)


# --- permissions ---


def user_without(server: RedisServer, *commands: str) -> str:
    """Make a user who may do everything else; return the URL with which it connects."""
    server.command("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", *(f"-{name}" for name in commands))
    return server.url.replace("redis://", "redis://app:word@")


async def test_a_user_who_may_not_wait_is_refused_before_anything_is_written(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, keys: Keys
) -> None:
    """The error names the setting and the command."""
    queue = make_replicated(user_without(primary, "wait"))

    with pytest.raises(BackendRejected, match=r"queue\.durability: replicated .* 'wait' command") as refused:
        await queue.enqueue(event(1))

    assert refused.value.code == "NOPERM"
    assert entries(primary, keys) == 0


async def test_a_user_who_may_not_see_the_replicas_waits_for_min_replicas(
    primary: RedisServer, replica: RedisServer, make_replicated: MakeReplicated, caplog: pytest.LogCaptureFixture
) -> None:
    """How many are connected stays unknown, which is said once."""
    queue = make_replicated(user_without(primary, "role"), enqueue_timeout=SHORT)
    with caplog.at_level(logging.WARNING):
        assert await queue.enqueue(event(0))
        replica.pause()
        with pytest.raises(NotDurable, match="0 of 1 replicas"):
            await queue.enqueue(event(1))

    said = [record.getMessage() for record in caplog.records if "how many replicas" in record.getMessage()]
    assert len(said) == 1
    assert "'role'" in said[0]


# --- the local fallback ---


async def test_what_is_not_durable_is_never_held_locally(
    primary: RedisServer, replica: RedisServer, make_config: MakeConfig, keys: Keys
) -> None:
    """The server has the event: held here as well, it would be there twice."""
    async with ResilientQueue(make_config(primary.url, durability="replicated", enqueue_timeout=SHORT)) as queue:
        assert await queue.enqueue(event(0))
        replica.pause()

        with pytest.raises(NotDurable) as raised:
            await queue.enqueue(event(1))

        assert raised.value.receipt.held
        assert queue.using_redis
        assert await queue.async_queue.get_queue_depth() == 0
        assert entries(primary, keys) == 2
