"""Type-checked, never run: what a caller of the public names may rely on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

from streams_queue import (
    ConfigError,
    DeadLetter,
    Delivery,
    EventQueue,
    LeaseLost,
    Observer,
    Queue,
    QueueFactory,
    QueueStats,
    Receipt,
    RedisEventQueue,
    Reject,
    ResilientQueue,
    RetryLater,
    RolloutQueue,
    Settings,
    SyncQueue,
    Worker,
    __version__,
    check_redis_health,
    load_config,
)
from streams_queue.gitbridge import GitBridgeQueue
from streams_queue.testing import Drained, drain, drain_sync

CONFIG: Mapping[str, Any] = {"queue": {"type": "asyncio", "max_size": 10, "timeout": 1, "retry_policy": {}}}


def configuration_from_everywhere() -> None:
    assert_type(load_config(CONFIG), Settings)
    assert_type(load_config("webhook_config.yaml", environment="production"), Settings)
    assert_type(load_config(Path("webhook_config.yaml")), Settings)
    assert_type(load_config(), Settings)
    assert_type(__version__, str)


def every_queue_is_a_queue() -> list[Queue]:
    made: Queue = QueueFactory.create_queue(CONFIG)
    settings = load_config(CONFIG)
    return [made, EventQueue(CONFIG), RedisEventQueue(CONFIG), ResilientQueue(settings), RolloutQueue(settings)]


async def producing(queue: Queue) -> None:
    assert_type(await queue.enqueue({"event_type": "push"}, event_id="72d3162e", delay=1.5), bool)
    receipts = await queue.enqueue_many([{"n": 1}, {"n": 2}], event_ids=["a", None])
    assert_type(receipts, list[Receipt])
    assert_type([receipt.held for receipt in receipts], list[bool])


async def consuming(queue: Queue) -> None:
    event: dict[str, Any] | None = await queue.dequeue()
    event = await queue.dequeue(timeout=math.inf)
    del event
    for delivery in assert_type(await queue.receive(10, timeout=0), list[Delivery]):
        try:
            await queue.extend(delivery)
        except LeaseLost:
            continue
        await queue.nack(delivery, delay=5, error="upstream is down")
    async with queue as entered:
        await entered.ack()


async def operating(queue: Queue) -> None:
    assert_type(await queue.stats(), QueueStats)
    assert_type(await queue.dead_letters(after="1-0"), list[DeadLetter])
    assert_type(await queue.redrive(count=5), int)
    assert_type(queue.get_queue_size(), int)
    assert_type(await queue.get_queue_depth(), int)
    health: Mapping[str, Any] = await check_redis_health(queue)
    health = await check_redis_health()
    del health


class Counting(Observer):
    """A plug-in overrides what it needs."""

    def accepted(self, count: int) -> None:
        """Count."""


async def handle(event: dict[str, Any]) -> None:
    if "repo" not in event:
        raise Reject("no repository")
    raise RetryLater(delay=60)


def handle_in_a_thread(delivery: Delivery) -> None:
    del delivery


async def working(queue: Queue) -> None:
    await Worker(queue, handle, concurrency=8, handler_timeout=30).run()
    await Worker(queue, handle_in_a_thread).run()


def without_asyncio() -> None:
    with SyncQueue(CONFIG) as queue:
        assert_type(queue.enqueue({"event_type": "push"}, event_id="72d3162e"), bool)
        event: dict[str, Any] | None = queue.dequeue(timeout=math.inf)
        del event
        queue.task_done()
        for delivery in assert_type(queue.receive(10), list[Delivery]):
            queue.ack(delivery)
        assert_type(queue.stats(), QueueStats)
        assert_type(queue.run(lambda behind: behind.get_queue_depth()), int)
        assert_type(drain_sync(queue, handle, patience=0), Drained)


async def tested(queue: Queue) -> None:
    drained = await drain(queue, handle, concurrency=8)
    assert_type(drained.dead, list[DeadLetter])
    assert_type([failure.error for failure in drained.failed], list[BaseException])


def errors_are_caught_by_what_they_are() -> tuple[str, ...]:
    try:
        load_config({})
    except ConfigError as error:
        return error.problems
    return ()


async def in_gitbridge() -> None:
    queue = GitBridgeQueue(CONFIG)
    await queue.start()
    assert_type(await queue.enqueue({"event_type": "push"}, event_id="72d3162e"), bool)
    event: dict[str, Any] | None = await queue.dequeue()
    del event
    assert_type((queue.get_queue_size(), queue.is_running()), tuple[int, bool])
    assert_type(queue.queue, Queue)
    await queue.cleanup()
    await queue.stop()
