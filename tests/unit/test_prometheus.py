"""Metrics as Prometheus has them, without a server: names, what a registry shows, the page of a process."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from streams_queue import QueueFactory, Reject, Worker
from streams_queue.errors import ConfigError, UsageError
from streams_queue.listening import listen
from streams_queue.messages import QueueStats
from streams_queue.monitoring import page as pages
from streams_queue.monitoring.page import MetricsPage
from streams_queue.telemetry.names import COUNTERS, EVENTS, HISTOGRAMS, PROCESS_GAUGES, QUEUE_GAUGES, UP
from streams_queue.telemetry.prometheus import QueueMetrics, series_name
from tests.support.builders import events, memory_config
from tests.support.pages import Samples, ask
from tests.support.processes import CHECKOUT

QUEUE = {"messaging_system": "asyncio", "messaging_destination_name": "gitbridge:events"}


def shown(registry: CollectorRegistry) -> Samples:
    """Return what a registry shows."""
    return Samples(generate_latest(registry).decode())


# --- names -------------------------------------------------------------------------------------------------------


def test_the_names_are_those_that_opentelemetry_gives_them_for_prometheus() -> None:
    """Dots become underscores, units are written out, counters end in _total: rules hold for both ways."""
    names = {series_name(metric) for metric in (*COUNTERS, *QUEUE_GAUGES, *PROCESS_GAUGES, *HISTOGRAMS, UP, EVENTS)}
    assert names >= {
        "redis_queue_depth",
        "redis_operation_latency_milliseconds_bucket",
        "redis_error_rate_total",
        "messaging_process_duration_seconds_bucket",
        "streams_queue_oldest_waiting_age_seconds",
        "streams_queue_operations_total",
        "streams_queue_up",
    }
    assert not [name for name in names if not re.fullmatch(r"[a-z_]+", name)]


def test_the_reference_names_every_metric_as_prometheus_does() -> None:
    """And says who exposes it."""
    page = (CHECKOUT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (exporter|process) \|$", page, re.MULTILINE)
    of_queue, of_process = (*QUEUE_GAUGES, UP, EVENTS), (*COUNTERS, *PROCESS_GAUGES, *HISTOGRAMS)
    assert sorted(rows) == sorted(
        [(metric.name, series_name(metric), "exporter") for metric in of_queue]
        + [(metric.name, series_name(metric), "process") for metric in of_process]
    )


# --- a registry --------------------------------------------------------------------------------------------------


async def test_a_registry_shows_what_a_process_does() -> None:
    """Counts and durations, also once the queue is gone; nothing of what the queue is as a whole."""
    registry = CollectorRegistry()

    async def handle(event: dict[str, int]) -> None:
        if event["n"] == 2:
            worker.stop()
            raise Reject("no good")

    async with QueueFactory.create_queue(memory_config(), registry=registry) as queue:
        await queue.enqueue_many(events(3))
        worker = Worker(queue, handle, concurrency=1)
        await worker.run()
        during = shown(registry)
    after = shown(registry)

    for samples in (during, after):
        assert samples.values("messaging_client_sent_messages_total", **QUEUE) == [3]
        assert samples.values("streams_queue_acked_total", **QUEUE) == [2]
        assert samples.total("streams_queue_dead_lettered_total", streams_queue_reason="other") == 1
        assert samples.values("messaging_process_duration_seconds_count", streams_queue_end="processed") == [2]
        buckets = samples.values("messaging_process_duration_seconds_bucket", streams_queue_end="processed")
        assert buckets == sorted(buckets)
        assert buckets[-1] == 2
        assert 0 < samples.total("messaging_process_duration_seconds_sum") < 60
    assert not after.names() & {series_name(metric) for metric in (*QUEUE_GAUGES, UP, EVENTS)}


async def test_what_never_happened_is_shown_as_0() -> None:
    """Prometheus sees no rise in a series that begins; an alert on a first loss needs the 0 before it."""
    registry = CollectorRegistry()
    async with QueueFactory.create_queue(memory_config(), registry=registry) as queue:
        await queue.stats()
        await queue.enqueue(events(1)[0])
        samples = shown(registry)
    assert samples.values("redis_error_rate_total", **QUEUE) == [0]
    assert samples.values("streams_queue_lost_total", streams_queue_reason="deleted") == [0]


async def test_a_registry_needs_no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is switched off, nothing is sent, and the registry shows all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    registry, before = CollectorRegistry(), set(threading.enumerate())
    config = memory_config(telemetry={"enabled": False})
    async with QueueFactory.create_queue(config, registry=registry) as queue:
        await queue.enqueue(events(1)[0])
        assert set(threading.enumerate()) - before == set()
        assert shown(registry).values("messaging_client_sent_messages_total") == [1]


async def test_queues_of_one_registry_add_up() -> None:
    """Two objects of one queue are one series; another queue is another."""
    registry = CollectorRegistry()
    made = [QueueFactory.create_queue(memory_config(name=name), registry=registry) for name in ("a", "a", "b")]
    for queue in made:
        await queue.enqueue(events(1)[0])
        await queue.cleanup()
    samples = shown(registry)
    values = {
        name: samples.values("messaging_client_sent_messages_total", messaging_destination_name=name)
        for name in ("gitbridge:a", "gitbridge:b")
    }
    assert values == {"gitbridge:a": [2], "gitbridge:b": [1]}


def test_queues_of_one_registry_have_the_same_buckets() -> None:
    """One series cannot have two sets of them; that is said before the first event."""
    registry = CollectorRegistry()
    QueueFactory.create_queue(memory_config(), registry=registry)
    others = memory_config() | {"metrics": [{"name": "redis_operation_latency", "type": "histogram", "buckets": [7]}]}
    with pytest.raises(ConfigError, match="same buckets"):
        QueueFactory.create_queue(others, registry=registry)


def test_names_that_are_taken_are_refused() -> None:
    """The registry is told them beforehand, and says which."""
    registry = CollectorRegistry()
    registry.register(QueueMetrics(list))
    with pytest.raises(ValueError, match="redis_queue_depth"):
        registry.register(QueueMetrics(list))


FORKING = f"""
import asyncio, os
from prometheus_client import CollectorRegistry, generate_latest
from streams_queue import QueueFactory
registry = CollectorRegistry()
async def use():
    async with QueueFactory.create_queue({memory_config()!r}, registry=registry) as queue:
        await queue.enqueue({{"n": 1}})
        await queue.dequeue()
def show(who):
    lines = generate_latest(registry).decode().splitlines()
    print(who, *[line.split()[-1] for line in lines if line.startswith("messaging_client_sent")], flush=True)
asyncio.run(use())
child = os.fork()
if child == 0:
    show("child")
    asyncio.run(use())
    show("child")
    os._exit(0)
os.waitpid(child, 0)
show("parent")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_counts_anew() -> None:
    """What its parent has counted is the parent's to tell."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["child", "child 1.0", "parent 1.0"]


def test_a_queue_whose_server_does_not_answer_is_down_and_has_no_figures() -> None:
    """An old depth would be worse than none."""
    labels = (("messaging.destination.name", "a"),)
    known = QueueStats(waiting=3, in_flight=2, delayed=1, dead=0, max_size=10, totals={"lost": 0, "acked": 7})
    registry = CollectorRegistry()
    registry.register(QueueMetrics(lambda: [(labels, known), ((("messaging.destination.name", "b"),), None)]))
    samples = shown(registry)

    assert samples.values("streams_queue_up", messaging_destination_name="a") == [1]
    assert samples.values("streams_queue_up", messaging_destination_name="b") == [0]
    assert samples.values("redis_queue_depth") == [3]
    assert samples.values("streams_queue_max_size") == [10]
    assert samples.values("streams_queue_events_total", streams_queue_kind="acked") == [7]
    # No consumer was ever seen: no age, rather than a wrong one.
    assert samples.values("streams_queue_consumers_idle_seconds") == []
    assert samples.values("streams_queue_oldest_waiting_age_seconds") == [0]


# --- the page ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(why_not_ready: Callable[[], str | None] = lambda: None) -> AsyncIterator[tuple[MetricsPage, int]]:
    """Serve a page on a free port."""

    async def ready() -> str | None:
        return why_not_ready()

    with listen("127.0.0.1", 0, "The test") as listening:
        page = MetricsPage(listening)
        async with page.served(ready):
            yield page, listening.getsockname()[1]


async def get(port: int, path: str) -> tuple[int, str]:
    """Ask a page while the event loop goes on."""
    return await asyncio.to_thread(ask, port, path)


async def test_the_page_has_metrics_and_probes() -> None:
    """And nothing else."""
    async with served() as (_, port):
        status, text = await get(port, "/metrics?name[]=process_cpu_seconds_total")
        assert (status, Samples(text).names()) == (200, {"process_cpu_seconds_total"})
        assert await get(port, "/healthz") == (200, "ok\n")
        assert await get(port, "/readyz") == (200, "ok\n")
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/metrics/../etc"))[0] == 404


async def test_it_says_why_it_is_not_ready() -> None:
    """Alive all the same."""
    reasons: list[str | None] = ["the moon is wrong", None]
    async with served(lambda: reasons.pop(0)) as (_, port):
        assert await get(port, "/readyz") == (503, "the moon is wrong\n")
        assert await get(port, "/readyz") == (200, "ok\n")
        assert await get(port, "/healthz") == (200, "ok\n")


async def test_a_blocked_event_loop_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, which need no event loop, are told even then."""
    monkeypatch.setattr(pages, "_LOOP_PATIENCE", 0.2)
    answers: list[tuple[int, str]] = []
    async with served() as (_, port):
        asking = threading.Thread(target=lambda: answers.extend(ask(port, path) for path in ("/healthz", "/metrics")))
        asking.start()
        while len(answers) < 2 and asking.is_alive():
            time.sleep(0.01)  # noqa: ASYNC251 - blocking the event loop is the test
        asking.join()
        monkeypatch.setattr(pages, "_LOOP_PATIENCE", 60)
        assert (await get(port, "/healthz"))[0] == 200
    assert answers[0] == (503, "the event loop does not respond within 0.2 s\n")
    assert answers[1][0] == 200


async def test_an_error_in_a_probe_is_no_answer_of_yes(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the page goes on."""

    def fail() -> str | None:
        raise RuntimeError("hunter2")

    async with served(fail) as (_, port):
        status, text = await get(port, "/readyz")
        assert (status, "hunter2" in text) == (500, False)
        assert (await get(port, "/healthz"))[0] == 200
    assert "hunter2" in caplog.text


async def test_a_collector_that_fails_costs_one_answer() -> None:
    """And no thread."""

    class Broken(Collector):
        def describe(self) -> list[object]:
            return []

        def collect(self) -> list[object]:  # type: ignore[override]
            raise RuntimeError("no")

    async with served() as (page, port):
        page.registry.register(Broken())
        assert (await get(port, "/metrics"))[0] == 500
        assert (await get(port, "/healthz"))[0] == 200


async def test_only_get_is_known() -> None:
    """Nothing can be changed here."""

    def post(port: int) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("POST", "/metrics", b"{}")
            answer = connection.getresponse()
            return answer.status, answer.getheader("Server")
        finally:
            connection.close()

    async with served() as (_, port):
        assert await asyncio.to_thread(post, port) == (501, "streams-queue")


async def test_connections_that_say_nothing_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the most there may be at a time they are closed; those that are left let others in."""
    monkeypatch.setattr(pages, "_MOST_CONNECTIONS", 2)
    monkeypatch.setattr(pages._Handler, "timeout", 60)
    async with served() as (_, port):
        silent = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(3)]
        assert await asyncio.to_thread(silent[2].recv, 1) == b""
        for connection in silent:
            connection.close()
        while True:
            try:
                assert (await get(port, "/healthz"))[0] == 200
            except (ConnectionError, http.client.RemoteDisconnected):
                continue
            break


async def test_nothing_of_it_is_left_behind() -> None:
    """Neither a thread nor the port."""
    before = set(threading.enumerate())
    async with served() as (_, port):
        await get(port, "/metrics")
    assert [thread for thread in set(threading.enumerate()) - before if "metrics" in thread.name] == []
    listen("127.0.0.1", port, "The test").close()


# --- where it listens --------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named() -> None:
    """With who wanted it and why not."""
    with listen("127.0.0.1", 0, "The first") as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UsageError) as raised:
            listen("127.0.0.1", port, "The second")
    assert str(raised.value) == f"The second cannot listen at 127.0.0.1, port {port}: Address already in use"


@pytest.mark.parametrize("address", ["no.such.host.invalid", "a" * 100, "\udc80"])
def test_a_name_that_leads_nowhere_is_named(address: str) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(UsageError, match="The page cannot listen at"):
        listen(address, 0, "The page")
