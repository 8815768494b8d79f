"""Running a worker inside a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from streams_queue.worker import Worker


@asynccontextmanager
async def working(queue: Any, handler: Callable[[dict[str, Any]], Any], **options: Any) -> AsyncIterator[None]:
    """Run a worker of this process around the block."""
    worker = Worker(queue, handler, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await running
