"""A producer that forks while its spool holds events; parent and child go on, and the child ends as programs end."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from typing import Any

from streams_queue import ResilientQueue
from streams_queue.breaker import BreakerPolicy
from tests.support.builders import event
from tests.support.journal import arguments, say

# Python 3.12 and later warn of any fork beside a thread; that there is one, the spool's, is the point here.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


async def enqueue_in_child(queue: ResilientQueue) -> None:
    """Hold two events; they are left to whoever comes next."""
    for number in (1000, 1001):
        assert await queue.enqueue(event(number))


def child(queue: ResilientQueue, way: str) -> None:
    """Do what children do, and end through the interpreter's own end, with all that it cleans up."""
    if way == "enqueue":
        asyncio.run(enqueue_in_child(queue))
    if way == "collect":
        del queue
        gc.collect()
    sys.exit(0)


async def before(queue: ResilientQueue) -> asyncio.Task[bool]:
    """Hold ten events, and leave one in the middle of its commit."""
    for number in range(10):
        assert await queue.enqueue(event(number))
    committing = asyncio.create_task(queue.enqueue(event(10)))
    await asyncio.sleep(0)
    return committing


async def after(queue: ResilientQueue, committing: asyncio.Task[bool], pid: int) -> None:
    """Hold nine more, and wait for the end of the child and then of this process."""
    assert await committing
    for number in range(11, 20):
        assert await queue.enqueue(event(number))
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    say("child", status)
    say("held", (await queue.check_health())["held_locally"])
    await asyncio.Event().wait()


def main(config: dict[str, Any], way: str) -> None:
    """Fork between two runs of the event loop, so that the child can end without touching the parent's loop."""
    queue = ResilientQueue(config, breaker=BreakerPolicy(open_for=0.05, max_open_for=0.1))
    loop = asyncio.new_event_loop()
    committing = loop.run_until_complete(before(queue))
    if (pid := os.fork()) == 0:
        child(queue, way)
    loop.run_until_complete(after(queue, committing, pid))


main(**arguments())
