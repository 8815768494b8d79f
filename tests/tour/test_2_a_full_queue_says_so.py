"""Station 2: a queue has an end, and nothing falls off it unnoticed."""

from __future__ import annotations

from typing import Any

import pytest

from streams_queue import QueueFactory

pytestmark = pytest.mark.integration


async def test_a_full_queue_refuses_or_makes_room_as_it_is_told(config: dict[str, Any]) -> None:
    """`max_size` counts all that is not settled. What `drop_oldest` pushes out can be read, and sent again."""
    config["queue"]["max_size"] = 2
    async with QueueFactory.create_queue(config) as queue:
        receipts = await queue.enqueue_many([{"n": 1}, {"n": 2}, {"n": 3}])
        assert [receipt.status for receipt in receipts] == ["accepted", "accepted", "full"]
        assert await queue.enqueue({"n": 4}) is False

    config["queue"]["overflow"] = "drop_oldest"
    async with QueueFactory.create_queue(config) as queue:
        assert await queue.enqueue({"n": 5})
        (dropped,) = await queue.dead_letters()
        assert (dropped.payload, dropped.reason) == ({"n": 1}, "overflow")
        assert [waiting.payload for waiting in await queue.peek()] == [{"n": 2}, {"n": 5}]
