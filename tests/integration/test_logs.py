"""Logs of real work: nothing is said while all is well, one line about each outage, and never a secret."""

from __future__ import annotations

import asyncio
import logging

import pytest

from streams_queue import Worker
from tests.conftest import MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
SECRET = "hunter2-secret"


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what this package logged, from info on."""
    return [each for each in caplog.records if each.name.startswith("streams_queue") and each.levelno >= logging.INFO]


async def test_work_that_goes_well_says_nothing(make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture) -> None:
    """Not a line for 300 events that go in, are handled and acknowledged."""
    caplog.set_level(logging.INFO, "streams_queue")
    queue = make_redis_queue()
    done: list[object] = []
    worker = Worker(queue, done.append)
    working = asyncio.create_task(worker.run())
    await queue.enqueue_many(events(300))
    await wait_until(lambda: len(done) == 300)
    worker.stop()
    await working
    await queue.cleanup()
    assert [each.getMessage() for each in ours(caplog)] == []


async def test_a_failed_run_is_one_line_with_fields_and_without_the_payload(
    make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """The event's id, which delivery it was, and what went wrong."""
    caplog.set_level(logging.INFO, "streams_queue")
    queue = make_redis_queue(retry_policy={"max_retries": 0, "base_delay": 0.01})

    async def fail(_: object) -> None:
        raise ValueError("no luck")

    worker = Worker(queue, fail)
    working = asyncio.create_task(worker.run())
    await queue.enqueue(event(1, token=SECRET), event_id="delivery-1")
    await wait_until(lambda: ours(caplog))
    worker.stop()
    await working
    (record,) = ours(caplog)
    told = vars(record)
    assert (told["event_id"], told["deliveries"], told["error"]) == ("delivery-1", 1, "ValueError: no luck")
    assert SECRET not in record.getMessage() + str(told)


async def test_an_outage_is_told_once_and_without_a_secret(
    start_server: StartServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten calls meet it; one line says that it began, with the address and no password, one that it is over."""
    caplog.set_level(logging.INFO, "streams_queue")
    server = start_server(requirepass=SECRET, appendonly="yes")
    queue = make_redis_queue(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")
    assert await queue.enqueue(event(0))
    await asyncio.to_thread(server.kill)
    assert await asyncio.gather(*(queue.dequeue(timeout=0.2) for _ in range(10))) == [None] * 10
    (begun,) = ours(caplog)
    assert vars(begun)["address"] == f"127.0.0.1:{server.port}"
    await asyncio.to_thread(server.start)

    async def is_over() -> bool:
        await queue.get_queue_depth()
        return len(ours(caplog)) > 1

    await wait_until(is_over, 30)
    assert [each.levelname for each in ours(caplog)] == ["WARNING", "INFO"]
    assert SECRET not in "".join(str(vars(each)) + each.getMessage() for each in caplog.records)
