"""A service as GitBridge is one: it enqueues events and works on them, by the webhook_config.yaml of its folder.

It is also imported, for its handler. What was accepted and what was handled goes into journals in the folder.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from streams_queue import Queue, QueueFactory, Reject, Worker

# Of the first process's events some are such as no handler can process, and one is not due for long.
BAD, LATE = range(0, 200, 20), 7


def note(journal: str, event_id: str) -> None:
    """Write a line that a kill cannot take back."""
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{event_id}\n".encode())
    os.close(file)


def is_there(name: str) -> bool:
    """Tell whether the folder has such a file."""
    return Path(name).exists()


async def handle(event: dict[str, Any]) -> None:
    """Process an event."""
    if event["bad"]:
        raise Reject("bad")
    await asyncio.sleep(0.005)
    note("handled", event["id"])


async def produce(queue: Queue, ending: asyncio.Event) -> None:
    """Enqueue events until the end, or until the folder has a file `enough`; note what was accepted."""
    number, is_first = 0, not is_there("accepted")
    while not ending.is_set() and not is_there("enough"):
        event = {"id": f"{os.getpid()}-{number}", "bad": is_first and number in BAD}
        if await queue.enqueue(event, delay=3600 if is_first and number == LATE else 0):
            note("accepted", event["id"])
        number += 1
        await asyncio.sleep(0.01)


async def main() -> None:
    """Serve until SIGTERM."""
    note("service.pid", str(os.getpid()))
    ending = asyncio.Event()
    async with QueueFactory.create_queue("webhook_config.yaml") as queue:
        producing = asyncio.create_task(produce(queue, ending))
        await Worker(queue, handle, concurrency=2).run()
        ending.set()
        await producing


if __name__ == "__main__":
    asyncio.run(main())
