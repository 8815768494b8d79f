"""Produce or consume for ever; the journal says when, by the clock that all processes of a machine have in common."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from streams_queue import Queue, QueueFactory
from tests.support.builders import event
from tests.support.journal import arguments, say


async def produce(queue: Queue) -> None:
    """Say of each event whether it was accepted or refused."""
    for number in itertools.count():
        held = await queue.enqueue(event(number, repo=f"octocat/{number}"))
        say("accepted" if held else "refused", time.monotonic())
        await asyncio.sleep(0.01)


async def consume(queue: Queue) -> None:
    """Say of each event when it was handed out."""
    while True:
        if await queue.dequeue(timeout=30) is not None:
            say("handed out", time.monotonic())


async def main(config: dict[str, Any], role: str) -> None:
    """Play one of the two roles until killed."""
    queue = QueueFactory.create_queue(config)
    await queue.get_queue_depth()
    say("ready")
    await {"produce": produce, "consume": consume}[role](queue)


asyncio.run(main(**arguments()))
