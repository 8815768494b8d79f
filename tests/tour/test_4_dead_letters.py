"""Station 4: where events end that cannot be processed, and how they come back."""

from __future__ import annotations

from typing import Any

import pytest

from streams_queue import QueueFactory

pytestmark = pytest.mark.integration


async def test_an_event_that_keeps_failing_is_put_aside_and_can_be_sent_again(config: dict[str, Any]) -> None:
    """One run and `max_retries` more, then it is a dead letter with its reason; an operator redrives it."""
    async with QueueFactory.create_queue(config) as queue:
        await queue.enqueue({"event_type": "push"})
        for attempt in (1, 2, 3):
            (delivery,) = await queue.receive()
            assert delivery.deliveries == attempt
            await queue.nack(delivery, error="no route to host")

        (letter,) = await queue.dead_letters()
        assert (letter.reason, letter.error, letter.deliveries) == ("max_retries", "no route to host", 3)
        assert letter.payload == {"event_type": "push"}

        assert await queue.redrive() == 1
        (delivery,) = await queue.receive()
        assert (delivery.event_id, delivery.deliveries) == (letter.event_id, 1)
        await queue.ack(delivery)
        assert await queue.dead_letters() == []
