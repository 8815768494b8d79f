"""GitBridge's pipeline, unchanged, on every backend; and its queue's answers when a server is away."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from streams_queue import RedisEventQueue
from streams_queue.gitbridge import GitBridgeQueue
from tests.conftest import MakeConfig, ProxyTo, StartServer
from tests.support.builders import event, events
from tests.support.mas_pipeline import MASPipeline
from tests.support.stored import StoredQueue
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
BACKENDS = ("asyncio", "redis", "resilient")
MakeQueue = Callable[..., GitBridgeQueue]
SECRET = "hunter2-secret"


@dataclass
class WebhookPayload:
    event_type: str
    repo: str
    n: int
    mark: str


@pytest.fixture
async def make_queue(make_config: MakeConfig) -> AsyncIterator[MakeQueue]:
    """Make queues in this test's namespace, `make_queue(type="resilient")`; stop them at the end."""
    made: list[GitBridgeQueue] = []

    def make(url: str | None = None, **section: Any) -> GitBridgeQueue:
        made.append(GitBridgeQueue(make_config(url, **section)))
        return made[-1]

    yield make
    for queue in made:
        await queue.stop()


async def run_through(pipeline: MASPipeline, count: int) -> Counter[int]:
    """Let a pipeline process `count` events while they come in; return how often it has processed each."""
    queue = pipeline.event_queue
    running = asyncio.create_task(pipeline.start())
    for each in events(count):
        assert await queue.enqueue(each)
    await wait_until(lambda: len(pipeline.processed) >= count, 90, what=lambda: len(pipeline.processed))
    # Whatever would come twice comes before this one.
    assert await queue.enqueue(event(count))
    await wait_until(lambda: len(pipeline.processed) > count, 10)
    await pipeline.stop()
    await running
    return Counter(each.n if isinstance(each, WebhookPayload) else each["n"] for each in pipeline.processed)


def pipeline_config(config: dict[str, Any], cleanup_interval: float) -> dict[str, Any]:
    """Add the section that is GitBridge's own."""
    return config | {"pipeline": {"max_retries": 3, "retry_delay": 0.1, "cleanup_interval": cleanup_interval}}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "count", [1_000, pytest.param(10_000, marks=[pytest.mark.slow])], ids=lambda count: f"{count}-events"
)
async def test_the_pipeline_runs_unchanged(make_config: MakeConfig, backend: str, count: int) -> None:
    """Its own loop, and cleanup on a timer meanwhile: nothing lost, nothing twice, nothing left behind."""
    config = pipeline_config(make_config(type=backend, max_size=20_000), cleanup_interval=0.001)
    pipeline = MASPipeline(config, GitBridgeQueue)
    processed = await run_through(pipeline, count)
    assert processed == Counter(range(count + 1))
    assert pipeline.cleanups > 5
    assert pipeline.failures == []
    stats = await pipeline.event_queue.queue.stats()
    assert (stats.waiting, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, 0)
    await pipeline.event_queue.stop()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_pipeline_gets_objects_where_it_wants_them(make_config: MakeConfig, backend: str) -> None:
    """One of GitBridge's queues hands out payloads with attributes."""
    config = pipeline_config(make_config(type=backend), cleanup_interval=0.02)
    pipeline = MASPipeline(config, GitBridgeQueue, payload_type=WebhookPayload)
    processed = await run_through(pipeline, 100)
    assert processed == Counter(range(101))
    assert all(isinstance(each, WebhookPayload) for each in pipeline.processed)
    await pipeline.event_queue.stop()


@pytest.mark.parametrize("backend", ["redis", "resilient"])
async def test_two_pipelines_share_a_queue(make_config: MakeConfig, backend: str) -> None:
    """Each event is processed by one of them, while both clean up."""
    config = pipeline_config(make_config(type=backend), cleanup_interval=0.001)
    pipelines = [MASPipeline(config, GitBridgeQueue) for _ in range(2)]
    running = [asyncio.create_task(pipeline.start()) for pipeline in pipelines]
    for each in events(300):
        assert await pipelines[0].event_queue.enqueue(each)
    await wait_until(lambda: sum(len(pipeline.processed) for pipeline in pipelines) >= 300, 30)
    for pipeline in pipelines:
        await pipeline.stop()
    await asyncio.gather(*running)
    assert Counter(each["n"] for pipeline in pipelines for each in pipeline.processed) == Counter(range(300))
    for pipeline in pipelines:
        await pipeline.event_queue.stop()


async def test_a_pipeline_that_never_stops_its_queue_leaves_nothing_behind(
    make_config: MakeConfig, stored: StoredQueue
) -> None:
    """GitBridge's ends with `cleanup`: the last event is confirmed all the same when its loop ends."""
    config = pipeline_config(make_config(type="redis"), cleanup_interval=0.02)

    async def life() -> int:
        pipeline = MASPipeline(config, GitBridgeQueue)
        processed = await run_through(pipeline, 50)
        return processed.total()

    assert await asyncio.to_thread(asyncio.run, life()) == 51
    await wait_until(stored.empty)


@pytest.mark.parametrize("backend", ["redis", "resilient"])
async def test_cleanup_confirms_what_is_done_at_once(make_queue: MakeQueue, backend: str, stored: StoredQueue) -> None:
    """It returns after the server's reply; what is in hand stays in hand, what waits keeps waiting."""
    queue = make_queue(type=backend, prefetch=100)
    for each in events(100):
        await queue.enqueue(each)
    assert await stored.length() == 100  # connected, so that the look below takes less time than an ack may wait
    for _ in range(5):
        await queue.dequeue()
    await queue.cleanup()
    assert await stored.numbers() == list(range(4, 100))
    assert await queue.dequeue() == event(5)


async def test_cleanup_never_deletes_the_queue(make_queue: MakeQueue) -> None:
    """GitBridge's queue on a list deleted its key there."""
    queue = make_queue()
    for each in events(5):
        await queue.enqueue(each)
    await queue.cleanup()
    await queue.stop()
    assert await make_queue().get_queue_depth() == 5


async def test_start_connects_and_returns(make_queue: MakeQueue, redis_url: str) -> None:
    """The first event finds the connection open."""
    queue = make_queue()
    await queue.start()
    health = await queue.check_health()
    assert (health["status"], health["redis_connected"]) == ("healthy", True)


# --- a server that is away -------------------------------------------------------------------------------------------


async def test_a_server_that_is_away_is_false_and_none(
    make_queue: MakeQueue, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """In time; every method answers, and no line shows the password."""
    server = start_server(requirepass=SECRET, appendonly="yes")
    queue = make_queue(f"redis://:{SECRET}@127.0.0.1:{server.port}/0", enqueue_timeout=0.3, timeout=0.2)
    assert await queue.enqueue(event(1))
    await asyncio.to_thread(server.kill)
    began = asyncio.get_running_loop().time()
    assert await queue.enqueue(event(2)) is False
    assert asyncio.get_running_loop().time() - began < 3
    assert await queue.dequeue() is None
    assert await queue.get_queue_depth() == queue.get_queue_size() == 1
    assert (await queue.check_health())["status"] == "unhealthy"
    await queue.start()
    await queue.cleanup()
    warnings = [each.getMessage() for each in caplog.records if each.name == "streams_queue.gitbridge"]
    assert [line.partition(" (")[0] for line in warnings] == [
        "An event was not taken",
        "The depth is not known",
        "The queue has no server yet",
    ]
    await asyncio.to_thread(server.start)
    await wait_until(lambda: queue.enqueue(event(3), event_id="three"), 30)
    assert [await queue.dequeue(timeout=5) for _ in range(2)] == [event(1), event(3)]
    assert SECRET not in caplog.text


async def test_a_wrong_password_is_false_and_none(
    make_queue: MakeQueue, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue itself raises that, since no retry mends it; GitBridge's loop has to live with it."""
    server = start_server(requirepass=SECRET)
    queue = make_queue(f"redis://:wrong-{SECRET}@127.0.0.1:{server.port}/0", enqueue_timeout=0.3, timeout=0.2)
    assert (await queue.enqueue(event(1)), await queue.dequeue()) == (False, None)
    assert {each.levelno for each in caplog.records if each.name == "streams_queue.gitbridge"} == {
        logging.WARNING,
        logging.ERROR,
    }
    assert SECRET not in caplog.text


async def test_a_resilient_queue_takes_and_hands_out_while_the_server_is_away(
    make_queue: MakeQueue, start_server: StartServer
) -> None:
    """As GitBridge's fallback was meant to; `cleanup` on a timer changes nothing of that."""
    server = start_server(appendonly="yes")
    queue = make_queue(server.url, type="resilient", enqueue_timeout=0.3, timeout=0.2)
    assert await queue.enqueue(event(1))
    await asyncio.to_thread(server.kill)
    # By now it is noticed: what had been sent and not answered would wait for the server, which may have it.
    assert await queue.dequeue() is None
    assert await queue.enqueue(event(2))
    await queue.cleanup()
    assert await queue.dequeue() == event(2)
    await asyncio.to_thread(server.start)
    assert await wait_until(lambda: queue.dequeue(timeout=1), 30) == event(1)


async def test_cleanup_during_a_lost_connection_neither_loses_nor_repeats(
    make_queue: MakeQueue, start_server: StartServer, proxy_to: ProxyTo
) -> None:
    """The acks that it sends get no reply; they are sent again, and what they confirm does not run twice."""
    server = start_server()
    proxy = proxy_to(server)
    queue = make_queue(proxy.url, enqueue_timeout=0.3)
    for each in events(3):
        await queue.enqueue(each)
    assert [await queue.dequeue() for _ in range(2)] == [event(0), event(1)]
    proxy.cut()
    await queue.cleanup()
    assert await queue.dequeue(timeout=5) == event(2)
    assert await queue.dequeue(timeout=0.1) is None
    await queue.stop()
    other = RedisEventQueue(queue.queue.settings)  # type: ignore[attr-defined]
    assert await other.dequeue(timeout=0.1) is None
    await other.cleanup()
