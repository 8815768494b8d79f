"""Enqueue numbered events from several tasks at once; the journal says which were accepted."""

from __future__ import annotations

import asyncio
from typing import Any

from streams_queue import RedisEventQueue
from tests.support.builders import event
from tests.support.journal import arguments, say, wait_for_go


async def produce(queue: RedisEventQueue, numbers: list[int]) -> list[int]:
    """Enqueue one after the other; return what was accepted."""
    return [number for number in numbers if await queue.enqueue(event(number))]


async def main(config: dict[str, Any], tasks: int, numbers: list[int]) -> None:
    """Deal the numbers out to the tasks and let them race."""
    queue = RedisEventQueue(config)
    await queue.get_queue_depth()
    await asyncio.to_thread(wait_for_go)
    accepted = await asyncio.gather(*(produce(queue, numbers[first::tasks]) for first in range(tasks)))
    await queue.cleanup()
    say("accepted", sorted(number for part in accepted for number in part))


asyncio.run(main(**arguments()))
