"""Our queue as the scenarios use it: everything at its default but what the question is about."""

from __future__ import annotations

from typing import Any

from streams_queue.redis_queue import RedisEventQueue

NAMESPACE, NAME, GROUP = "bench", "events", "processors"
STREAM = f"{NAMESPACE}:{{{NAME}}}"
_FILL_AT_ONCE = 500


def make_queue(url: str, **settings: Any) -> RedisEventQueue:
    """Make the queue; nothing connects before its first use."""
    config = {"redis_url": url, "max_size": 3_000_000, "timeout": 30, "namespace": NAMESPACE, "name": NAME}
    return RedisEventQueue({"queue": config | settings})


async def fill(queue: RedisEventQueue, payloads: list[Any], batch: int = _FILL_AT_ONCE) -> None:
    """Enqueue payloads, batch after batch; one that is refused is an error."""
    for start in range(0, len(payloads), batch):
        receipts = await queue.enqueue_many(payloads[start : start + batch])
        if not all(receipt.held for receipt in receipts):
            raise RuntimeError("the queue refused an event")
