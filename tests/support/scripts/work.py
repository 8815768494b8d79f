"""A worker process; `kill_on` names the event whose handler kills it, `seconds` how long the others take."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from streams_queue import RedisEventQueue, Worker
from tests.support.journal import arguments, say


async def main(config: dict[str, Any], kill_on: int = -1, seconds: float = 0.0, concurrency: int = 1) -> None:
    """Run a worker until it is stopped or dies."""

    async def handle(event: dict[str, Any]) -> None:
        say("start", event["n"])
        if event["n"] == kill_on:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(seconds)
        say("end", event["n"])

    queue = RedisEventQueue(config)
    say("ready")
    await Worker(queue, handle, concurrency=concurrency).run()
    await queue.cleanup()


asyncio.run(main(**arguments()))
