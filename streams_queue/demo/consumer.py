"""A worker process: makes a task of each webhook, and notes what it begins and what it has finished."""

from __future__ import annotations

import asyncio

from streams_queue import Delivery, QueueFactory, Worker
from streams_queue.demo.journal import BEGUN, FINISHED, Journal, Record
from streams_queue.demo.part import WorkerPart, take_part
from streams_queue.demo.tasks import TaskChain


class Agents:
    """The agents that tasks are handed to: they answer after a while, or after so many tasks never again."""

    def __init__(self, latency: float, hang_after: int | None) -> None:
        self._latency = latency
        self._answers_left = hang_after

    async def notify(self) -> None:
        """Tell an agent of a task and wait for its answer."""
        if self._answers_left is not None:
            if self._answers_left == 0:
                await asyncio.Event().wait()
            self._answers_left -= 1
        await asyncio.sleep(self._latency)


async def consume(part: WorkerPart, journal: Journal) -> None:
    """Work until SIGTERM."""
    chain = TaskChain(Agents(part.agent_latency, part.hang_after).notify)

    async def handle(delivery: Delivery) -> None:
        journal.write(Record(BEGUN, delivery.event_id, delivery.deliveries))
        await chain.process(delivery.event_id, delivery.headers["X-GitHub-Event"], delivery.payload)
        journal.write(Record(FINISHED, delivery.event_id))

    async with QueueFactory.create_queue(part.config) as queue:
        await Worker(queue, handle, concurrency=part.concurrency).run()


def main() -> None:
    """Run as a process of the demo."""
    part, journal = take_part(WorkerPart)
    asyncio.run(consume(part, journal))


if __name__ == "__main__":
    main()
