"""Consumers that die while they hold events."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.conftest import MakeConfig, MakeQueue
from tests.support.builders import Keys, event, events
from tests.support.processes import Program, Programs
from tests.support.recording import Recorder
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

EVENTS, KILLER = 1000, 500


async def test_an_event_of_a_killed_dequeue_loop_is_handed_out_again_in_time(
    programs: Programs, make_redis_queue: MakeQueue, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """A plain dequeue loop is SIGKILLed in its handler: within lease + 1 s somebody else has its event, unprompted."""
    lease = 2.0
    queue = make_redis_queue(lease=lease)
    victim = programs("consume", config=make_config(lease=lease), on=2, then="hold")
    await queue.enqueue_many(events(3))
    await wait_until(lambda: ["took", 2] in victim.journal, what=victim.describe)
    await wait_until(lambda: only_the_last_is_left(stored), what="the events before it were not acknowledged")

    waiting = asyncio.create_task(queue.receive(timeout=lease + 5))
    victim.kill()
    killed = time.monotonic()
    (delivery,) = await waiting

    assert delivery.payload == event(2)
    assert delivery.deliveries == 2
    assert time.monotonic() - killed <= lease + 1.0
    await queue.ack(delivery)
    assert (await queue.stats()).in_flight == 0


async def only_the_last_is_left(stored: StoredQueue) -> bool:
    """Tell whether event 2 alone is unsettled."""
    return await stored.numbers() == [2]


async def test_what_a_killed_process_had_only_prefetched_comes_back_too(
    programs: Programs, make_redis_queue: MakeQueue, make_config: MakeConfig
) -> None:
    """Nothing of the dead consumer's buffer is lost: all events but the acknowledged ones are handed out again."""
    queue = make_redis_queue(lease=1.0)
    config = make_config(lease=1.0, prefetch=50)
    await queue.enqueue_many(events(100))
    victim = programs("consume", config=config, on=20, then="hold")
    await wait_until(lambda: ["took", 20] in victim.journal, what=victim.describe)

    victim.kill()

    again: set[int] = set()
    while not again >= set(range(20, 100)):
        (delivery,) = await receive_exactly(queue, 1)
        again.add(delivery.payload["n"])
        await queue.ack(delivery)


async def test_a_suspect_is_handed_out_when_the_one_before_it_is_settled_for_good(
    make_redis_queue: MakeQueue, raw: Redis, keys: Keys, stored: StoredQueue
) -> None:
    """What may kill the process does not start while another's ack is on its way: it would be buried as well."""
    recorder = Recorder()
    queue = make_redis_queue(lease=1.0, retry_policy={"max_retries": 0, "base_delay": 0.05}, observers=(recorder,))
    receipts = await queue.enqueue_many(events(2))
    await raw.xreadgroup(keys.group, "dead", {keys.stream: ">"}, count=2)
    for receipt in receipts:
        assert receipt.entry_id is not None
        await stored.age(receipt.entry_id, 2.0)

    for receipt in receipts:
        (suspect,) = await receive_exactly(queue, 1)
        assert suspect.event_id == receipt.event_id
        assert len(recorder.outcomes) == len(recorder.handed) - 1
        queue.ack_soon(suspect)
    await wait_until(stored.empty)


@pytest.mark.parametrize("how", ["sleep", "count"])
async def test_a_handler_that_blocks_its_event_loop_is_run_once(
    how: str, programs: Programs, make_redis_queue: MakeQueue, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """Four leases without a turn of the event loop while another consumer waits: the event is still handed out once."""
    lease = 1.0
    queue = make_redis_queue(lease=lease)
    await queue.enqueue(event(7))
    config = make_config(lease=lease)
    blocker = programs("consume", config=config, on=7, then=how, seconds=4 * lease)
    await wait_until(lambda: ["took", 7] in blocker.journal, what=blocker.describe)

    assert await queue.receive(timeout=4 * lease + 0.5) == []

    await wait_until(lambda: ["done", 7] in blocker.journal, what=blocker.describe)
    assert blocker.journal.count(["took", 7]) == 1
    await wait_until(stored.empty, what="the blocked consumer's event was never acknowledged")


@pytest.mark.parametrize(
    ("concurrency", "max_retries"),
    [(1, 3), (10, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 0), (10, 1), (10, 3)))],
)
async def test_only_the_event_that_kills_its_process_is_buried(
    concurrency: int,
    max_retries: int,
    programs: Programs,
    make_redis_queue: MakeQueue,
    make_config: MakeConfig,
    stored: StoredQueue,
) -> None:
    """One event among 1000 kills whoever runs it: it alone ends in the dead letters, the other 999 are processed."""
    settings = {
        "lease": 1.0,
        "retry_policy": {"max_retries": max_retries, "base_delay": 0.05},
        "prefetch": "auto",
    }
    queue = make_redis_queue(**settings)
    await queue.enqueue_many(events(EVENTS))
    started: list[Program] = []

    async def supervise() -> bool:
        if not started or not started[-1].running:
            config = make_config(**settings)
            started.append(programs("work", config=config, kill_on=KILLER, concurrency=concurrency))
        return await stored.empty()

    await wait_until(supervise, timeout=60.0, what=lambda: [program.describe() for program in started])

    (letter,) = await queue.dead_letters()
    assert letter.payload == event(KILLER)
    assert letter.reason in ("crashed", "max_retries")
    assert letter.deliveries >= max_retries + 1

    def journal() -> list[tuple[Any, ...]]:
        return [tuple(line) for program in started for line in program.journal]

    # What a program wrote is read by a thread, in its own time.
    await wait_until(lambda: {line[1] for line in journal() if line[0] == "end"} == set(range(EVENTS)) - {KILLER})
    assert journal().count(("start", KILLER)) <= max_retries + 2
