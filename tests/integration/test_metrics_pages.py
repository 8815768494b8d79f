"""`exporter` and `worker --metrics-port` on a real server: what they tell, and when they are ready."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streams_queue import QueueFactory, RedisEventQueue
from tests.conftest import MakeConfig, MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.otlp import HttpReceiver
from tests.support.pages import PageCommand, Samples
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Start = Callable[..., PageCommand]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start commands that serve pages on free ports, `start(config, "exporter")`, and wait until they do."""
    running: list[PageCommand] = []

    def begin(config: Any, *arguments: str, pages: int = 1) -> PageCommand:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        command = PageCommand(folder, config, *arguments)
        running.append(command)
        command.until_served(pages)
        return command

    yield begin
    for command in running:
        command.stop()


def exporter(start: Start, config: Any) -> PageCommand:
    """Start an exporter."""
    return start(config, "exporter", "--port", "0")


def worker(start: Start, config: Any, *options: str, handler: str = "handle", pages: int = 1) -> PageCommand:
    """Start a worker with a page."""
    return start(config, "worker", f"my_handlers:{handler}", "--metrics-port", "0", *options, pages=pages)


async def use(config: dict[str, Any], action: Callable[[RedisEventQueue], Any]) -> Any:
    """Do something with the queue of a configuration."""
    async with RedisEventQueue(config) as queue:
        return await action(queue)


# --- the queue as a whole ----------------------------------------------------------------------------------------


async def test_the_exporter_tells_what_the_queue_is(
    start: Start, make_config: MakeConfig, make_redis_queue: MakeQueue, namespace: str
) -> None:
    """All figures of `stats`, under the queue's name, and it takes no event."""
    queue = make_redis_queue(max_size=50)
    await queue.enqueue_many(events(4))
    await queue.enqueue(event(5), delay=60)
    first, _second = await queue.receive(2)
    await queue.dead_letter(first, "no good")
    command = exporter(start, make_config(max_size=50))
    labels = {"messaging_system": "redis", "messaging_destination_name": f"{namespace}:events"}

    samples = command.samples()
    figures = {
        name: samples.values(f"streams_queue_{name}", **labels)
        for name in ("up", "delayed", "dead", "max_size", "consumers")
    }
    assert figures == {"up": [1], "delayed": [1], "dead": [1], "max_size": [50], "consumers": [1]}
    # What the other consumer has prefetched is in flight, as far as anybody else can tell.
    waiting, in_flight = (samples.total(name, **labels) for name in ("redis_queue_depth", "streams_queue_in_flight"))
    assert waiting + in_flight == 3
    assert in_flight >= 1
    # The consumer's housekeeping leaves its first sign of life a moment after it begins.
    (idle,) = await wait_until(lambda: command.samples().values("streams_queue_consumers_idle_seconds", **labels), 60)
    assert 0 <= idle < 60
    assert samples.values("streams_queue_events_total", streams_queue_kind="enqueued") == [5]
    assert samples.values("streams_queue_events_total", streams_queue_kind="lost") == [0]
    assert command.ask("/readyz") == command.ask("/healthz") == (200, "ok\n")
    assert command.stop() == 0


@pytest.mark.slow
async def test_ten_workers_do_not_report_the_depth_ten_times(
    start: Start, make_config: MakeConfig, make_redis_queue: MakeQueue
) -> None:
    """They tell what they did, which adds up; how long the queue is, only the exporter tells."""
    config = make_config(lease=60)
    workers = [worker(start, config) for _ in range(2)]
    await make_redis_queue().enqueue_many([*events(20), event(20, bad=True)])
    pages = [*workers, exporter(start, config)]

    def total(name: str) -> float:
        return sum(page.samples().total(name) for page in pages)

    await wait_until(lambda: total("streams_queue_acked_total") == 20, 60)
    assert sum(len(page.samples().values("redis_queue_depth")) for page in pages) == 1
    assert [page.samples().values("redis_queue_depth") for page in workers] == [[], []]
    await wait_until(
        lambda: pages[-1].samples().total("streams_queue_events_total", streams_queue_kind="dead") == 1, 60
    )
    assert total("streams_queue_dead_lettered_total") == 1
    assert total("messaging_client_consumed_messages_total") >= 21


async def test_the_exporter_outlives_its_server(
    start: Start, start_server: StartServer, make_config: MakeConfig
) -> None:
    """Whichever begins first: while it is away the queue is down and has no figures, then it has them."""
    server = start_server(appendonly="yes", appendfsync="always")
    config = make_config(server.url, enqueue_timeout=0.5)
    await use(config, lambda queue: queue.enqueue_many(events(3)))
    await asyncio.to_thread(server.kill)
    command = exporter(start, config)
    assert command.samples().values("streams_queue_up") == [0]

    await asyncio.to_thread(server.restart)
    await wait_until(lambda: command.samples().values("redis_queue_depth") == [3], 60)

    await asyncio.to_thread(server.kill)
    away = command.samples()
    assert (away.values("streams_queue_up"), away.values("redis_queue_depth")) == ([0], [])
    status, why = command.ask("/readyz")
    assert status == 503
    assert why.startswith("the queue's server does not answer")
    assert command.ask("/healthz") == (200, "ok\n")

    await asyncio.to_thread(server.restart)
    await wait_until(lambda: command.samples().values("streams_queue_up") == [1], 60)
    assert command.samples().values("redis_queue_depth") == [3]
    assert command.ask("/readyz") == (200, "ok\n")


async def test_the_exporter_describes_several_queues_and_shows_no_password(
    start: Start, start_server: StartServer, make_config: MakeConfig, namespace: str
) -> None:
    """One configuration for each; servers that are away or refuse leave the figures of the others alone."""
    locked = start_server(requirepass="correct-horse")
    here = make_config(name="here")
    elsewhere = make_config("redis://127.0.0.1:1/0", name="elsewhere", enqueue_timeout=0.5)
    refused = make_config(f"redis://:hunter2@127.0.0.1:{locked.port}/0", name="refused")
    await use(here, lambda queue: queue.enqueue_many(events(2)))
    command = exporter(start, [here, elsewhere, refused])

    samples = command.samples()
    up = {
        name: samples.values("streams_queue_up", messaging_destination_name=f"{namespace}:{name}")
        for name in ("here", "elsewhere", "refused")
    }
    assert up == {"here": [1], "elsewhere": [0], "refused": [0]}
    assert samples.values("redis_queue_depth") == [2]
    pages = [command.ask(path) for path in ("/metrics", "/readyz", "/healthz", "/")]
    assert [status for status, _ in pages] == [200, 503, 200, 404]
    command.stop()
    said = "".join([*(text for _, text in pages), *command.log])
    assert "hunter2" not in said
    assert "correct-horse" not in said


# --- one worker --------------------------------------------------------------------------------------------------


async def test_a_worker_tells_what_it_did(start: Start, make_config: MakeConfig, make_redis_queue: MakeQueue) -> None:
    """The plan's latency, in its buckets, and its errors; how long handlers took; its own memory."""
    config = make_config(retry_policy={"max_retries": 0, "base_delay": 0})
    config["metrics"] = [{"name": "redis_operation_latency", "type": "histogram", "buckets": [1, 2, 5, 10, 20, 50]}]
    command = worker(start, config)
    await make_redis_queue().enqueue_many([*events(5), event(5, bad=True)])
    await wait_until(lambda: command.samples().total("streams_queue_acked_total") == 5, 60)
    await wait_until(lambda: command.samples().total("streams_queue_dead_lettered_total") == 1, 60)

    samples = command.samples()
    bounds = {labels["le"] for name, labels, _ in samples.all if name == "redis_operation_latency_milliseconds_bucket"}
    assert bounds == {"1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "+Inf"}
    assert samples.total("redis_operation_latency_milliseconds_count", messaging_operation_name="dead_letter") == 1
    assert samples.total("streams_queue_operations_total", messaging_operation_name="read") >= 1
    assert samples.total("redis_error_rate_total") == 0
    ends = {
        end: samples.total("messaging_process_duration_seconds_count", streams_queue_end=end)
        for end in ("processed", "failed")
    }
    assert ends == {"processed": 5, "failed": 1}
    assert samples.total("process_resident_memory_bytes") > 1e6


async def test_a_worker_is_ready_while_its_server_answers(
    start: Start, start_server: StartServer, make_config: MakeConfig
) -> None:
    """Alive all the time; what failed meanwhile is counted."""
    server = start_server()
    command = worker(start, make_config(server.url))
    await wait_until(lambda: command.ask("/readyz") == (200, "ok\n"), 60)

    await asyncio.to_thread(server.kill)
    _status, why = await wait_until(lambda: (answer := command.ask("/readyz"))[0] == 503 and answer, 60)
    assert why.startswith("the queue's server does not answer")
    assert command.ask("/healthz") == (200, "ok\n")
    await wait_until(lambda: command.samples().total("redis_error_rate_total", error_type="BackendUnavailable"), 60)

    await asyncio.to_thread(server.restart)
    await wait_until(lambda: command.ask("/readyz") == (200, "ok\n"), 60)
    assert command.stop() == 0


async def test_a_worker_that_is_stopping_is_alive_and_not_ready(
    start: Start, make_config: MakeConfig, make_redis_queue: MakeQueue, tmp_path: Path
) -> None:
    """Its page is there until the last handler has finished."""
    queue = make_redis_queue()
    await queue.enqueue(event(1))
    command = worker(start, make_config(), "--shutdown-timeout", "60", handler="wait")
    await wait_until((tmp_path / "0" / "begun").exists, 60)
    await wait_until(lambda: command.ask("/readyz") == (200, "ok\n"), 60)

    command.send(signal.SIGTERM)
    await wait_until(lambda: command.ask("/readyz") == (503, "the worker does not run, or is stopping\n"), 60)
    assert command.ask("/healthz") == (200, "ok\n")
    assert command.samples().total("messaging_client_consumed_messages_total") == 1
    (tmp_path / "0" / "go").touch()
    assert await asyncio.to_thread(command.ended) == 0
    with pytest.raises(ConnectionRefusedError):
        command.ask("/healthz")


async def test_a_worker_of_an_asyncio_queue_needs_no_server_to_be_ready(start: Start, make_config: MakeConfig) -> None:
    """It has none."""
    command = worker(start, make_config(type="asyncio"))
    await wait_until(lambda: command.ask("/readyz") == (200, "ok\n"), 60)
    assert command.samples().values("streams_queue_fallback_active") == []


async def test_a_producer_that_has_fallen_back_says_so(start_server: StartServer, make_config: MakeConfig) -> None:
    """The gauge of which an alert is made is 1 meanwhile, and 0 before and after."""
    server, registry = start_server(), CollectorRegistry()

    def active() -> tuple[list[float], list[float]]:
        samples = Samples(generate_latest(registry).decode())
        return samples.values("streams_queue_fallback_active"), samples.values("streams_queue_fallback_held")

    config = make_config(server.url, type="resilient", enqueue_timeout=0.5)
    async with QueueFactory.create_queue(config, registry=registry) as queue:
        await queue.enqueue(event(1))
        assert active() == ([0], [0])
        await asyncio.to_thread(server.kill)
        await queue.enqueue(event(2))
        assert active() == ([1], [1])
        await asyncio.to_thread(server.restart)
        await wait_until(lambda: active() == ([0], [0]), 60)


# --- several processes, several ways -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process groups on this system")
async def test_each_process_has_a_port_of_its_own(
    start: Start, make_config: MakeConfig, make_redis_queue: MakeQueue
) -> None:
    """What they did adds up; one that takes a dead one's place takes its port, which nobody else could have got."""
    command = worker(start, make_config(), "--processes", "2", pages=2)
    ports = set(command.ports)
    assert len(ports) == 2
    for port in ports:
        await wait_until(lambda port=port: command.ask("/readyz", port) == (200, "ok\n"), 60)
    await make_redis_queue().enqueue_many(events(30))
    await wait_until(lambda: sum(command.samples(port).total("streams_queue_acked_total") for port in ports) == 30, 60)

    victim = psutil.Process(command.pid).children()[0].pid
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: len(command.ports) == 3, 60, what=lambda: command.log)
    assert set(command.ports) == ports
    for port in ports:
        await wait_until(lambda port=port: command.ask("/readyz", port) == (200, "ok\n"), 60)
    assert command.stop() == 0


async def test_otlp_and_prometheus_side_by_side(make_config: MakeConfig) -> None:
    """One queue tells both, and both the same."""
    receiver, registry = HttpReceiver(), CollectorRegistry()
    try:
        config = make_config(telemetry={"endpoint": receiver.endpoint, "protocol": "http", "interval": 60})
        async with QueueFactory.create_queue(config, registry=registry) as queue:
            await queue.enqueue_many(events(7))
            samples = Samples(generate_latest(registry).decode())
    finally:
        receiver.stop()
    assert samples.values("messaging_client_sent_messages_total") == [7]
    assert receiver.received.total("messaging.client.sent.messages") == 7
    assert samples.total("redis_operation_latency_milliseconds_count", messaging_operation_name="enqueue") == 1
    exported = receiver.received.latest()["redis_operation_latency"].points
    assert [point.value.count for point in exported if point.labels["messaging.operation.name"] == "enqueue"] == [1]
