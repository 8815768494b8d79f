"""The plan's loop: dequeue for ever; `on` names the event at which something happens, `then` what."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from streams_queue import RedisEventQueue
from tests.support.journal import arguments, say


async def hold(_seconds: float) -> None:
    """Never come back."""
    await asyncio.Event().wait()


async def sleep_blocking(seconds: float) -> None:
    """Block the event loop in a call that lets other threads run."""
    time.sleep(seconds)  # noqa: ASYNC251 - a handler that blocks the loop is what the test is about


async def count_blocking(seconds: float) -> None:
    """Block the event loop with pure Python, holding the interpreter lock as much as it can."""
    deadline, total = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        total += sum(range(1000))


ACTIONS = {"hold": hold, "sleep": sleep_blocking, "count": count_blocking}


async def main(config: dict[str, Any], on: int, then: str, seconds: float = 0.0) -> None:
    """Run the loop until killed."""
    queue = RedisEventQueue(config)
    await queue.get_queue_depth()
    say("ready")
    while True:
        event = await queue.dequeue()
        if event is None:
            continue
        say("took", event["n"])
        if event["n"] == on:
            await ACTIONS[then](seconds)
            say("done", event["n"])


asyncio.run(main(**arguments()))
