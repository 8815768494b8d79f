"""A producer that forgets to clean its queue up, and one that forks: what reaches the collector all the same."""

from __future__ import annotations

import asyncio
import os
import warnings
from typing import Any

from streams_queue import QueueFactory
from streams_queue.queue import Queue
from tests.support.builders import event
from tests.support.journal import arguments, say

# Python 3.12 and later warn of any fork beside a thread; that there is one is the point here.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


async def enqueue(queue: Queue, count: int) -> None:
    """Enqueue, and leave everything open."""
    for number in range(count):
        await queue.enqueue(event(number))


def main(config: dict[str, Any], forks: bool) -> None:
    """Say `parent` or `child` when all is enqueued, and end."""
    queue = QueueFactory.create_queue(config)
    asyncio.run(enqueue(queue, 2))
    pid = os.fork() if forks else os.getpid()
    if pid == 0:
        asyncio.run(_child(queue))
        say("child")
        os._exit(0)
    if forks:
        os.waitpid(pid, 0)
    say("parent")


async def _child(queue: Queue) -> None:
    await enqueue(queue, 3)
    await queue.cleanup()


main(**arguments())
