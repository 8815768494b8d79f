"""Enqueue numbered events of many repositories under their own ids, then some of earlier ones once more."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

from streams_queue import Queue, QueueFactory
from tests.support.builders import event
from tests.support.journal import arguments, say

AT_ONCE = 25


async def send(queue: Queue, numbers: Iterable[int], repos: int) -> None:
    """Enqueue by call of some or of one, and say which are held; what is full is tried again."""
    left = iter(numbers)
    while batch := list(itertools.islice(left, AT_ONCE)):
        while batch:
            events = [event(n, repo=f"octocat/repo-{n % repos}") for n in batch]
            receipts = await queue.enqueue_many(events, event_ids=[f"delivery-{n}" for n in batch])
            say("held", [n for n, receipt in zip(batch, receipts, strict=True) if receipt.held])
            batch = [n for n, receipt in zip(batch, receipts, strict=True) if not receipt.held]
            if batch:
                await asyncio.sleep(0.01)


async def main(config: dict[str, Any], first: int, count: int, again: list[int], repos: int) -> None:
    """Let four callers send side by side."""
    async with QueueFactory.create_queue(config) as queue:
        say("ready")
        numbers = range(first, first + count)
        await asyncio.gather(*(send(queue, numbers[part::4], repos) for part in range(4)))
        await send(queue, again, repos)


asyncio.run(main(**arguments()))
