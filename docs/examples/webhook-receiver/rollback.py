"""Work through what is left in Redis and in the spool, until nothing is: before going back to `type: asyncio`.

    python rollback.py --config webhook_config.yaml

Exits with 0 when nothing is left, and with 1 when something is after `--within` seconds. README.md has the steps around
it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from handler import handle

from streams_queue import Queue, QueueFactory, Worker, load_config

LOOK_EVERY = 0.2


async def roll_back(config: str | None, within: float) -> int:
    """Return the exit code."""
    settings = load_config(config)
    if settings.type == "asyncio":
        print("give the configuration from before: an asyncio queue leaves nothing behind")
        return 2
    async with QueueFactory.create_queue(settings) as queue:
        # The first look at the queue takes over what processes that have ended left in the spool.
        await queue.release(*await queue.receive(timeout=0))
        worker = Worker(queue, handle)
        working = asyncio.create_task(worker.run())
        left = await wait_until_empty(queue, within)
        worker.stop()
        await working
        dead = [] if left is None else await queue.dead_letters(count=1)
    print(f"processed {worker.counts.processed}, left {'?' if left is None else left}")
    if dead:
        print("there are dead letters: streams-queue dead list")
    return 0 if left == 0 else 1


async def wait_until_empty(queue: Queue, within: float) -> int | None:
    """Return how many events are left when none is, or when the time is over; None if the server is away then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        left = await unsettled(queue)
        if left == 0 or loop.time() > deadline:
            return left
        await asyncio.sleep(LOOK_EVERY)


async def unsettled(queue: Queue) -> int | None:
    """Return how many events wait, are worked on, are delayed, or lie in the spool; None while the server is away."""
    health = await queue.check_health()
    if not health["redis_connected"]:
        return None
    stats = await queue.stats()
    return stats.waiting + stats.in_flight + stats.delayed


def main() -> int:
    """Read the arguments and roll back."""
    arguments = argparse.ArgumentParser(description="Work through what is left in Redis and in the spool.")
    arguments.add_argument("--config", help="the configuration from before; default: STREAMS_QUEUE_CONFIG")
    arguments.add_argument("--within", type=float, default=600.0, help="seconds after which to give up (600)")
    given = arguments.parse_args()
    return asyncio.run(roll_back(given.config, given.within))


if __name__ == "__main__":
    sys.exit(main())
