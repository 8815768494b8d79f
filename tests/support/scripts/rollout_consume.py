"""A worker that says which event it has processed, until the test gives the signal to stop."""

from __future__ import annotations

import asyncio
from typing import Any

from streams_queue import QueueFactory, Worker
from tests.support.journal import arguments, say, wait_for_go


async def main(config: dict[str, Any]) -> None:
    """Run until told to stop, then end in order."""

    async def handle(event: dict[str, Any]) -> None:
        say("processed", event["n"])

    async with QueueFactory.create_queue(config) as queue:
        worker = Worker(queue, handle, concurrency=20)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(wait_for_go)
        worker.stop()
        await running


asyncio.run(main(**arguments()))
