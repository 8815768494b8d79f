"""Emptying a queue in a test."""

from __future__ import annotations

import time
from typing import Any

from streams_queue.messages import Delivery
from streams_queue.queue import Queue


async def receive_exactly(queue: Queue, count: int, timeout: float = 10.0) -> list[Delivery]:
    """Receive `count` deliveries, over several calls if need be, and settle none."""
    deadline, got = time.monotonic() + timeout, list[Delivery]()
    while len(got) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(got)} of {count} events came in {timeout:g} s: {[delivery.payload for delivery in got]}"
        got += await queue.receive(min(count - len(got), 100), timeout=left)
    return got


async def take(queue: Queue, count: int, timeout: float = 10.0) -> list[Any]:
    """Receive and acknowledge `count` events; return their payloads in order."""
    deliveries = await receive_exactly(queue, count, timeout)
    await queue.ack(*deliveries)
    return [delivery.payload for delivery in deliveries]


async def take_numbers(queue: Queue, count: int, timeout: float = 10.0) -> list[int]:
    """Receive and acknowledge `count` events made by `builders.event`; return their numbers in order."""
    return [payload["n"] for payload in await take(queue, count, timeout)]
