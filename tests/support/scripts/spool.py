"""A producer with a spool; `die_at` names the moment of the way back at which it kills itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from streams_queue import RedisEventQueue, ResilientQueue
from streams_queue.breaker import BreakerPolicy
from streams_queue.resilient_queue.spool_file import SpoolFile
from tests.support.builders import event
from tests.support.journal import arguments, say
from tests.support.waiting import wait_until


def die(*_: Any) -> None:
    """Crash."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying_resolve(*, before: bool) -> Callable[..., Any]:
    """Send a batch and die before or after it."""
    send = RedisEventQueue.resolve

    async def resolve(queue: RedisEventQueue, batch: Any) -> Any:
        if before:
            die()
        receipts = await send(queue, batch)
        die()
        return receipts

    return resolve


def arm(die_at: str) -> None:
    """Set the trap."""
    if die_at == "before the batch is recorded":
        SpoolFile._record_next = die  # type: ignore[method-assign]
    elif die_at == "before it is sent":
        RedisEventQueue.resolve = dying_resolve(before=True)  # type: ignore[method-assign]
    elif die_at == "after the reply":
        RedisEventQueue.resolve = dying_resolve(before=False)  # type: ignore[method-assign]


async def main(config: dict[str, Any], numbers: list[int], die_at: str = "", pause: float = 0.0) -> None:
    """Enqueue events, say each that was accepted, and wait until Redis has them."""
    arm(die_at)
    queue = ResilientQueue(config, breaker=BreakerPolicy(open_for=0.05, max_open_for=0.1))
    say("ready")
    if die_at:
        await queue.enqueue_many([event(number) for number in numbers])
        numbers = []
    for number in numbers:
        if await queue.enqueue(event(number)):
            say("accepted", number)
        await asyncio.sleep(pause)
    say("held", (await queue.check_health())["held_locally"])
    await wait_until(lambda: queue.using_redis, timeout=60)
    await queue.cleanup()
    say("done")


asyncio.run(main(**arguments()))
