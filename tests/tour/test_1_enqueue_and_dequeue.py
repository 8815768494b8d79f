"""Station 1: put events in, take them out."""

from __future__ import annotations

from typing import Any

import pytest

from streams_queue import QueueFactory

pytestmark = pytest.mark.integration


async def test_events_come_out_in_the_order_in_which_they_went_in(config: dict[str, Any]) -> None:
    """A loop around `dequeue` is all that it takes: asking for the next event says that the last one is done."""
    async with QueueFactory.create_queue(config) as queue:
        assert await queue.enqueue({"event_type": "push", "repo": "octocat/Hello-World"})
        assert await queue.enqueue({"event_type": "star", "repo": "octocat/Spoon-Knife"})

        seen = []
        while event := await queue.dequeue(timeout=0.2):
            assert await queue.get_queue_depth() == 1 - len(seen)
            seen.append(event["event_type"])

        assert seen == ["push", "star"]
        assert (await queue.stats()).totals["acked"] == 2
