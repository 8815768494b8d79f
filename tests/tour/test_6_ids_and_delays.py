"""Station 6: the same webhook twice, and one for later."""

from __future__ import annotations

import time
from typing import Any

import pytest

from streams_queue import QueueFactory

pytestmark = pytest.mark.integration


async def test_an_event_id_is_taken_once_and_a_delay_is_kept(config: dict[str, Any]) -> None:
    """Whoever sends an event again under its id is told that it is held; a delayed event comes when it is due."""
    async with QueueFactory.create_queue(config) as queue:
        begun = time.monotonic()
        assert await queue.enqueue({"event_type": "reminder"}, delay=0.5)
        assert await queue.enqueue({"event_type": "push"}, event_id="delivery-7")
        assert await queue.enqueue({"event_type": "push"}, event_id="delivery-7")
        stats = await queue.stats()
        assert (stats.waiting, stats.delayed, stats.totals["duplicates"]) == (1, 1, 1)

        assert await queue.dequeue() == {"event_type": "push"}
        assert await queue.dequeue() == {"event_type": "reminder"}
        assert time.monotonic() - begun >= 0.5
