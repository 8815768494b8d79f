"""The same state machine on every queue: wherever the calls lead, each event is in exactly one place."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import fakeredis
import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.model.machine import SETTINGS, QueueMachine, Target, WithoutCrashes
from tests.support.builders import Keys, memory_config, redis_config
from tests.support.stored import StoredQueue


def explore(make: Callable[[], Awaitable[Target]], *, examples: int, steps: int = 25) -> None:
    """Run the machine on many random histories."""
    run_state_machine_as_test(
        lambda: QueueMachine(make),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


class OnServer:
    """Two consumers of one queue on a real server, and a third that only ever dies."""

    can_crash = True

    def __init__(self, url: str) -> None:
        from streams_queue import RedisEventQueue

        self._keys = Keys(f"m{uuid.uuid4().hex[:12]}")
        self._url = url
        config = redis_config(url, **SETTINGS, namespace=self._keys.namespace)
        self.queues = [RedisEventQueue(config), RedisEventQueue(config)]

    async def crash(self) -> str | None:
        """Read one entry as a consumer that is never heard of again."""
        raw = redis.asyncio.Redis.from_url(self._url)
        stored = StoredQueue(raw, self._keys)
        try:
            found = await raw.xreadgroup("processors", "ghost", {self._keys.stream: ">"}, count=1)
            if not found:
                return None
            ((_, ((entry_id, fields),)),) = found
            await stored.age(entry_id.decode(), 3600)
            return str(fields[b"id"].decode())
        finally:
            await raw.aclose()


def test_the_asyncio_queue_agrees_with_the_model() -> None:
    """The in-process queue."""

    async def make() -> Target:
        from streams_queue import EventQueue

        return WithoutCrashes([EventQueue(memory_config(**SETTINGS))])

    explore(make, examples=40)


def test_the_redis_queue_on_fakeredis_agrees_with_the_model() -> None:
    """Two consumers on an emulated server, which is quick enough for many histories."""

    async def make() -> Target:
        from streams_queue import RedisEventQueue

        server = fakeredis.FakeServer()
        config = redis_config("redis://localhost:6379/0", **SETTINGS)
        clients = [
            fakeredis.FakeAsyncRedis(server=server, retry=Retry(NoBackoff(), 0), socket_timeout=5) for _ in range(2)
        ]
        return WithoutCrashes([RedisEventQueue(config, client=client) for client in clients])

    explore(make, examples=20)


@pytest.mark.integration
def test_the_redis_queue_on_a_server_agrees_with_the_model(redis_url: str) -> None:
    """Two consumers on a real server, and others that die with an event in hand."""

    async def make() -> Target:
        return OnServer(redis_url)

    explore(make, examples=12)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_redis_queue_agrees_with_the_model_over_long_histories(redis_url: str) -> None:
    """The same with many more and longer histories."""

    async def make() -> Target:
        return OnServer(redis_url)

    explore(make, examples=100, steps=50)
