"""Faults at the worst moment: between a claim and its reply, within a settlement, while the queue is leaving."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tests.conftest import MakeQueue
from tests.support.builders import event
from tests.support.stored import StoredQueue
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


async def test_the_last_event_is_acknowledged_although_the_queue_was_dropped_long_before(
    make_redis_queue: MakeQueue, make_config: Any, stored: StoredQueue
) -> None:
    """A task keeps an event and forgets the queue; when it ends normally its event is acknowledged."""
    from streams_queue import RedisEventQueue

    producer = make_redis_queue()
    await producer.enqueue(event(0))
    done = asyncio.Event()

    async def work() -> None:
        queue = RedisEventQueue(make_config(lease=2))
        assert await queue.dequeue() is not None
        del queue
        gc.collect()
        await done.wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(1.0)
    done.set()
    await task
    await wait_until(stored.empty, timeout=1.0)
