"""Which class each `type` of a queue stands for, those aside that are made of others."""

from __future__ import annotations

from streams_queue.two_queues import Side


def class_for(kind: str) -> type[Side]:
    """Return the class for `redis`, `asyncio` or `resilient`."""
    # Imported here, so that a process with an asyncio queue never loads redis.
    match kind:
        case "asyncio":
            from streams_queue.memory_queue import EventQueue

            return EventQueue
        case "resilient":
            from streams_queue.resilient_queue import ResilientQueue

            return ResilientQueue
        case _:
            from streams_queue.redis_queue import RedisEventQueue

            return RedisEventQueue
