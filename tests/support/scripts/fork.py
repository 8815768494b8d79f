"""A process that forks while its queue is at work; parent and child then use the queue that both have now."""

from __future__ import annotations

import asyncio
import os
import warnings
from typing import Any

from streams_queue import Queue, QueueFactory
from tests.support.builders import event, events
from tests.support.journal import arguments, say
from tests.support.taking import take_numbers

# Python 3.12 and later warn of any fork beside a thread; that there is one, the keeper, is the point here.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


async def child_produces(queue: Queue) -> None:
    """Enqueue in the child: one by one, so that several sequences are used."""
    accepted = [await queue.enqueue(event(number)) for number in range(1000, 1008)]
    say("child", accepted)
    await queue.cleanup()


async def child_consumes(queue: Queue) -> None:
    """Take in the child what the parent has not taken."""
    say("child", await take_numbers(queue, 2))
    await queue.cleanup()


async def produce(queue: Queue) -> None:
    """Fork with a batch in flight."""
    await queue.enqueue(event(0))
    sending = asyncio.create_task(queue.enqueue_many(events(50, start=1)))
    later = [asyncio.create_task(queue.enqueue(event(number))) for number in range(51, 61)]
    await asyncio.sleep(0.1)
    say("in flight", not sending.done())
    fork(child_produces, queue)
    receipts = await sending
    say("parent", [receipt.held for receipt in receipts] + await asyncio.gather(*later))


async def consume(queue: Queue) -> None:
    """Fork with an event in hand and others in the buffer."""
    (held,) = await queue.receive()
    say("holds", held.payload["n"])
    fork(child_consumes, queue)
    await asyncio.to_thread(os.wait)
    await queue.ack(held)
    say("parent", [held.payload["n"]])


def fork(child: Any, queue: Queue) -> None:
    """Run `child` in a forked process, which ends without running what the parent has still to do."""
    if os.fork() == 0:
        asyncio.run(child(queue))
        os._exit(0)


async def main(config: dict[str, Any], part: str) -> None:
    """Play one part, then wait for the child."""
    queue = QueueFactory.create_queue(config)
    await {"produce": produce, "consume": consume}[part](queue)
    if part == "produce":
        await asyncio.to_thread(os.wait)
    await queue.cleanup()


asyncio.run(main(**arguments()))
