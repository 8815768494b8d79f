"""What a queue refuses to work with, and how it says so."""

from __future__ import annotations

import asyncio

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams_queue.errors import BackendRejected, ConfigError, StateError
from tests.conftest import MakeClient, MakeConfig, MakeQueue, StartServer
from tests.support.builders import event, events, marker
from tests.support.proxy import FlakyProxy, reply_with, request_with
from tests.support.stored import StoredQueue
from tests.support.taking import take_numbers

pytestmark = pytest.mark.integration


async def test_a_second_group_on_the_stream_is_refused(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Acknowledging deletes, so two groups would lose each other's events: both producers and consumers are stopped."""
    await stored.raw.xgroup_create(stored.keys.stream, "auditors", id="0", mkstream=True)

    with pytest.raises(StateError, match="auditors"):
        await make_redis_queue().enqueue(event(0))
    with pytest.raises(StateError, match="auditors"):
        await make_redis_queue().receive(timeout=0.1)

    assert await stored.length() == 0


async def test_a_newer_schema_is_refused(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Keys written by a release that this one cannot share a queue with are left alone."""
    await stored.raw.hset(stored.keys.stats, "schema", "99")

    with pytest.raises(StateError, match="99"):
        await make_redis_queue().enqueue(event(0))

    assert await stored.size() == 0


async def test_a_client_that_would_corrupt_payloads_is_refused(
    make_redis_queue: MakeQueue, make_client: MakeClient, redis_url: str
) -> None:
    """Payloads are bytes: a client that decodes replies cannot be used, and the error names the setting."""
    with pytest.raises(ConfigError, match="decode_responses"):
        make_redis_queue(client=make_client(redis_url, decode_responses=True))


def test_a_client_that_blocks_is_refused(make_config: MakeConfig, redis_url: str) -> None:
    """The sync client of redis-py is a mistake easily made; it is named at once."""
    from streams_queue import RedisEventQueue

    with redis.Redis.from_url(redis_url) as client, pytest.raises(ConfigError, match="asyncio"):
        RedisEventQueue(make_config(), client=client)


async def test_a_clients_own_retries_and_timeouts_are_not_used(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, make_client: MakeClient, stored: StoredQueue
) -> None:
    """A client that sends again by itself, and never gives up a reply, would strand events; the queue knows better."""
    client = make_client(proxy.url, retry=Retry(NoBackoff(), 3), socket_timeout=None)
    producer, queue = make_redis_queue(), make_redis_queue(client=client, lease=60)
    trap = proxy.swallow_reply(reply_with(marker(0)))
    await producer.enqueue_many(events(2))

    assert sorted(await take_numbers(queue, 2, timeout=3.0)) == [0, 1]
    assert trap.hit.is_set()
    lost_too = proxy.swallow_reply(request_with(marker(2)))
    assert await queue.enqueue(event(2))
    assert lost_too.hit.is_set()
    assert await stored.numbers() == [2]


async def test_a_suitable_client_is_used_and_left_open(
    make_redis_queue: MakeQueue, make_client: MakeClient, redis_url: str
) -> None:
    """A queue works through a client made elsewhere and does not close what it did not open."""
    client = make_client(redis_url)
    queue = make_redis_queue(client=client)
    await queue.enqueue_many(events(3))
    assert await take_numbers(queue, 3) == [0, 1, 2]

    await queue.cleanup()

    assert await client.ping()


async def test_the_group_is_created_at_the_beginning(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Events that were in the stream before any consumer came are delivered too."""
    producer = make_redis_queue()
    await producer.enqueue_many(events(3))
    await stored.raw.xgroup_destroy(stored.keys.stream, stored.keys.group)

    assert await take_numbers(make_redis_queue(), 3) == [0, 1, 2]


async def test_clients_that_connect_at_the_same_time_share_one_group(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Twenty queues race for creating stream and group; none fails and nothing is lost."""
    queues = [make_redis_queue() for _ in range(20)]

    accepted = await asyncio.gather(*(queue.enqueue(event(number)) for number, queue in enumerate(queues)))

    assert all(accepted)
    assert sorted(await take_numbers(queues[0], 20)) == list(range(20))
    assert (await stored.group())["name"] == b"processors"


async def test_a_key_of_another_type_is_refused_and_left_alone(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A stream key that holds something else: every verb raises at once instead of trying for ever."""
    await stored.raw.set(stored.keys.stream, "somebody else's")
    queue = make_redis_queue()

    with pytest.raises(BackendRejected):
        await queue.enqueue(event(0))
    with pytest.raises(BackendRejected):
        await asyncio.wait_for(asyncio.ensure_future(queue.dequeue(5)), 3)

    assert await stored.raw.get(stored.keys.stream) == b"somebody else's"


@pytest.mark.parametrize("key", ["delayed", "dead", "stats"])
async def test_any_other_key_of_another_type_is_refused_too(
    key: str, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A script does not roll back, so types are checked before anything is written."""
    await stored.raw.set(getattr(stored.keys, key), "somebody else's")

    with pytest.raises(BackendRejected):
        await make_redis_queue().enqueue(event(0))

    assert await stored.length() == 0


async def test_a_wrong_password_ends_the_loop_and_is_not_shown(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """No retry mends a wrong password: enqueue and dequeue raise, and no message carries it."""
    server = start_server(requirepass="correct-horse")
    queue = make_redis_queue(f"redis://:battery-staple@127.0.0.1:{server.port}/0")

    with pytest.raises(BackendRejected) as refused:
        await queue.enqueue(event(0))
    with pytest.raises(BackendRejected) as refused_too:
        await asyncio.wait_for(asyncio.ensure_future(queue.dequeue(5)), 3)

    health = await queue.check_health()
    assert health["status"] == "unhealthy"
    assert "battery-staple" not in f"{refused.value}{refused_too.value}{health}"


async def test_a_missing_permission_ends_the_loop(
    start_server: StartServer, make_redis_queue: MakeQueue, make_client: MakeClient
) -> None:
    """A user who may not read the group is told so by dequeue, not put off for ever."""
    server = start_server()
    admin: redis.asyncio.Redis = make_client(server.url)
    await admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-xreadgroup")
    queue = make_redis_queue(f"redis://limited:secret@127.0.0.1:{server.port}/0")

    with pytest.raises(BackendRejected):
        await asyncio.wait_for(asyncio.ensure_future(queue.dequeue(5)), 3)
