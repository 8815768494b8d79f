"""The worker on real queues: the asyncio one, and Redis with a server that goes away and comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams_queue import Delivery, EventQueue, Reject, RetryLater, Worker
from streams_queue.errors import BackendRejected
from streams_queue.queue import Queue
from tests.conftest import MakeQueue, StartServer
from tests.support.builders import event, events, memory_config
from tests.support.waiting import wait_until
from tests.support.working import working

pytestmark = pytest.mark.integration


@pytest.fixture(params=["asyncio", "redis"])
async def queue(request: pytest.FixtureRequest, make_redis_queue: MakeQueue) -> AsyncIterator[Queue]:
    """A queue of either kind with a short backoff and a limit of two deliveries."""
    policy = {"max_retries": 1, "base_delay": 0.02}
    if request.param == "redis":
        yield make_redis_queue(retry_policy=policy)
    else:
        async with EventQueue(memory_config(retry_policy=policy)) as made:
            yield made


@pytest.mark.parametrize("sync", [False, True])
async def test_every_event_is_handled_once(queue: Queue, sync: bool) -> None:
    """A thousand events over 20 slots: each one once, and all of them acknowledged."""
    seen: Counter[int] = Counter()

    async def handler(payload: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        seen[payload["n"]] += 1

    def sync_handler(payload: dict[str, Any]) -> None:
        seen[payload["n"]] += 1

    async with working(queue, sync_handler if sync else handler, concurrency=20):
        await queue.enqueue_many(events(1000))
        await wait_until(lambda: seen.total() >= 1000)
    await wait_until(lambda: _acked(queue, 1000))
    assert seen == Counter(range(1000))


async def _acked(queue: Queue, count: int) -> bool:
    return (await queue.stats()).totals["acked"] == count


async def test_each_way_to_fail_ends_where_it_should(queue: Queue) -> None:
    """Retried to the limit, rejected, postponed: what is left is two dead letters with their reasons."""
    runs: Counter[str] = Counter()

    async def handler(delivery: Delivery) -> None:
        kind = delivery.payload["kind"]
        runs[kind] += 1
        if kind == "fails":
            raise ValueError("no such repo")
        if kind == "rejected":
            raise Reject("malformed")
        if kind == "postponed" and delivery.deliveries == 1:
            raise RetryLater(0.02)
        if kind == "hangs" and delivery.deliveries == 1:
            await asyncio.Event().wait()

    worker = Worker(queue, handler, handler_timeout=0.2)
    run = asyncio.create_task(worker.run())
    await queue.enqueue_many([{"kind": kind} for kind in ("fine", "fails", "rejected", "postponed", "hangs")])
    await wait_until(lambda: _acked(queue, 3))
    await wait_until(lambda: _dead(queue, 2))
    worker.stop()
    await run
    assert runs == {"fine": 1, "fails": 2, "rejected": 1, "postponed": 2, "hangs": 2}
    letters = {letter.payload["kind"]: letter for letter in await queue.dead_letters()}
    assert (letters["fails"].reason, letters["fails"].error) == ("max_retries", "ValueError: no such repo")
    assert letters["rejected"].reason == "malformed"
    counts = worker.counts
    assert (counts.processed, counts.failed, counts.rejected, counts.postponed, counts.timed_out) == (3, 2, 1, 1, 1)


async def _dead(queue: Queue, count: int) -> bool:
    return len(await queue.dead_letters()) == count


async def test_starting_and_stopping_again_and_again_loses_nothing(queue: Queue) -> None:
    """Each worker is stopped in the middle of its work, some of them at once; every event is handled in the end."""
    done: Counter[int] = Counter()

    async def handler(payload: dict[str, Any]) -> None:
        await asyncio.sleep(0.001)
        done[payload["n"]] += 1

    await queue.enqueue_many(events(300))
    for round_ in range(100):
        worker = Worker(queue, handler, concurrency=5, shutdown_timeout=0 if round_ % 2 else 5)
        run = asyncio.create_task(worker.run())
        for _ in range(round_ % 7):
            await asyncio.sleep(0.0005)
        worker.stop()
        await run
    async with working(queue, handler):
        await wait_until(lambda: len(done) == 300)
    assert (await queue.stats()).in_flight == 0
    assert set(done) == set(range(300))


async def test_the_worker_outlives_its_server(make_redis_queue: MakeQueue, start_server: StartServer) -> None:
    """The server is killed and comes back with its append-only file; the worker goes on without a word from anybody."""
    server = start_server(appendonly="yes", appendfsync="always")
    queue = make_redis_queue(server.url)
    seen: set[int] = set()

    async def handler(payload: dict[str, Any]) -> None:
        seen.add(payload["n"])

    async with working(queue, handler):
        await queue.enqueue(event(1))
        await wait_until(lambda: seen == {1})
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        assert await queue.enqueue(event(2))
        await wait_until(lambda: seen == {1, 2})


async def test_a_wrong_password_ends_run(make_redis_queue: MakeQueue, start_server: StartServer) -> None:
    """No retry mends it."""
    server = start_server(requirepass="right")
    queue = make_redis_queue(server.url.replace("redis://", "redis://:wrong@"))
    with pytest.raises(BackendRejected, match="WRONGPASS") as raised:
        await asyncio.wait_for(Worker(queue, print).run(), 10)
    assert "wrong" not in str(raised.value).replace("WRONGPASS", "")


async def test_a_busy_sync_handler_keeps_its_lease(make_redis_queue: MakeQueue) -> None:
    """Its thread works for two leases; the event runs once."""
    queue = make_redis_queue(lease=0.6)
    runs: list[float] = []

    def handler(payload: dict[str, Any]) -> None:
        runs.append(time.monotonic())
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            sum(range(1000))

    async with working(queue, handler):
        await queue.enqueue(event(1))
        await wait_until(lambda: _acked(queue, 1))
    assert len(runs) == 1
