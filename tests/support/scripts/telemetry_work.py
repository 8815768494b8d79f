"""A worker made by the factory, with telemetry as its configuration says, that ends after so many events."""

from __future__ import annotations

import asyncio
from typing import Any

from opentelemetry import trace

from streams_queue import QueueFactory, Worker
from tests.support.journal import arguments, say


async def main(config: dict[str, Any], count: int) -> None:
    """Say in which trace each event was handled."""
    handled = 0

    async def handle(event: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1
        context = trace.get_current_span().get_span_context()
        say(event["n"], f"{context.trace_id:032x}", f"{context.span_id:016x}")
        if handled == count:
            worker.stop()

    async with QueueFactory.create_queue(config) as queue:
        worker = Worker(queue, handle)
        await worker.run()


asyncio.run(main(**arguments()))
