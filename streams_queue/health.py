"""One function that tells whether Redis and the queue on it are well, for probes and the command line."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from streams_queue.config import MEMORY_REQUIRES, REDIS_REQUIRES, Settings, load_config
from streams_queue.errors import StreamsQueueError
from streams_queue.queue import Queue

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 4.0
_CLOSE_TIMEOUT = 1.0

Configuration = Settings | Mapping[str, Any] | str | os.PathLike[str]


async def check_redis_health(target: Queue | Configuration | Any = None) -> dict[str, Any]:
    """Tell how the server and the queue on it are; never raises for a server problem.

    Args:
        target: A queue; or a configuration (mapping, path, Settings); or a redis-py asyncio client; or None, which
            takes the configuration from the environment. What is opened for the check is closed again.

    Returns:
        Within 5 s: `status`, `queue_depth`, `processing` and the other keys of the port's check_health; where something
        is wrong, `error`, which holds no secret.

    Raises:
        ConfigError: The configuration or the client cannot be used.
    """
    if isinstance(target, Queue):
        return await _ask(target)
    async with _opened(target) as queue:
        return await _ask(queue)


async def _ask(queue: Queue) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            return await queue.check_health()
    except TimeoutError:
        return _unhealthy(queue, f"no answer within {_ANSWER_TIMEOUT:g} s")
    except StreamsQueueError as error:
        return _unhealthy(queue, str(error))


def _unhealthy(queue: Queue, error: str) -> dict[str, Any]:
    """Return the keys of check_health for a server that could not be asked; 0 stands for what is not known."""
    return {
        "status": "unhealthy",
        "queue_depth": 0,
        "queue_size": queue.get_queue_size(),
        "processing": 0,
        "running": queue.is_running(),
        "redis_connected": False,
        "using_redis": getattr(queue, "using_redis", True),
        "error": error,
    }


@asynccontextmanager
async def _opened(target: Configuration | Any) -> AsyncIterator[Queue]:
    """Make a queue for one check and close it again, without waiting long for a server that does not answer."""
    # Imported here, so that importing this module does not load redis.
    from streams_queue.redis_queue import RedisEventQueue
    from streams_queue.rollout_queue import RolloutQueue

    queue: Queue
    if target is None or isinstance(target, Settings | Mapping | str | os.PathLike):
        settings = load_config(target)
        is_rollout = settings.type == "rollout" and settings.rollout is not None
        queue = RolloutQueue(settings) if is_rollout else RedisEventQueue(load_config(settings, require=REDIS_REQUIRES))
    else:
        queue = RedisEventQueue(load_config(None, require=MEMORY_REQUIRES), client=target)
    try:
        yield queue
    finally:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await queue.cleanup()
        except (TimeoutError, StreamsQueueError) as error:
            logger.debug("The connection of a health check was not closed in order (%s)", error)
