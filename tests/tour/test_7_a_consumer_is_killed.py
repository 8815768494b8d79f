"""Station 7: a process ends while it holds an event, in the way in which no `finally` runs."""

from __future__ import annotations

from typing import Any

import pytest

from streams_queue import QueueFactory
from tests.support.processes import Programs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


async def test_the_event_of_a_killed_process_runs_again(config: dict[str, Any], programs: Programs) -> None:
    """When its lease has run out, whoever waits gets it, with no new traffic; it has been handed out twice then."""
    async with QueueFactory.create_queue(config) as queue:
        # A loop around `dequeue`, as at station 1, that never gets further than this event.
        victim = programs("consume", config=config, on=7, then="hold")
        await queue.enqueue({"event_type": "push", "n": 7})
        await wait_until(lambda: ["took", 7] in victim.journal)
        victim.kill()

        (delivery,) = await queue.receive(timeout=config["queue"]["lease"] + 2)

        assert (delivery.payload["n"], delivery.deliveries) == (7, 2)
        await queue.ack(delivery)
