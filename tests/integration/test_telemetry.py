"""Telemetry: what a real OTLP receiver gets, over gRPC and HTTP, from queues made by the factory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
import redis.asyncio

from streams_queue import QueueFactory, Reject, Worker
from streams_queue.queue import Queue
from tests.conftest import MakeConfig
from tests.support.builders import Keys, event, events
from tests.support.otlp import RECEIVERS, Exported, GrpcReceiver, HttpReceiver, Received
from tests.support.processes import Programs
from tests.support.taking import receive_exactly
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Receiver = GrpcReceiver | HttpReceiver
Observe = Callable[..., Queue]
PLAN_METRICS = [
    {"name": "redis_queue_depth", "type": "gauge", "threshold": 1000},
    {"name": "redis_operation_latency", "type": "histogram", "buckets": [1, 2, 5, 10, 20, 50]},
    {"name": "redis_error_rate", "type": "counter", "alert_threshold": "1%"},
]
CUMULATIVE = 2
CLIENT, PRODUCER, CONSUMER = 3, 4, 5


@pytest.fixture(params=["grpc", "http"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    """A collector for one of the protocols."""
    started = RECEIVERS[request.param]()
    yield started
    started.stop()


@pytest.fixture
def http_receiver() -> Iterator[HttpReceiver]:
    """A collector where the protocol does not matter."""
    started = HttpReceiver()
    yield started
    started.stop()


@pytest.fixture
async def observe(make_config: MakeConfig) -> AsyncIterator[Observe]:
    """Make queues by the factory with a collector, `observe(receiver, sampling_ratio=1, queue={"name": "a"})`."""
    made: list[Queue] = []

    def make(receiver: Receiver, queue: dict[str, Any] | None = None, **telemetry: Any) -> Queue:
        config = configured(make_config, receiver, queue, **telemetry)
        made.append(QueueFactory.create_queue(config))
        return made[-1]

    yield make
    for queue in made:
        await queue.cleanup()


def configured(
    make_config: MakeConfig, receiver: Receiver, queue: dict[str, Any] | None = None, **telemetry: Any
) -> dict[str, Any]:
    """Return a configuration as the plan writes it, with quick exports to a receiver."""
    given = {"endpoint": receiver.endpoint, "protocol": receiver.protocol, "interval": 0.1, **telemetry}
    return make_config(telemetry=given, **(queue or {})) | {"metrics": PLAN_METRICS}


async def latest(received: Received, name: str, wanted: Callable[[Exported], bool]) -> Exported:
    """Wait until a metric is exported as wanted, and return it."""

    def found() -> Exported | None:
        metric = received.latest().get(name)
        return metric if metric is not None and wanted(metric) else None

    metric: Exported = await wait_until(found, what=lambda: f"{name}: {received.latest().get(name)}")
    return metric


def value(metric: Exported) -> Any:
    """Return the only value of a metric."""
    (point,) = metric.points
    return point.value


# --- metrics -----------------------------------------------------------------------------------------------------


async def test_the_plans_three_metrics_arrive_as_the_plan_names_them(
    receiver: Receiver, observe: Observe, namespace: str
) -> None:
    """Name, type, unit and buckets of section 7.1; the depth is what waits."""
    queue = observe(receiver)
    assert all(receipt.held for receipt in await queue.enqueue_many(events(7)))
    received = receiver.received

    depth = await latest(received, "redis_queue_depth", lambda metric: value(metric) == 7)
    latency, errors = received.latest()["redis_operation_latency"], received.latest()["redis_error_rate"]

    assert [(metric.kind, metric.unit) for metric in (depth, latency, errors)] == [
        ("gauge", "{event}"),
        ("histogram", "ms"),
        ("sum", "{error}"),
    ]
    assert (errors.monotonic, errors.temporality, latency.temporality) == (True, CUMULATIVE, CUMULATIVE)
    assert value(errors) == 0
    labels = {"messaging.system": "redis", "messaging.destination.name": f"{namespace}:events"}
    assert depth.points[0].labels == labels
    enqueue = next(point for point in latency.points if point.labels["messaging.operation.name"] == "enqueue")
    assert enqueue.labels.items() > labels.items()
    assert list(enqueue.value.explicit_bounds) == [1, 2, 5, 10, 20, 50]
    assert enqueue.value.count == sum(enqueue.value.bucket_counts) == 1
    assert 0 < enqueue.value.sum < 10_000


async def test_buckets_are_those_of_the_configuration(http_receiver: HttpReceiver, make_config: MakeConfig) -> None:
    """The plan's list overrides what this package finds usual."""
    config = configured(make_config, http_receiver)
    config["metrics"] = [{"name": "redis_operation_latency", "type": "histogram", "buckets": [0.5, 100]}]
    async with QueueFactory.create_queue(config) as queue:
        await queue.enqueue(event(1))
        latency = await latest(http_receiver.received, "redis_operation_latency", lambda metric: bool(metric.points))
    assert {tuple(point.value.explicit_bounds) for point in latency.points} == {(0.5, 100.0)}


async def test_what_workers_do_is_counted(receiver: Receiver, observe: Observe) -> None:
    """Sent, consumed, acked, retried, buried and how long handlers took; all of it arrives with cleanup."""
    queue = observe(
        receiver, interval=60, queue={"retry_policy": {"max_retries": 1, "base_delay": 0.01}, "max_size": 3}
    )
    seen = 0

    async def handle(payload: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen == 4:
            worker.stop()
        if payload["n"] == 1:
            raise Reject("whatever it says")
        if payload["n"] == 2:
            raise ValueError("again")

    receipts = await queue.enqueue_many(events(4))
    worker = Worker(queue, handle, concurrency=1)
    await worker.run()
    await queue.cleanup()

    total = receiver.received.total
    assert [receipt.status for receipt in receipts] == ["accepted"] * 3 + ["full"]
    assert {
        name: total(name)
        for name in receiver.received.latest()
        if name.startswith(("messaging.client", "streams_queue.")) and name != "streams_queue.operations"
    } == {
        "messaging.client.sent.messages": 3,
        "messaging.client.consumed.messages": 4,
        "streams_queue.rejected": 1,
        "streams_queue.acked": 1,
        "streams_queue.retried": 1,
        "streams_queue.released": 0,
        "streams_queue.reclaimed": 0,
        "streams_queue.dead_lettered": 2,
        "streams_queue.lost": 0,
        "streams_queue.leases_lost": 0,
        "streams_queue.state_lost": 0,
        "streams_queue.fallbacks": 0,
    }
    assert total("streams_queue.dead_lettered", streams_queue_reason="other") == 1
    assert total("streams_queue.dead_lettered", streams_queue_reason="max_retries") == 1
    duration = receiver.received.latest()["messaging.process.duration"]
    assert (duration.kind, duration.unit) == ("histogram", "s")
    assert {point.labels["streams_queue.end"]: point.value.count for point in duration.points} == {
        "processed": 1,
        "rejected": 1,
        "failed": 2,
    }


async def test_the_figures_of_the_queue_arrive(http_receiver: HttpReceiver, observe: Observe) -> None:
    """Beside the depth: in flight, delayed, dead letters and the age of what waits longest."""
    queue = observe(http_receiver)
    await queue.enqueue_many(events(4))
    await queue.enqueue(event(5), delay=60)
    first, second = await queue.receive(2)
    await queue.dead_letter(first, "no good")
    received = http_receiver.received

    await latest(received, "streams_queue.dead", lambda metric: value(metric) == 1)
    await latest(received, "streams_queue.oldest_waiting.age", lambda metric: 0 < value(metric) < 60)
    figures = {name: value(received.latest()[name]) for name in ("redis_queue_depth", "streams_queue.in_flight")}
    assert figures == {"redis_queue_depth": 2, "streams_queue.in_flight": 1}
    assert value(received.latest()["streams_queue.delayed"]) == 1
    await queue.ack(second)


async def test_an_error_is_counted_by_operation_and_kind(
    http_receiver: HttpReceiver, observe: Observe, raw: redis.asyncio.Redis, keys: Keys
) -> None:
    """With the operations themselves, so that their share can be computed."""
    queue = observe(http_receiver)
    await queue.enqueue(event(1))
    await raw.delete(keys.stats)
    await raw.set(keys.stats, "somebody else's")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await queue.enqueue(event(2))

    received = http_receiver.received
    labels = {"messaging_operation_name": "enqueue", "error_type": "BackendRejected"}
    await wait_until(lambda: received.total("redis_error_rate", **labels))
    # However often it is asked again before the caller is told.
    attempts = received.total("streams_queue.operations", messaging_operation_name="enqueue")
    assert received.total("redis_error_rate", **labels) == attempts - 1
    await raw.delete(keys.stats)


async def test_ten_queues_do_not_report_the_depth_ten_times(receiver: Receiver, observe: Observe) -> None:
    """Of all that share a queue one reports its figures in every round; what each of them does is its own."""
    queues = [observe(receiver, service_name=f"worker-{number}") for number in range(10)]
    for number, queue in enumerate(queues):
        await queue.enqueue(event(number))
    received = receiver.received
    begin = len(received.exports)
    await wait_until(lambda: received.total("messaging.client.sent.messages") == 10)

    await wait_until(lambda: sum("redis_queue_depth" in export for export in received.exports[begin:]) >= 5)

    reporters = {
        point.resource["service.name"]
        for export in received.exports
        if "redis_queue_depth" in export
        for point in export["redis_queue_depth"].points
    }
    assert len(reporters) == 1
    senders = {
        point.resource["service.name"]
        for export in received.exports
        for point in export["messaging.client.sent.messages"].points
    }
    assert senders == {f"worker-{number}" for number in range(10)}
    # One look serves all exports of half a second; the first may be older than the last event.
    await wait_until(lambda: value(received.latest()["redis_queue_depth"]) == 10)


async def test_when_the_reporter_leaves_another_takes_over(http_receiver: HttpReceiver, observe: Observe) -> None:
    """At once after a cleanup; a crashed one's office expires, which the script's own test shows."""
    first, second = (observe(http_receiver, service_name=name) for name in ("first", "second"))
    received = http_receiver.received

    def reporter() -> str:
        metric = received.latest().get("redis_queue_depth")
        return metric.points[0].resource["service.name"] if metric else ""

    await first.enqueue(event(1))
    await wait_until(lambda: reporter() == "first")
    await second.enqueue(event(2))
    await first.cleanup()

    await wait_until(lambda: reporter() == "second")


async def test_an_asyncio_queue_is_measured_as_well(http_receiver: HttpReceiver, observe: Observe) -> None:
    """The dashboards of the plan's rollback show something, told apart by the system."""
    queue = observe(http_receiver, {"type": "asyncio"})
    await queue.enqueue_many(events(3))

    depth = await latest(http_receiver.received, "redis_queue_depth", lambda metric: value(metric) == 3)
    assert depth.points[0].labels["messaging.system"] == "asyncio"


async def test_a_resilient_queue_tells_what_it_holds_locally(
    http_receiver: HttpReceiver, make_config: MakeConfig
) -> None:
    """While the server is away; the queue's own figures are left out then."""
    config = configured(make_config, http_receiver, {"type": "resilient", "enqueue_timeout": 0.3})
    config["queue"]["redis_url"] = "redis://127.0.0.1:1/0"
    queue = QueueFactory.create_queue(config)
    await queue.enqueue_many(events(3))
    received = http_receiver.received

    await latest(received, "streams_queue.fallback.held", lambda metric: value(metric) == 3)
    assert received.total("streams_queue.fallbacks") == 1
    assert "redis_queue_depth" not in received.latest()
    await queue.cleanup()


@pytest.mark.parametrize("kind", ["redis", "resilient", "rollout"])
async def test_each_event_and_each_call_is_counted_once(
    http_receiver: HttpReceiver, observe: Observe, kind: str
) -> None:
    """Also by a queue that is made of others, whose verbs call each other."""
    sides = {"percentage": 100, "old": {}, "new": {"name": "new"}}
    queue = observe(
        http_receiver, {"type": kind, **({"rollout": sides} if kind == "rollout" else {})}, sampling_ratio=1
    )
    await queue.enqueue(event(1), event_id="a")
    await queue.enqueue_many(events(2), event_ids=["b", None])

    async def take() -> None:
        await queue.dequeue()
        await queue.ack(*await receive_exactly(queue, 2))

    await asyncio.create_task(take())
    await queue.cleanup()

    received = http_receiver.received
    assert received.total("messaging.client.sent.messages") == 3
    assert received.total("messaging.client.consumed.messages") == 3
    assert len(received.named("send")) == 2


# --- traces ------------------------------------------------------------------------------------------------------


async def test_a_trace_crosses_from_the_producer_to_a_handler_in_another_process(
    receiver: Receiver, observe: Observe, make_config: MakeConfig, programs: Programs, namespace: str
) -> None:
    """The handler's span is the child of the producer's, and linked to it; the handler runs inside."""
    queue = observe(receiver, sampling_ratio=1, service_name="producer")
    await queue.enqueue(event(1))
    config = configured(make_config, receiver, sampling_ratio=1, service_name="consumer")
    program = programs("telemetry_work", config=config, count=1)
    ((number, trace_id, span_id),) = await program.until(1)
    assert await program.ended() == 0, program.describe()
    await queue.cleanup()

    received = receiver.received
    ((send,), (process,), (receive,), (settle,)) = map(received.named, ("send", "process", "receive", "settle"))
    name = f"{namespace}:events"
    assert [span.name for span in (send, process, receive, settle)] == [
        f"{verb} {name}" for verb in ("send", "process", "receive", "settle")
    ]
    assert [span.kind for span in (send, process, receive, settle)] == [PRODUCER, CONSUMER, CLIENT, CLIENT]
    assert [span.resource["service.name"] for span in (send, process)] == ["producer", "consumer"]
    assert (send.parent_id, process.parent_id, settle.parent_id) == ("", send.span_id, process.span_id)
    assert process.links == receive.links == [(send.trace_id, send.span_id)]
    assert send.trace_id == process.trace_id == settle.trace_id != receive.trace_id
    assert (number, trace_id, span_id) == (1, process.trace_id, process.span_id)
    assert send.began_ns < send.ended_ns <= process.began_ns < process.ended_ns <= settle.began_ns < settle.ended_ns
    assert process.attributes.keys() == {
        *("messaging.system", "messaging.destination.name", "messaging.consumer.group.name"),
        *("messaging.operation.name", "messaging.operation.type", "messaging.message.id"),
    }
    assert not any(span.failed for span in received.spans)


async def test_the_sdk_encodes_one_span_of_a_kind(
    receiver: Receiver, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are copies of it, by either protocol: a release of the SDK that goes around that would be slow."""
    from streams_queue.telemetry import encoding

    by_the_sdk: list[Any] = []
    encode_spans = encoding.encode_spans

    def counted(spans: Sequence[Any]) -> Any:
        by_the_sdk.extend(spans)
        return encode_spans(spans)

    monkeypatch.setattr(encoding, "encode_spans", counted)
    queue = observe(receiver, sampling_ratio=1)
    for payload in events(100):
        await queue.enqueue(payload)
    await queue.cleanup()

    sent = receiver.received.named("send")
    assert len({(span.trace_id, span.span_id) for span in sent}) == 100
    # Two a request: one for resource and scope, one to copy from.
    assert len(by_the_sdk) <= 20


async def test_a_batch_is_one_span_and_its_events_are_linked_to_it(
    http_receiver: HttpReceiver, observe: Observe
) -> None:
    """One for enqueue_many, one for receive with a link per event; a settlement without a worker has its producer."""
    queue = observe(http_receiver, sampling_ratio=1)
    await queue.enqueue_many(events(3))
    deliveries = await queue.receive(3)
    await queue.ack(*deliveries)
    await queue.cleanup()

    received = http_receiver.received
    (send,), (receive,), settles = map(received.named, ("send", "receive", "settle"))
    assert (send.attributes["messaging.batch.message_count"], send.attributes["streams_queue.accepted"]) == (3, 3)
    assert receive.links == [(send.trace_id, send.span_id)] * len(deliveries)
    assert receive.attributes["messaging.batch.message_count"] == len(deliveries) == 3
    assert {(span.parent_id, span.attributes["messaging.operation.name"]) for span in settles} == {
        (send.span_id, "ack")
    }
    assert {span.attributes["messaging.message.id"] for span in settles} == {each.event_id for each in deliveries}


async def test_every_run_of_a_handler_is_a_span_and_says_how_it_ended(
    http_receiver: HttpReceiver, observe: Observe
) -> None:
    """A failure has its kind, and no message, which might hold a payload; the retry belongs to the same trace."""
    queue = observe(http_receiver, sampling_ratio=1, queue={"retry_policy": {"max_retries": 1, "base_delay": 0.01}})
    runs = 0

    async def handle(_: dict[str, Any]) -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            worker.stop()
        raise KeyError("secret")

    await queue.enqueue(event(1), event_id="an-id")
    worker = Worker(queue, handle)
    await worker.run()
    await queue.cleanup()

    received = http_receiver.received
    first, second = received.named("process")
    assert [span.failed for span in (first, second)] == [True, True]
    assert {span.attributes["error.type"] for span in (first, second)} == {"KeyError"}
    assert (second.attributes["streams_queue.deliveries"], second.trace_id) == (2, first.trace_id)
    assert [span.attributes["messaging.operation.name"] for span in received.named("settle")] == [
        "nack",
        "dead_letter",
    ]
    assert received.named("send")[0].attributes["messaging.message.id"] == "an-id"
    assert "secret" not in str(received.spans)


async def test_a_sync_handler_runs_inside_its_span_too(http_receiver: HttpReceiver, observe: Observe) -> None:
    """The context goes along into the thread."""
    from opentelemetry import trace

    queue = observe(http_receiver, sampling_ratio=1)
    seen: list[int] = []

    def handle(_: dict[str, Any]) -> None:
        trace.get_current_span().set_attribute("mine", "kept")
        seen.append(trace.get_current_span().get_span_context().span_id)
        worker.stop()

    await queue.enqueue(event(1))
    worker = Worker(queue, handle)
    await worker.run()
    await queue.cleanup()

    (process,) = http_receiver.received.named("process")
    assert [f"{span_id:016x}" for span_id in seen] == [process.span_id]
    assert process.attributes["mine"] == "kept"


async def test_what_is_not_sampled_carries_nothing(
    http_receiver: HttpReceiver, observe: Observe, raw: redis.asyncio.Redis, keys: Keys
) -> None:
    """Neither on the wire nor as a span; the metrics count it all the same."""
    queue = observe(http_receiver, sampling_ratio=0)
    await queue.enqueue(event(1))
    ((_, fields),) = await raw.xrange(keys.stream)
    assert fields[b"meta"] == b'{"v":1}'
    await queue.ack(*await queue.receive())
    await queue.cleanup()

    assert http_receiver.received.spans == []
    assert http_receiver.received.total("streams_queue.acked") == 1


async def test_headers_of_the_caller_stay_and_a_context_of_its_own_is_kept(
    http_receiver: HttpReceiver, observe: Observe
) -> None:
    """An event that was created in another trace stays part of that one, with its state; sending is linked to it."""
    queue = observe(http_receiver, sampling_ratio=1)
    created = f"00-{'ab' * 16}-{'cd' * 8}-01"
    await queue.enqueue(event(1), headers={"x": "y"})
    await queue.enqueue(event(2), headers={"traceparent": created, "tracestate": "vendor=1"})
    await queue.enqueue(event(3), headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"})
    taken = {delivery.payload["n"]: delivery for _ in range(3) for delivery in await queue.receive(1)}
    await queue.ack(*taken.values())
    await queue.cleanup()

    first, second = http_receiver.received.named("send")
    assert taken[1].headers == {"x": "y", "traceparent": f"00-{first.trace_id}-{first.span_id}-01"}
    assert taken[2].headers == {"traceparent": created, "tracestate": "vendor=1"}
    assert (second.kind, second.links) == (CLIENT, [("ab" * 16, "cd" * 8)])
    assert len(http_receiver.received.named("settle")) == 2


async def test_a_failure_to_send_is_an_error_of_its_span(http_receiver: HttpReceiver, observe: Observe) -> None:
    """With the kind of the error, and nothing of the payload."""
    queue = observe(http_receiver, sampling_ratio=1)
    with pytest.raises(ValueError, match="payload"):
        await queue.enqueue({"no": float("nan")})
    await queue.cleanup()

    (send,) = http_receiver.received.named("send")
    assert (send.failed, send.attributes["error.type"]) == (True, "EncodeError")


# --- sharing -----------------------------------------------------------------------------------------------------


async def test_several_queues_of_a_process_share_what_exports(http_receiver: HttpReceiver, observe: Observe) -> None:
    """Their counts are added up, also those of a queue that has been cleaned up."""
    first, second = observe(http_receiver), observe(http_receiver)
    await asyncio.gather(first.enqueue(event(1)), second.enqueue(event(2)))
    await first.cleanup()
    await second.enqueue(event(3))
    await second.cleanup()

    received = http_receiver.received
    assert received.total("messaging.client.sent.messages") == 3
    assert (
        len({point.resource["service.instance.id"] for e in received.exports for m in e.values() for point in m.points})
        == 1
    )
