"""A worker that writes down each event that it processes: the entry, and its number."""

from __future__ import annotations

import asyncio
from typing import Any

from streams_queue import Delivery, RedisEventQueue, Worker
from tests.support.journal import arguments, say


async def handle(delivery: Delivery) -> None:
    """Write it down."""
    say(delivery.entry_id, delivery.payload["n"])


async def main(config: dict[str, Any]) -> None:
    """Work until stopped."""
    async with RedisEventQueue(config) as queue:
        await Worker(queue, handle, concurrency=50).run()


asyncio.run(main(**arguments()))
