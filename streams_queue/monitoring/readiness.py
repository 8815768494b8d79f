"""When a process is ready, and why not; what is said here may be read by anybody."""

from __future__ import annotations

import asyncio

from streams_queue.queue import Queue
from streams_queue.worker import Worker

_ANSWER_TIMEOUT = 2.0


async def why_worker_is_not_ready(queue: Queue, worker: Worker) -> str | None:
    """Return None if the worker fetches events and its queue's server answers, else the reason. Redis: 1 round trip."""
    if not worker.is_running():
        return "the worker does not run, or is stopping"
    return await why_queue_does_not_answer(queue)


async def why_queue_does_not_answer(queue: Queue) -> str | None:
    """Return None if the queue's server answers, or it needs none; else the reason. Redis: 1 round trip."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            health = await queue.check_health()
    except TimeoutError:
        return f"the queue's server does not answer within {_ANSWER_TIMEOUT:g} s"
    if not health["running"]:
        return "the queue is closed"
    if health["redis_connected"] or "redis" not in health:
        return None
    return f"the queue's server does not answer: {health.get('error', 'no reason given')}"
