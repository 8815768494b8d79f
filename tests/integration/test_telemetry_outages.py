"""A collector that hangs or is not there: the queue does not feel it, and the log has one line."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streams_queue import QueueFactory, Worker
from streams_queue.telemetry.exporting import Outage
from tests.conftest import MakeConfig
from tests.support.builders import event, events
from tests.support.otlp import RECEIVERS, GrpcReceiver, HttpReceiver
from tests.support.processes import Programs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Receiver = GrpcReceiver | HttpReceiver
PROTOCOLS = ("grpc", "http")
# What a shutdown may take longer because of a collector that does not answer.
BOUND = 5.0


@pytest.fixture
def hanging_receiver() -> Iterator[Callable[[str], Receiver]]:
    """Start a collector that takes what it is sent and does not answer; at the end it does.

    A shutdown that cleanup did not wait for has ended then. The exporters draw their waits from the global random
    generator, which a property test must have to itself.
    """
    before = set(threading.enumerate())
    receivers: list[Receiver] = []

    def start(protocol: str) -> Receiver:
        receiver = RECEIVERS[protocol]()
        receiver.received.answers.clear()
        receivers.append(receiver)
        return receiver

    yield start
    for receiver in receivers:
        receiver.received.answers.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("streams_queue."):
            thread.join(30)
            assert not thread.is_alive(), thread
    for receiver in receivers:
        receiver.stop()


@pytest.fixture(params=PROTOCOLS)
def hanging(request: pytest.FixtureRequest, hanging_receiver: Callable[[str], Receiver]) -> Receiver:
    """One that speaks this protocol."""
    return hanging_receiver(request.param)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def configured(make_config: MakeConfig, endpoint: str, protocol: str, **telemetry: Any) -> dict[str, Any]:
    """Return a configuration that exports quickly and traces everything."""
    quick = {"interval": 0.1, "sampling_ratio": 1}
    return make_config(telemetry={"endpoint": endpoint, "protocol": protocol, **quick, **telemetry})


async def work_through(config: dict[str, Any], count: int) -> float:
    """Enqueue and handle so many events; return how many seconds that took, without the cleanup."""
    handled = 0

    async def handle(_: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            worker.stop()

    async with QueueFactory.create_queue(config) as queue:
        began = time.monotonic()
        await queue.enqueue_many(events(count))
        worker = Worker(queue, handle, concurrency=50)
        await worker.run()
        return time.monotonic() - began


def of_telemetry(caplog: pytest.LogCaptureFixture, endpoint: str) -> list[tuple[str, int]]:
    """Return name and level of the log's lines that concern telemetry, from info on.

    Those of ours about another collector are left out: an earlier test's may be told of late.
    """
    ours, others = "streams_queue.telemetry", ("opentelemetry", "urllib3", "grpc")
    return [
        (record.name, record.levelno)
        for record in caplog.records
        if record.levelno >= logging.INFO
        and (record.name.startswith(others) or (record.name.startswith(ours) and endpoint in record.getMessage()))
    ]


async def test_a_collector_that_hangs_is_not_felt(hanging: Receiver, make_config: MakeConfig) -> None:
    """All is handled while it hangs, and cleanup waits a bounded time for it."""
    config = configured(make_config, hanging.endpoint, hanging.protocol, timeout=30)
    queue = QueueFactory.create_queue(config)
    await queue.enqueue(event(0))
    await wait_until(lambda: hanging.received.requests > 0)

    receipts = await queue.enqueue_many(events(1000))
    taken = 0
    while taken < 1001:
        deliveries = await queue.receive(100)
        queue.ack_soon(*deliveries)
        taken += len(deliveries)
    began = time.monotonic()
    longest, ticking = 0.0, True

    async def tick() -> None:
        nonlocal longest
        while ticking:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    ticks = asyncio.create_task(tick())
    await queue.cleanup()
    ticking = False
    await ticks

    assert all(receipt.held for receipt in receipts)
    assert 1.0 < time.monotonic() - began < BOUND
    assert longest < 1.0, "the event loop stood still during cleanup"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_collector_that_is_not_there_costs_one_line(
    protocol: str,
    nobody: str,
    make_config: MakeConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over many attempts, of metrics and of traces; cleanup does not try for long either."""
    caplog.set_level(logging.INFO)
    attempts: Counter[str] = Counter()
    note = Outage.note

    def counted(outage: Outage, signal: Any, *, failed: bool) -> None:
        attempts[signal] += 1
        note(outage, signal, failed=failed)

    monkeypatch.setattr(Outage, "note", counted)
    queue = QueueFactory.create_queue(configured(make_config, nobody, protocol, timeout=0.2))
    await queue.enqueue(event(0))
    await wait_until(lambda: attempts["metrics"] >= 4 and attempts["traces"] >= 1)
    began = time.monotonic()
    await queue.cleanup()

    assert of_telemetry(caplog, nobody) == [("streams_queue.telemetry.exporting", logging.WARNING)]
    assert nobody in caplog.text
    assert time.monotonic() - began < BOUND


async def test_when_it_answers_again_the_counts_are_complete_and_one_line_says_so(
    hanging_receiver: Callable[[str], Receiver], make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Counters are totals: what could not be sent meanwhile is in the next export."""
    caplog.set_level(logging.INFO)
    receiver = hanging_receiver("http")
    config = configured(make_config, receiver.endpoint, "http", timeout=0.2, sampling_ratio=0)
    queue = QueueFactory.create_queue(config)
    await queue.enqueue_many(events(5))
    await wait_until(lambda: of_telemetry(caplog, receiver.endpoint))
    receiver.received.exports.clear()
    receiver.received.answers.set()

    await wait_until(lambda: len(of_telemetry(caplog, receiver.endpoint)) == 2)
    await queue.enqueue(event(5))
    await queue.cleanup()

    assert [level for _, level in of_telemetry(caplog, receiver.endpoint)] == [logging.WARNING, logging.INFO]
    assert receiver.received.total("messaging.client.sent.messages") == 6


async def test_a_hanging_collector_leaves_the_throughput_alone(
    hanging_receiver: Callable[[str], Receiver], make_config: MakeConfig
) -> None:
    """Waiting for it only once would take the 30 s of its timeout; what telemetry costs, benchmarks say."""
    receiver = hanging_receiver("http")
    on = configured(make_config, receiver.endpoint, "http", timeout=30, sampling_ratio=0.01)
    off = make_config(telemetry={"enabled": False})
    await work_through(off, 500)
    without, with_it = await work_through(off, 3000), await work_through(on, 3000)

    assert with_it < 5 * without + 5


async def test_a_program_ends_although_the_collector_hangs_and_cleanup_was_forgotten(
    hanging: Receiver, make_config: MakeConfig, programs: Programs
) -> None:
    """The interpreter's end waits a bounded time, too."""
    config = configured(make_config, hanging.endpoint, hanging.protocol, timeout=30)
    program = programs("telemetry_forgotten", config=config, forks=False)
    await program.until(1)
    began = time.monotonic()
    code = await program.ended(3 * BOUND)
    took = time.monotonic() - began

    assert code == 0, program.describe()
    # gRPC may notice the end before the program does, and asyncio may complain of a loop that closed over a look.
    told = [line for line in program.errors if "Telemetry" in line]
    assert told in ([], [f"Telemetry (metrics) cannot be sent to {hanging.endpoint}; the queue goes on\n"])
    assert took < BOUND


async def test_what_a_forgotten_queue_has_left_is_sent_at_the_end(make_config: MakeConfig, programs: Programs) -> None:
    """The last export comes with the interpreter's end."""
    receiver = HttpReceiver()
    program = programs(
        "telemetry_forgotten", config=configured(make_config, receiver.endpoint, "http", interval=60), forks=False
    )
    assert await program.ended() == 0, program.describe()
    receiver.stop()

    assert receiver.received.total("messaging.client.sent.messages") == 2
    assert len(receiver.received.named("send")) == 2


async def test_a_forked_child_tells_of_itself_and_not_of_its_parent(
    make_config: MakeConfig, programs: Programs
) -> None:
    """Under an instance id of its own; what the parent had counted is told by the parent alone."""
    receiver = HttpReceiver()
    config = configured(make_config, receiver.endpoint, "http")
    program = programs("telemetry_forgotten", config=config, forks=True)
    assert await program.ended() == 0, program.describe()
    receiver.stop()

    assert sorted(program.journal) == [["child"], ["parent"]]
    last: dict[str, float] = {}
    for export in receiver.received.exports:
        for point in export["messaging.client.sent.messages"].points:
            last[point.resource["service.instance.id"]] = point.value
    assert sorted(last.values()) == [2, 3]
    assert len(receiver.received.named("send")) == 5
