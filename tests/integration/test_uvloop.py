"""The queue on the other event loop that workers use."""

from __future__ import annotations

import pytest

from streams_queue import RedisEventQueue
from tests.conftest import MakeConfig
from tests.support.builders import event, events

pytestmark = pytest.mark.integration


async def settle_each_way(queue: RedisEventQueue) -> None:
    """Enqueue, and settle with each verb."""
    await queue.enqueue_many(events(5))
    waiting, acked, soon, failed, rejected = await queue.receive(5)
    await queue.ack(acked)
    queue.ack_soon(soon)
    await queue.nack(failed, delay=0)
    await queue.dead_letter(rejected, "no")
    await queue.release(waiting)
    assert await queue.dequeue() == event(3)
    assert await queue.dequeue() == event(0)


def test_every_settlement_works_on_uvloop(make_config: MakeConfig) -> None:
    """The timers of uvloop differ from asyncio's; nothing is left but the dead letter."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> tuple[int, int, int]:
        async with RedisEventQueue(make_config()) as queue:
            await settle_each_way(queue)
        async with RedisEventQueue(make_config()) as queue:
            stats = await queue.stats()
        return stats.waiting, stats.in_flight, stats.dead

    assert uvloop.run(main()) == (0, 0, 1)
