"""Telemetry without a collector: whether it is wanted, what it counts, and what it costs where it is not wanted."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from streams_queue import EventQueue, QueueFactory, RedisEventQueue, ResilientQueue
from streams_queue.config import TelemetrySettings, load_config
from streams_queue.errors import BackendTimeout, ConfigError
from streams_queue.messages import Delivery
from streams_queue.telemetry import reporter, wanted
from streams_queue.telemetry.exporting import Outbox
from streams_queue.telemetry.light_tracer import LightTracer
from streams_queue.telemetry.names import (
    ACKED,
    COUNTERS,
    DURATION,
    EVENTS,
    HISTOGRAMS,
    LATENCY,
    LOST,
    PROCESS_GAUGES,
    QUEUE_GAUGES,
    UP,
)
from streams_queue.telemetry.observer import Telemetry
from streams_queue.telemetry.reporter import Reporter
from streams_queue.telemetry.tally import Distribution, Tally
from streams_queue.telemetry.tracing import Tracing
from tests.support.builders import memory_config, queue_config
from tests.support.processes import CHECKOUT, Programs

NOWHERE = "redis://127.0.0.1:1/0"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


def run(program: str, **environ: str) -> list[str]:
    """Run a program in a fresh interpreter in which every warning is an error; return the lines that it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={**inherited, **environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout.splitlines()


# --- whether it is wanted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "asyncio", "resilient"])
def test_where_it_is_not_configured_nothing_is_loaded_or_said(kind: str) -> None:
    """No module of OpenTelemetry but what redis-py loads for itself, no warning, no line of log, and the bare class."""
    program = f"""
import asyncio, logging, sys
logging.basicConfig(level="INFO")
def loaded():
    return {{name for name in sys.modules if name.startswith(("opentelemetry", "streams_queue.telemetry."))}}
from streams_queue import QueueFactory
if {kind!r} != "asyncio":
    import redis.asyncio
before = loaded() | {{"streams_queue.telemetry.wanted"}}
queue = QueueFactory.create_queue({queue_config(type=kind, redis_url=NOWHERE)!r})
async def use():
    queue.get_queue_size()
    await queue.cleanup()
asyncio.run(use())
print(sorted(loaded() - before), "_Watched" in [each.__name__ for each in type(queue).__mro__])
"""
    assert run(program) == ["[] False"]


@pytest.mark.parametrize(
    ("kind", "made"), [("redis", RedisEventQueue), ("asyncio", EventQueue), ("resilient", ResilientQueue)]
)
def test_a_queue_with_telemetry_is_still_one_of_its_class(kind: str, made: type) -> None:
    """Whoever asks with isinstance gets the same answer."""
    queue = QueueFactory.create_queue(queue_config(type=kind, redis_url=NOWHERE, telemetry={"enabled": True}))
    assert isinstance(queue, made)
    assert type(queue) is not made
    assert (type(queue).__name__, type(queue).__module__) == (made.__name__, made.__module__)


@pytest.mark.parametrize(
    ("telemetry", "environ", "answer"),
    [
        ({}, {}, False),
        ({"enabled": True}, {}, True),
        ({"endpoint": "http://h"}, {}, True),
        ({}, ENDPOINT, True),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h"}, True),
        ({}, {"OTEL_SERVICE_NAME": "x"}, False),
        ({"enabled": False, "endpoint": "http://h"}, ENDPOINT, False),
        ({"enabled": True}, {"OTEL_SDK_DISABLED": "true"}, False),
        ({}, {**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, True),
        ({}, {**ENDPOINT, "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_configuration_or_the_standard_variables_ask_for_it(
    telemetry: dict[str, Any], environ: dict[str, str], answer: bool
) -> None:
    """An endpoint in either place is enough; the configuration may refuse."""
    assert wanted.is_wanted(TelemetrySettings(**telemetry), environ) is answer


def test_without_the_extra_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it; nothing is found out only when the first event comes."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"queue\.telemetry: .*pip install 'streams-queue\[telemetry\]'"):
        QueueFactory.create_queue(memory_config(telemetry={"endpoint": "http://h"}))


def test_without_the_extra_a_variable_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be meant for other programs of the machine."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not wanted.is_wanted(TelemetrySettings(), ENDPOINT)
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize(
    ("telemetry", "environ", "answer"),
    [
        ({}, {}, "http"),
        ({"endpoint": "http://h:4317"}, {}, "grpc"),
        ({"endpoint": "http://h:4317/"}, {}, "grpc"),
        ({"endpoint": "http://h:4318"}, ENDPOINT, "http"),
        ({}, ENDPOINT, "grpc"),
        ({"protocol": "http"}, ENDPOINT, "http"),
        ({}, {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http"),
        ({}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "grpc"),
    ],
)
def test_the_protocol_is_told_or_goes_by_the_port(
    telemetry: dict[str, Any], environ: dict[str, str], answer: str
) -> None:
    """4317 is gRPC's by convention; a program that speaks HTTP to it would never arrive."""
    assert wanted.protocol("traces", TelemetrySettings(**telemetry), environ) == answer


@pytest.mark.parametrize(
    ("telemetry", "environ", "ratio"),
    [
        ({}, {}, 0.01),
        ({"sampling_ratio": 0.5}, {"OTEL_TRACES_SAMPLER": "always_off"}, 0.5),
        ({}, {"OTEL_TRACES_SAMPLER": "always_on"}, 1.0),
        ({}, {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0),
        ({}, {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"}, 0.2),
        ({}, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, 1.0),
        ({}, {"OTEL_TRACES_SAMPLER": "jaeger_remote"}, 0.01),
    ],
)
def test_the_ratio_is_told_or_that_of_the_standard_sampler(
    telemetry: dict[str, Any], environ: dict[str, str], ratio: float
) -> None:
    """One per cent where nobody says."""
    assert wanted.sampling_ratio(TelemetrySettings(**telemetry), environ) == ratio


@pytest.mark.parametrize(("given", "seconds"), [({}, 60.0), ({"OTEL_METRIC_EXPORT_INTERVAL": "5000"}, 5.0)])
def test_the_interval_is_told_or_the_standard_one(given: dict[str, str], seconds: float) -> None:
    """The variable counts milliseconds, the configuration seconds; nonsense counts as not given."""
    assert wanted.interval(TelemetrySettings(), given) == seconds
    assert wanted.interval(TelemetrySettings(interval=0.5), given) == 0.5
    assert wanted.interval(TelemetrySettings(), {"OTEL_METRIC_EXPORT_INTERVAL": "often"}) == 60.0


# --- an application that has set it up by itself -----------------------------------------------------------------


def test_providers_that_the_application_has_set_are_used(programs: Programs) -> None:
    """With no configuration; its spans are the parents of ours, and its instruments survive a queue's end."""
    program = programs("telemetry_in_application", config=memory_config())
    assert program.wait() == 0, program.describe()
    spans, values, bounds, parents = program.journal

    assert spans == [["send", "request", "receive", "process", "settle"] * 2]
    assert {name: values[0][name] for name in ("messaging.client.sent.messages", "streams_queue.acked")} == {
        "messaging.client.sent.messages": 2,
        "streams_queue.acked": 2,
    }
    assert values[0]["messaging.process.duration"] == 2
    assert bounds == [list(DURATION.bounds)]
    assert parents == [True, True]
    assert program.errors == []


def test_the_application_s_sampler_decides(programs: Programs) -> None:
    """What it does not sample is not traced further on; it is counted all the same."""
    program = programs("telemetry_in_application", config=memory_config(), sampled=False)
    assert program.wait() == 0, program.describe()
    spans, values, *_ = program.journal
    assert spans == [[]]
    assert values[0]["streams_queue.acked"] == 2


# --- counting ----------------------------------------------------------------------------------------------------


def test_a_bound_belongs_to_its_bucket() -> None:
    """As OpenTelemetry has it: above the lower bound, up to and including the upper one."""
    distribution = Distribution((1.0, 2.0, 5.0))
    values = (0.5, 1.0, 1.5, 2.0, 5.0, 5.1, 100.0)
    distribution.add(*values[:3])
    distribution.add(*values[3:])
    one_by_one = Distribution((1.0, 2.0, 5.0))
    for value in values:
        one_by_one.add(value)
    snapshot = distribution.snapshot()
    assert snapshot.buckets == (2, 2, 1, 2)
    assert (snapshot.total, snapshot.lowest, snapshot.highest) == (115.1, 0.5, 100.0)
    assert one_by_one.snapshot() == snapshot


def test_a_difference_is_what_came_since() -> None:
    """For collectors that want deltas."""
    distribution = Distribution((1.0,))
    distribution.add(0.5)
    before = distribution.snapshot()
    distribution.add(3.0)
    assert distribution.snapshot().since(before).buckets == (0, 1)
    assert distribution.snapshot().since(before).total == 3.0
    assert before.since(None) is before


def test_tallies_add_up() -> None:
    """Counts and distributions of a queue that is gone stay in the totals."""
    bounds = {metric: metric.bounds for metric in HISTOGRAMS}
    total, one = Tally(bounds), Tally(bounds)
    for tally in (total, one):
        tally.counts[ACKED, ()] += 2
        tally.counts[LOST, (("reason", "deleted"),)] += 3
        tally.distribution(LATENCY, ()).add(1.5)
    total.merge(one)

    assert total.counted()[ACKED, ()] == 4
    assert total.counted()[LOST, (("reason", "deleted"),)] == 6
    assert total.distributions()[LATENCY, ()].snapshot().buckets == (0, 2, 0, 0, 0, 0, 0)


def test_what_never_happened_is_counted_as_none() -> None:
    """An alert on a first error needs the 0 before it."""
    counted = Tally({}).counted()
    assert {metric for (metric, attributes), count in counted.items() if not attributes and count == 0} == set(COUNTERS)


def test_the_reference_lists_every_metric() -> None:
    """With its type, its unit and its bounds."""
    page = (CHECKOUT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| ((?:gauge|counter|histogram) \| .*) \|$", page, re.MULTILINE))
    kinds = {"gauge": (*QUEUE_GAUGES, UP, *PROCESS_GAUGES), "counter": (EVENTS, *COUNTERS), "histogram": HISTOGRAMS}
    assert rows.keys() == {metric.name for metrics in kinds.values() for metric in metrics}
    for kind, metrics in kinds.items():
        for metric in metrics:
            assert rows[metric.name].startswith(f"{kind} | `{metric.unit}` |")
            bounds = ", ".join(f"{bound:g}" for bound in metric.bounds)
            assert rows[metric.name].endswith(f"Bounds {bounds}" if bounds else "")


# --- cost --------------------------------------------------------------------------------------------------------


def test_what_is_not_sampled_is_counted_many_at_a_time(count_calls: Callable[..., int]) -> None:
    """Counted in calls of Python functions, which a busy machine does not change."""
    from streams_queue.observer import Observers

    telemetry = Telemetry(load_config(memory_config()))
    observers = Observers([telemetry])
    observers.handled_together([0.1], "processed")

    assert not observers.watch_handed_out
    assert count_calls(lambda: observers.settled_together(100, "acked", [])) <= 6
    assert count_calls(lambda: observers.handled_together([0.1] * 100, "processed")) <= 6


def test_spans_that_end_while_others_are_sent_wait_for_a_request_of_their_own() -> None:
    """A busy queue ends spans all the time: what is sent until none is left is sent in scores of small requests."""
    requests: list[list[int]] = []
    full, emptied = threading.Event(), threading.Event()
    least = 512

    class Busy:
        def export(self, spans: list[int]) -> SpanExportResult:
            requests.append(spans)
            if len(requests) < 5:
                outbox.add(1000)
            full.set()
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            emptied.set()

    outbox: Any = Outbox(Busy())  # type: ignore[arg-type]
    for number in range(least):
        outbox.add(number)
    assert full.wait(30)
    outbox.shutdown()
    assert emptied.is_set()

    assert requests[0] == list(range(least))
    # Two where the thread was already waiting again when the end came. Sent until none is left, there would be five.
    assert 1 <= len(requests[1:]) <= 2


def test_while_spans_are_encoded_the_event_loop_has_its_turn() -> None:
    """A thread that computes would keep it waiting; here, where none is interrupted, until all spans are encoded."""
    encoded: list[int] = []

    class Encoding:
        def export(self, spans: Iterable[int]) -> SpanExportResult:
            encoded.extend(spans)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        outbox: Any = Outbox(Encoding())  # type: ignore[arg-type]
        for number in range(2048):
            outbox.add(number)
        turns = set()
        while len(encoded) < 2048:
            turns.add(len(encoded))
            time.sleep(1e-6)
    finally:
        sys.setswitchinterval(before)
    outbox.shutdown()
    assert len(turns) > 10


def test_a_handler_that_settles_its_own_event_runs_in_its_span_to_the_end() -> None:
    """The settlement is a child of that span, which nothing but the handler's end ends."""
    spans: list[Any] = []
    scope = InstrumentationScope("streams_queue", "1")
    tracer = LightTracer(spans.append, lambda: None, Resource({}), scope)
    tracing = Tracing(tracer, 1.0, (), "gitbridge:events", "processors")
    delivery = Delivery(
        payload={},
        event_id="one",
        entry_id="1-1",
        deliveries=1,
        headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"},
    )

    tracing.handling(delivery)
    inside = trace.get_current_span()
    tracing.settled(delivery, "acked")
    assert trace.get_current_span() is inside
    assert inside.is_recording()
    tracing.handled(delivery, "processed", None)

    assert not trace.get_current_span().get_span_context().is_valid
    assert [span.name for span in spans] == ["settle gitbridge:events", "process gitbridge:events"]
    assert spans[0].parent == spans[1].get_span_context()
    assert spans[0].start_time <= spans[0].end_time <= spans[1].end_time


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-01", 1),
        (f"00-{'ab' * 16}-{'cd' * 8}-03", 3),
        (f"00-{'ab' * 16}-{'cd' * 8}-00", None),
        (f"00-{'ab' * 16}-{'cd' * 8}-02", None),
        (f"00-{'0' * 32}-{'cd' * 8}-01", None),
        (f"00-{'ab' * 16}-{'0' * 16}-01", None),
        (f"00-{'xy' * 16}-{'cd' * 8}-01", None),
        ("00-1", None),
    ],
)
def test_an_event_is_traced_if_its_traceparent_is_valid_and_says_so(traceparent: str, flags: int | None) -> None:
    """Whatever else its producer has written there; a handler's span is a child of the one that is named."""
    spans: list[Any] = []
    tracer = LightTracer(spans.append, lambda: None, Resource({}), InstrumentationScope("streams_queue", "1"))
    tracing = Tracing(tracer, 1.0, (), "gitbridge:events", "processors")
    delivery = Delivery({}, "one", "1-1", 1, {"traceparent": traceparent})
    tracing.handling(delivery)
    tracing.handled(delivery, "processed", None)
    tracing.settled(delivery, "acked")

    assert len(spans) == (0 if flags is None else 2)
    for parent in [span.parent for span in spans][:1]:
        named = (int("ab" * 16, 16), int("cd" * 8, 16), flags)
        assert (parent.trace_id, parent.span_id, parent.trace_flags) == named
        assert parent.is_remote


@pytest.fixture
def count_calls() -> Callable[..., int]:
    """Count the calls of Python functions while something runs."""

    def count(call: Callable[[], object]) -> int:
        calls = 0

        def trace(_frame: Any, happened: str, _arg: Any) -> None:
            nonlocal calls
            calls += happened == "call"

        before = sys.getprofile()
        sys.setprofile(trace)
        try:
            call()
        finally:
            sys.setprofile(before)
        return calls

    return count


def test_an_operation_is_counted_with_its_error() -> None:
    """One that waits has no latency."""
    telemetry = Telemetry(load_config(memory_config()))
    telemetry.operation("enqueue", 0.0015, None)
    telemetry.operation("enqueue", 0.5, BackendTimeout())
    telemetry.operation("read", None, BackendTimeout())

    tally = telemetry._source.tally
    counted = {(metric.name, json.dumps(dict(labels))): count for (metric, labels), count in tally.counted().items()}
    assert counted["streams_queue.operations", '{"messaging.operation.name": "enqueue"}'] == 2
    errors = {labels: count for (name, labels), count in counted.items() if name == "redis_error_rate" and count}
    assert errors == {
        '{"messaging.operation.name": "enqueue", "error.type": "BackendTimeout"}': 1,
        '{"messaging.operation.name": "read", "error.type": "BackendTimeout"}': 1,
    }
    ((_, distribution),) = tally.distributions().items()
    assert distribution.snapshot().buckets == (0, 1, 0, 0, 0, 0, 1)


def test_a_loop_that_closes_over_a_look_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exporting thread gives up, and does not reach into a loop that is no more: that would log a traceback."""
    monkeypatch.setattr(reporter, "_PATIENCE", 0.2)
    loop = asyncio.new_event_loop()

    class Endless(EventQueue):
        async def stats(self) -> Any:
            loop.stop()
            await asyncio.get_running_loop().create_future()

    queue = Endless(load_config(memory_config()))
    looking = Reporter(load_config(memory_config()), 10)
    looking.watch(queue, loop)
    figures: list[Any] = []
    thread = threading.Thread(target=lambda: figures.append(looking.figures()))
    loop.call_soon(thread.start)
    monkeypatch.setattr(Endless, "is_running", lambda _: True)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    loop.close()
    thread.join(30)

    assert figures == [None]
    assert [record for record in caplog.records if record.name == "concurrent.futures"] == []
    for task in left:
        task.get_coro().close()
