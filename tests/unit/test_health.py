"""check_redis_health without a server to talk to: what it asks, what it closes, how long it takes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams_queue import EventQueue, ResilientQueue, check_redis_health, load_config
from streams_queue.errors import BackendRejected, ConfigError
from tests.support.builders import memory_config, redis_config


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port that accepts connections and never answers."""
    gone = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    gone.set()
    server.close()
    await server.wait_closed()


async def test_a_queue_is_asked_and_stays_open() -> None:
    """Its own answer is returned as it is."""
    queue = EventQueue(memory_config())
    await queue.enqueue({"event_type": "ping"})
    assert await check_redis_health(queue) == await queue.check_health()
    assert queue.is_running()
    await queue.dequeue()
    await queue.cleanup()


async def test_an_unreachable_server_is_unhealthy_and_no_secret_is_told(closed_port: int) -> None:
    """The plan's keys are there, and the password is not."""
    config = redis_config(f"redis://user:hunter2@127.0.0.1:{closed_port}/0")
    for target in (config, load_config(config)):
        health = await check_redis_health(target)
        assert (health["status"], health["redis_connected"], health["processing"]) == ("unhealthy", False, 0)
        assert str(closed_port) in health["error"]
        assert "hunter2" not in str(health)


async def test_the_environment_is_the_default(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere; a missing URL is a mistake of the caller and not a state of the server."""
    with pytest.raises(ConfigError, match="redis_url"):
        await check_redis_health()
    monkeypatch.setenv("STREAMS_QUEUE_REDIS_URL", f"redis://127.0.0.1:{closed_port}/0")
    assert (await check_redis_health())["status"] == "unhealthy"


async def test_a_server_that_hangs_is_given_up_in_time(silent_port: int) -> None:
    """Within 5 s, also where the queue itself would wait longer."""
    before = time.monotonic()
    health = await check_redis_health(redis_config(f"redis://127.0.0.1:{silent_port}/0", enqueue_timeout=60))
    assert (health["status"], health["redis_connected"]) == ("unhealthy", False)
    assert time.monotonic() - before < 5.5


async def test_a_queue_whose_answer_does_not_come_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all keys of the port are there."""
    monkeypatch.setattr("streams_queue.health._ANSWER_TIMEOUT", 0.05)

    class Hanging(EventQueue):
        async def check_health(self) -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

    queue = Hanging(memory_config())
    health = await check_redis_health(queue)
    assert health == {
        "status": "unhealthy",
        "queue_depth": 0,
        "queue_size": 0,
        "processing": 0,
        "running": True,
        "redis_connected": False,
        "using_redis": True,
        "error": "no answer within 0.05 s",
    }


async def test_an_error_of_the_queue_is_not_raised() -> None:
    """A server problem is an answer."""

    class Refused(EventQueue):
        async def check_health(self) -> dict[str, Any]:
            raise BackendRejected("NOPERM")

    health = await check_redis_health(Refused(memory_config()))
    assert (health["status"], health["error"]) == ("unhealthy", "NOPERM")


async def test_a_resilient_queue_over_a_dead_server_is_degraded(closed_port: int) -> None:
    """It still takes events."""
    url = f"redis://127.0.0.1:{closed_port}/0"
    async with ResilientQueue(redis_config(url, enqueue_timeout=0.2)) as queue:
        assert (await check_redis_health(queue))["status"] == "degraded"


async def test_a_client_that_cannot_be_used_is_refused_with_the_reason() -> None:
    """That is a mistake of the caller."""
    with pytest.raises(ConfigError):
        await check_redis_health(object())
