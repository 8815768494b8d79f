"""Station 3: deliveries, which you settle yourself."""

from __future__ import annotations

from typing import Any

import pytest

from streams_queue import QueueFactory
from streams_queue.errors import LeaseLost

pytestmark = pytest.mark.integration


async def test_a_delivery_is_settled_once(config: dict[str, Any]) -> None:
    """`ack`: done. `release`: not mine, and not counted. `nack`: failed, again later. The first settlement wins."""
    async with QueueFactory.create_queue(config) as queue:
        await queue.enqueue({"event_type": "push"}, event_id="delivery-7", headers={"trace": "abc"})

        (delivery,) = await queue.receive()
        assert (delivery.payload, delivery.event_id) == ({"event_type": "push"}, "delivery-7")
        assert (delivery.deliveries, delivery.headers) == (1, {"trace": "abc"})
        await queue.release(delivery)

        (delivery,) = await queue.receive()
        assert delivery.deliveries == 1
        await queue.nack(delivery, error="the upstream is down")

        (delivery,) = await queue.receive()
        assert delivery.deliveries == 2
        await queue.ack(delivery)
        with pytest.raises(LeaseLost):
            await queue.nack(delivery)
        assert await queue.receive(timeout=0.2) == []
