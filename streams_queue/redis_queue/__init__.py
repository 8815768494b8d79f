"""The event queue on Redis Streams with a consumer group."""

from __future__ import annotations

from streams_queue.redis_queue.queue import RedisEventQueue

__all__ = ["RedisEventQueue"]
