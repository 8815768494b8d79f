"""A producer whose files may not grow beyond a limit, as on a disk that is full."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from streams_queue import ResilientQueue
from streams_queue.errors import SpoolError
from tests.support.builders import event
from tests.support.journal import arguments, say


async def main(config: dict[str, Any], limit_bytes: int, count: int, size_bytes: int) -> None:
    """Enqueue until the disk is full and beyond; say of each event what became of it."""
    queue = ResilientQueue(config)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    for number in range(count):
        try:
            assert await queue.enqueue(event(number, filler="x" * size_bytes))
        except SpoolError as error:
            say("refused", number, str(error))
        else:
            say("accepted", number)


asyncio.run(main(**arguments()))
