"""Two queues on Redis lists: the one of GitBridge's plan, and one that removes what is done."""

from __future__ import annotations

import json
import logging
from typing import Any

from msgspec.json import decode, encode
from redis.asyncio import Redis

logger = logging.getLogger(__name__)


class PlanListQueue:
    """The plan's `RedisEventQueue`, word by word but for `redis.asyncio` instead of aioredis.

    It never removes anything from its processing list, and its bound is a look before the write.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.redis = Redis.from_url(config["queue"]["redis_url"], encoding="utf-8", decode_responses=True)
        self.queue_key = "gitbridge:events"
        self.processing_key = "gitbridge:processing"
        self.max_size = config["queue"]["max_size"]
        self.timeout = config["queue"]["timeout"]

    async def enqueue(self, payload: dict[str, Any]) -> bool:
        """Enqueue webhook payload to Redis."""
        if await self.redis.llen(self.queue_key) >= self.max_size:
            return False
        await self.redis.lpush(self.queue_key, json.dumps(payload))
        return True

    async def dequeue(self) -> dict[str, Any] | None:
        """Dequeue and process webhook payload from Redis."""
        try:
            payload = await self.redis.brpoplpush(self.queue_key, self.processing_key, timeout=self.timeout)
            if not payload:
                return None
            return json.loads(payload)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - as the plan has it
            logger.error(f"Redis dequeue error: {error!s}")  # noqa: G004, TRY400 - as the plan has it
            return None


class CorrectListQueue:
    """A list queue whose consumer removes an event from the processing list when it is done."""

    def __init__(self, url: str, *, max_size: int, timeout: float) -> None:
        self.redis: Any = Redis.from_url(url)
        self.queue_key = "correct:events"
        self.processing_key = "correct:processing"
        self.max_size = max_size
        self.timeout = timeout

    async def enqueue(self, payload: dict[str, Any]) -> bool:
        """Put one event into the queue; False if it is full."""
        if await self.redis.llen(self.queue_key) >= self.max_size:
            return False
        await self.redis.lpush(self.queue_key, encode(payload))
        return True

    async def dequeue(self) -> tuple[bytes, dict[str, Any]] | None:
        """Take the next event: what `ack` wants, and the payload."""
        raw = await self.redis.blmove(self.queue_key, self.processing_key, self.timeout, "RIGHT", "LEFT")
        return None if raw is None else (raw, decode(raw))

    async def ack(self, raw: bytes) -> None:
        """The event is done."""
        await self.redis.lrem(self.processing_key, 1, raw)
