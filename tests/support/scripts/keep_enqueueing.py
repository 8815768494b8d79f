"""Enqueue numbered events until told to stop, each until the queue says that it has it; the journal says which."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from streams_queue import RedisEventQueue
from streams_queue.errors import BackendError, NotDurable
from tests.support.builders import event
from tests.support.journal import arguments, say, wait_for_go

PAUSE = 0.02


async def deliver(queue: RedisEventQueue, number: int, stopping: asyncio.Task[None]) -> None:
    """Enqueue one event, under its own id, until it is accepted; given up only at the end."""
    while not stopping.done():
        try:
            if await queue.enqueue(event(number), event_id=f"event-{number}"):
                say("accepted", number)
                return
        except NotDurable:
            say("short", number)
        except BackendError as error:
            say("failed", number, type(error).__name__)
        await asyncio.sleep(PAUSE)


async def main(config: dict[str, Any], tasks: int, rate: float = 0.0, first: int = 0) -> None:
    """Let `tasks` callers enqueue side by side, `rate` events a second together, or as fast as they can with 0."""
    queue = RedisEventQueue(config)
    await queue.get_queue_depth()
    stopping = asyncio.create_task(asyncio.to_thread(wait_for_go))
    loop, numbers = asyncio.get_running_loop(), itertools.count(first)

    async def produce(turn: int) -> None:
        # One after the other, not all at the same moment of each round.
        at = loop.time() + (turn / rate if rate else 0.0)
        await asyncio.sleep(at - loop.time())
        while not stopping.done():
            await deliver(queue, next(numbers), stopping)
            at = max(at + tasks / rate, loop.time() - 0.5) if rate else 0.0
            await asyncio.sleep(at - loop.time())

    await asyncio.gather(*map(produce, range(tasks)))
    await queue.cleanup()


asyncio.run(main(**arguments()))
