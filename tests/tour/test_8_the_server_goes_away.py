"""Station 8: with `type: resilient`, events are taken while there is no server, and get to it when it is back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams_queue import QueueFactory
from tests.conftest import StartServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


async def test_nothing_is_lost_and_the_order_is_kept(config: dict[str, Any], start_server: StartServer) -> None:
    """What cannot be sent is held in memory, health says so, and new events queue behind it."""
    server = start_server(appendonly="yes", appendfsync="always")
    config["queue"] |= {"type": "resilient", "redis_url": server.url, "enqueue_timeout": 1}
    async with QueueFactory.create_queue(config) as queue:
        assert await queue.enqueue({"n": 1})
        await asyncio.to_thread(server.kill)
        assert await queue.enqueue({"n": 2})
        health = await queue.check_health()
        assert (health["status"], health["held_locally"], health["using_redis"]) == ("degraded", 1, False)

        await asyncio.to_thread(server.restart)
        await wait_until(lambda: queue.using_redis)
        assert await queue.enqueue({"n": 3})

        assert [await queue.dequeue() for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
