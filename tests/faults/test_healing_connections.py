"""Connections that go dead, slow or to another server, a group that goes missing: everything goes on by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from streams_queue.errors import BackendTimeout, BackendUnavailable
from tests.conftest import LookAt, MakeQueue, ProxyTo, StartServer
from tests.support.builders import event, events
from tests.support.proxy import FlakyProxy
from tests.support.recording import Recorder
from tests.support.servers import DEFAULT_FLAVOUR, RedisServer, chosen_flavour
from tests.support.taking import receive_exactly
from tests.support.traffic import Traffic
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

SESSIONS = 3
OUTAGE = 1.0
# Of one session within 1.5 s: those of its keeper and of its event loop.
ATTEMPTS = 40
OLDEST = "redis-6.2"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the queues had to say that somebody should read."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def silent(proxy: FlakyProxy) -> None:
    """Lose everything both ways, also on new connections, and close nothing."""
    proxy.black_hole()


def deaf(proxy: FlakyProxy) -> None:
    """Lose what existing connections send; new ones work."""
    proxy.black_hole("requests", new=False)


def mute(proxy: FlakyProxy) -> None:
    """Lose what the server answers on existing connections, though it does its work; new ones work."""
    proxy.black_hole("replies", new=False)


@pytest.mark.parametrize("fail", [silent, deaf, mute])
async def test_half_open_connections_are_replaced(
    fail: Callable[[FlakyProxy], None],
    start_server: StartServer,
    proxy_to: ProxyTo,
    make_redis_queue: MakeQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody closes anything and nothing comes back: noticed in time, told once or twice, nothing is run twice."""
    proxy = proxy_to(start_server())
    traffic = Traffic(lambda: make_redis_queue(proxy.url, lease=4.0, enqueue_timeout=2.0))
    async with traffic.flowing():
        caplog.clear()
        fail(proxy)
        await asyncio.sleep(OUTAGE)
        proxy.restore()
        await traffic.goes_on()
        await traffic.ends_with_each_event_run_once()
    # A session's read is noticed later than its other connections, since it waits longer.
    assert 1 <= len(warnings(caplog)) <= 2 * SESSIONS, warnings(caplog)


async def test_callers_that_wait_share_their_attempts(proxy: FlakyProxy, make_redis_queue: MakeQueue) -> None:
    """Fifty settlements wait for a server that is away: each finds that out, then it is asked as often as for one."""
    queue = make_redis_queue(proxy.url, lease=4.0, enqueue_timeout=1.5)
    await queue.enqueue_many(events(50))
    held = await receive_exactly(queue, 50)
    proxy.refuse()
    proxy.cut()

    outcomes = await asyncio.gather(*(queue.nack(each, delay=60) for each in held), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} <= {BackendUnavailable, BackendTimeout}
    assert proxy.counters["refused"] <= len(held) + ATTEMPTS
    proxy.restore()


def delayed(server: RedisServer, proxy: FlakyProxy) -> Callable[[], None]:
    """Let everything take 0.2 s more each way."""
    proxy.delay(0.2)
    return lambda: proxy.delay(0.0)


def asleep(server: RedisServer, proxy: FlakyProxy) -> Callable[[], None]:
    """Stop the server's process for a while."""
    server.pause()
    return server.resume


@pytest.mark.parametrize("fail", [delayed, asleep])
async def test_a_slow_server_is_waited_for(
    fail: Callable[[RedisServer, FlakyProxy], Callable[[], None]],
    start_server: StartServer,
    proxy_to: ProxyTo,
    make_redis_queue: MakeQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Slower than ever, and faster than the time that an attempt has: no connection is given up, nothing is told."""
    server = start_server()
    proxy = proxy_to(server)
    traffic = Traffic(lambda: make_redis_queue(proxy.url, lease=6.0, enqueue_timeout=6.0))
    async with traffic.flowing():
        caplog.clear()
        connections = proxy.counters["connections"]
        mend = fail(server, proxy)
        await asyncio.sleep(OUTAGE)
        mend()
        await traffic.goes_on()
        assert proxy.counters["connections"] == connections
        await traffic.ends_with_each_event_run_once()
    assert (warnings(caplog), traffic.refusals) == ([], [])


async def test_a_read_that_is_unblocked_with_an_error_is_read_again(
    start_server: StartServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """CLIENT UNBLOCK … ERROR, as a server says when it is demoted: the caller goes on waiting, and gets what comes."""
    server = start_server()
    queue, producer = (make_redis_queue(server.url) for _ in range(2))
    taking = asyncio.create_task(queue.dequeue(30))
    for _ in range(3):
        await wait_until(lambda: unblocked(server))
    await producer.enqueue(event(0))

    assert await taking == event(0)
    assert len(warnings(caplog)) == 1, warnings(caplog)


def unblocked(server: RedisServer) -> int:
    """Unblock every blocked client with an error; return how many there were."""
    clients = [client for client in server.command("CLIENT LIST") if "b" in client["flags"]]
    return sum(server.command("CLIENT", "UNBLOCK", client["id"], "ERROR") for client in clients)


@pytest.mark.parametrize("lost", ["group", "stream"])
async def test_a_lost_group_is_made_again_under_traffic(
    lost: str,
    start_server: StartServer,
    make_redis_queue: MakeQueue,
    look_at: LookAt,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """XGROUP DESTROY, or DEL of the stream: told once for the fleet; without its group no event is lost."""
    server, recorder = start_server(), Recorder()
    stored = look_at(server)
    traffic = Traffic(lambda: make_redis_queue(server.url, observers=(recorder,)))
    async with traffic.flowing():
        caplog.clear()
        if lost == "group":
            server.command("XGROUP", "DESTROY", stored.keys.stream, stored.keys.group)
        else:
            server.command("DEL", stored.keys.stream)
        await traffic.goes_on()
        await wait_until(lambda: recorder.states_lost)
        if lost == "group":
            await traffic.ends_with_each_event_run()
    assert len(recorder.states_lost) == 1
    assert sum("lost the queue's state" in warning for warning in warnings(caplog)) == 1
    assert await stored.raw.hget(stored.keys.stats, "state_lost") == b"1"


async def test_draining_goes_on_while_new_events_are_refused_for_memory(
    start_server: StartServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Over maxmemory: told once, health says why, everybody works on what is there; then new events come again."""
    server = start_server(maxmemory_policy="noeviction")
    traffic = Traffic(lambda: make_redis_queue(server.url, enqueue_timeout=1.0))
    async with traffic.flowing():
        caplog.clear()
        server.command("CONFIG", "SET", "maxmemory", "100kb")
        await wait_until(lambda: len(traffic.refusals) >= 20)
        await wait_until(lambda: traffic.runs.keys() >= set(traffic.accepted))
        answers = await traffic.health()
        assert {answer["status"] for answer in answers} == {"degraded"}
        assert all("OOM" in answer["error"] for answer in answers), answers
        assert len(warnings(caplog)) == 1, warnings(caplog)
        server.command("CONFIG", "SET", "maxmemory", "0")
        await traffic.goes_on()
        assert {answer["status"] for answer in await traffic.health()} == {"healthy"}
        await traffic.ends_with_each_event_run_once()
    assert len(warnings(caplog)) == 1, warnings(caplog)


@pytest.mark.parametrize("newer", [DEFAULT_FLAVOUR, "redis-8.2"])
@pytest.mark.parametrize("direction", ["to an older", "to a newer"])
async def test_another_version_takes_over_at_the_same_address(
    newer: str, direction: str, start_server: StartServer, proxy_to: ProxyTo, make_redis_queue: MakeQueue
) -> None:
    """Empty and without our scripts: the loss is told, and enqueue, worker and dequeue go on there."""
    flavours = [newer, OLDEST] if direction == "to an older" else [OLDEST, newer]
    before, after = (start_server(flavour=flavour) for flavour in flavours)
    proxy, recorder = proxy_to(before), Recorder()
    traffic = Traffic(lambda: make_redis_queue(proxy.url, observers=(recorder,)))
    async with traffic.flowing():
        proxy.lead_to(after.port)
        proxy.cut()
        before.kill()
        await traffic.goes_on()
        assert len(recorder.states_lost) == 1
        await traffic.ends_settled()


@pytest.mark.slow
async def test_a_newer_version_takes_over_with_the_data(
    start_server: StartServer, proxy_to: ProxyTo, make_redis_queue: MakeQueue
) -> None:
    """A replica of a later release is promoted, as in an upgrade: each event runs once and nothing is lost."""
    primary = start_server(flavour=OLDEST)
    replica = start_server(replicaof=primary, flavour=DEFAULT_FLAVOUR if chosen_flavour() == OLDEST else None)
    proxy, recorder = proxy_to(primary), Recorder()
    traffic = Traffic(lambda: make_redis_queue(proxy.url, lease=4.0, observers=(recorder,)))
    async with traffic.flowing():
        proxy.refuse()
        proxy.cut()
        await wait_until(lambda: replica.offset() == primary.offset())
        replica.promote()
        primary.kill()
        proxy.lead_to(replica.port)
        proxy.restore()
        await traffic.goes_on()
        await traffic.ends_with_each_event_run_once()
    assert (recorder.states_lost, recorder.losses) == ([], [])
