"""The ways to a server: through sentinels, over TLS, over a socket; and what is said when one of them is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from streams_queue import RedisEventQueue
from streams_queue.errors import BackendRejected, BackendUnavailable, ConfigError
from tests.conftest import MakeConfig, MakeQueue, StartSentinel
from tests.support.builders import event
from tests.support.sentinels import SERVICE, SentinelServer
from tests.support.servers import RedisServer, free_port
from tests.support.taking import take_numbers

pytestmark = pytest.mark.integration

SECRET = "battery-staple"


@pytest.fixture
def sentinel(start_sentinel: StartSentinel, redis_server: RedisServer) -> SentinelServer:
    """A sentinel that names the shared server and asks for a password."""
    return start_sentinel(redis_server, requirepass=SECRET)


async def works(queue: RedisEventQueue) -> bool:
    """Tell whether an event goes in and comes out."""
    assert await queue.enqueue(event(7))
    return await take_numbers(queue, 1) == [7]


# --- sentinels ---


async def test_a_queue_finds_its_server_through_sentinels(
    sentinel: SentinelServer, redis_server: RedisServer, make_redis_queue: MakeQueue
) -> None:
    """One that does not listen does not matter; the sentinels' password is their own, and so is the database."""
    url = f"redis+sentinel://127.0.0.1:{free_port()},{sentinel.address}/{SERVICE}/3?sentinel_password={SECRET}"
    queue = make_redis_queue(url)
    assert await works(queue)
    health = await queue.check_health()
    assert health["redis"] == f"127.0.0.1:{redis_server.port} ({SERVICE})"
    assert health["status"] == "healthy"
    assert redis_server.command("CLIENT", "LIST").count(b"db=3") >= 3


async def test_a_client_made_by_redis_pys_sentinel_works(sentinel: SentinelServer, make_redis_queue: MakeQueue) -> None:
    """Its sentinels are asked as it would ask them; its own connections are not used."""
    manager = Sentinel([("127.0.0.1", sentinel.port)], sentinel_kwargs={"password": SECRET}, db=2, socket_timeout=1)
    queue = make_redis_queue(client=manager.master_for(SERVICE))
    assert await works(queue)
    assert sentinel.command("CLIENT", "LIST").count(b"\n") == 1, "only the one that asks here is connected"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda manager: manager.slave_for(SERVICE), "take no writes"),
        (lambda manager: manager.master_for(SERVICE, decode_responses=True), "decode_responses must be off"),
        (
            lambda manager: manager.master_for(SERVICE, connection_class=type("Own", (redis.asyncio.Connection,), {})),
            "connections of the class Own cannot be made",
        ),
    ],
    ids=["replica", "decoding", "class"],
)
def test_a_sentinel_client_that_cannot_serve_is_refused(make: Any, reason: str, make_config: MakeConfig) -> None:
    """The reason is named."""
    with pytest.raises(ConfigError, match=reason):
        RedisEventQueue(make_config(), client=make(Sentinel([("127.0.0.1", 26379)])))


def test_a_sentinel_manager_with_rules_of_its_own_is_refused(make_config: MakeConfig) -> None:
    """What it would have checked is not silently left out."""
    manager = Sentinel([("127.0.0.1", 26379)], min_other_sentinels=1)
    with pytest.raises(ConfigError, match="min_other_sentinels"):
        RedisEventQueue(make_config(), client=manager.master_for(SERVICE))


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("redis+sentinel://{sentinel}/othermaster?sentinel_password={secret}", "NOSERVICE", "knows no such service"),
        ("redis+sentinel://{sentinel}/mymaster", "NOAUTH", "{sentinel}: NOAUTH"),
        ("redis+sentinel://{sentinel}/mymaster?sentinel_password=not-{secret}", "WRONGPASS", "{sentinel}: WRONGPASS"),
        (
            "redis+sentinel://nobody:{secret}@{sentinel}/mymaster?sentinel_password={secret}",
            "WRONGPASS",
            "{server}: WRONGPASS",
        ),
        ("redis+sentinel://{server}/mymaster", "", "{server}: "),
    ],
    ids=["service", "no password", "wrong password", "wrong password of the primary", "no sentinel"],
)
async def test_what_no_waiting_mends_is_raised_at_once(
    url: str, code: str, words: str, sentinel: SentinelServer, redis_server: RedisServer, make_redis_queue: MakeQueue
) -> None:
    """Also by dequeue, which waits out everything else; the message says who refused, and no password."""
    places = {"sentinel": sentinel.address, "server": f"127.0.0.1:{redis_server.port}", "secret": SECRET}
    queue = make_redis_queue(url.format(**places), timeout=60)
    for call in (lambda: queue.enqueue(event(0)), queue.dequeue):
        with pytest.raises(BackendRejected) as refused:
            await call()
        assert (refused.value.code, refused.value.passing) == (code, False)
        assert words.format(**places) in str(refused.value)
        assert SECRET not in str(refused.value)
    health = await queue.check_health()
    assert health["status"] == "unhealthy"
    assert SECRET not in str(health)


async def test_sentinels_that_do_not_answer_are_waited_for(
    sentinel: SentinelServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody says that the service is unknown as long as one of them may know it; once there is one, it goes on."""
    sentinel.kill()
    url = f"redis+sentinel://{sentinel.address}/{SERVICE}?sentinel_password={SECRET}"
    queue = make_redis_queue(url, enqueue_timeout=0.5)
    with pytest.raises(BackendUnavailable, match=f"{sentinel.address}: Connection refused"):
        await queue.enqueue(event(0))
    waiting = asyncio.create_task(queue.dequeue(timeout=60))
    sentinel.start()
    assert await queue.enqueue(event(1))
    got = await waiting
    assert got is not None
    assert got["n"] == 1
    assert caplog.text.count("cannot be used for now (no primary of mymaster (sentinels ") == 1
    assert SECRET not in caplog.text
