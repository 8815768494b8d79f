"""A producer process: takes webhooks in, as a web server would, and notes each one that the queue has accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from streams_queue import Queue, QueueFactory
from streams_queue.demo.github_events import GitHubEvents, Webhook
from streams_queue.demo.journal import ACCEPTED, Journal, Record
from streams_queue.demo.part import ProducerPart, take_part
from streams_queue.errors import BackendUnavailable, StreamsQueueError

_PATIENCE = 60.0
_PAUSE = 0.05


async def produce(part: ProducerPart, journal: Journal) -> None:
    """Enqueue the part's webhooks from several callers at the same time."""
    webhooks = GitHubEvents(part.seed).take(part.events)
    async with QueueFactory.create_queue(part.config) as queue:
        await asyncio.gather(*(_serve(queue, webhooks, journal) for _ in range(part.requests)))


async def _serve(queue: Queue, webhooks: Iterator[Webhook], journal: Journal) -> None:
    for webhook in webhooks:
        await _enqueue(queue, webhook)
        journal.write(Record(ACCEPTED, webhook.delivery_id))


async def _enqueue(queue: Queue, webhook: Webhook) -> None:
    """Try until the queue has the webhook; its own id makes a second try safe."""
    deadline = time.monotonic() + _PATIENCE
    while not await _try(queue, webhook):
        if time.monotonic() > deadline:
            raise BackendUnavailable(f"The queue did not take an event within {_PATIENCE:g} s")
        await asyncio.sleep(_PAUSE)


async def _try(queue: Queue, webhook: Webhook) -> bool:
    headers = {"X-GitHub-Event": webhook.kind}
    try:
        return await queue.enqueue(webhook.payload, event_id=webhook.delivery_id, headers=headers)
    except StreamsQueueError as error:
        if not error.retryable:
            raise
        return False


def main() -> None:
    """Run as a process of the demo."""
    part, journal = take_part(ProducerPart)
    asyncio.run(produce(part, journal))


if __name__ == "__main__":
    main()
