"""The SDK's providers and exporters, made so that a collector which is down or hangs is not felt, and told of once."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from streams_queue.config import TelemetrySettings
from streams_queue.telemetry.encoding import encode
from streams_queue.telemetry.light_tracer import LightTracer
from streams_queue.telemetry.names import MetricName
from streams_queue.telemetry.sources import Sources
from streams_queue.telemetry.tally import Attributes, Key, Snapshot
from streams_queue.telemetry.wanted import Signal, interval, protocol

logger = logging.getLogger(__name__)

_DEFAULT_SERVICE = "streams-queue"
_SEND_EVERY = 2.0
_SPANS_AT_ONCE = 512
_MAX_SPANS = 4 * _SPANS_AT_ONCE
# The shortest that is a sleep; it takes some 60 µs.
_BREATH = 1e-6
_BETWEEN_BREATHS = 32
_MODULES = {"metrics": "metric_exporter", "traces": "trace_exporter"}
_CLASSES = {"metrics": "OTLPMetricExporter", "traces": "OTLPSpanExporter"}
_CHATTY = ("opentelemetry.", "urllib3.")


# --- a collector that fails is told of once --------------------------------------------------------------------------


class Outage:
    """One line when sending begins to fail, and one when it works again, for metrics and traces together."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._failing: set[Signal] = set()
        self._turn = threading.Lock()

    def note(self, signal: Signal, *, failed: bool) -> None:
        """Note how an attempt to send ended."""
        with self._turn:
            before = bool(self._failing)
            (self._failing.add if failed else self._failing.discard)(signal)
            if bool(self._failing) is before:
                return
        if failed:
            logger.warning(
                "Telemetry (%s) cannot be sent to %s; the queue goes on",
                signal,
                self._address,
                extra={"signal": signal, "address": self._address},
            )
        else:
            logger.info("Telemetry can be sent to %s again", self._address, extra={"address": self._address})


_local = threading.local()


@contextmanager
def _silence() -> Iterator[None]:
    """Let what is called here log nothing in this thread: its failures are told of by `Outage`."""
    before, _local.silent = getattr(_local, "silent", False), True
    try:
        yield
    finally:
        _local.silent = before


def _is_heard(record: logging.LogRecord) -> bool:
    return record.levelno <= logging.DEBUG or not getattr(_local, "silent", False)


def _silence_loggers() -> None:
    """Filter the loggers of what exports; a filter of a logger above them would not be asked."""
    for name, known in list(logging.root.manager.loggerDict.items()):
        if name.startswith(_CHATTY) and isinstance(known, logging.Logger) and _is_heard not in known.filters:
            known.addFilter(_is_heard)


class _Metrics(MetricExporter):
    """Adds the histograms that are counted here, sends, and notes the outcome.

    A forked child inherits this with the SDK's thread, and must not send what its parent has counted.
    """

    def __init__(self, exporter: MetricExporter, outage: Outage) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter, self._outage = exporter, outage
        self._pid = os.getpid()
        self._began_ns = self._last_ns = time.time_ns()
        self._last: dict[Key, Snapshot] = {}
        self.sources: Sources | None = None

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Send; a failure is told of by the outage alone."""
        if os.getpid() != self._pid:
            return MetricExportResult.SUCCESS
        result = MetricExportResult.FAILURE
        _silence_loggers()
        try:
            with _silence():
                result = self._exporter.export(self._with_histograms(metrics_data), timeout_millis, **kwargs)
        except Exception as error:  # noqa: BLE001 - older exporters raise what newer ones log
            logger.debug("Metrics were not sent (%s)", type(error).__name__)
        finally:
            self._outage.note("metrics", failed=result is not MetricExportResult.SUCCESS)
        return result

    def _with_histograms(self, data: MetricsData) -> MetricsData:
        if self.sources is None:
            return data
        added = self._histograms(self.sources.distributions())
        (resource, *other_resources) = data.resource_metrics
        (scope, *other_scopes) = resource.scope_metrics
        scope = replace(scope, metrics=[*scope.metrics, *added])
        return MetricsData([replace(resource, scope_metrics=[scope, *other_scopes]), *other_resources])

    def _histograms(self, counted: dict[Key, Snapshot]) -> list[Metric]:
        temporality = (self._preferred_temporality or {}).get(HistogramInstrument, AggregationTemporality.CUMULATIVE)
        now, before = time.time_ns(), {}
        began = self._began_ns
        if temporality is AggregationTemporality.DELTA:
            began, before = self._last_ns, self._last
            self._last_ns, self._last = now, counted
        points: dict[MetricName, list[HistogramDataPoint]] = {}
        for (metric, attributes), snapshot in counted.items():
            added = snapshot.since(before.get((metric, attributes)))
            points.setdefault(metric, []).append(_point(attributes, added, began, now))
        return [
            Metric(metric.name, metric.description, metric.unit, Histogram(found, temporality))
            for metric, found in points.items()
        ]

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do as the exporter does."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do as the exporter does, in silence."""
        with _silence():
            self._exporter.shutdown(timeout_millis, **kwargs)


def _point(attributes: Attributes, counted: Snapshot, began_ns: int, now_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(attributes),
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=sum(counted.buckets),
        sum=counted.total,
        bucket_counts=counted.buckets,
        explicit_bounds=counted.bounds,
        min=counted.lowest,
        max=counted.highest,
    )


class _Spans(SpanExporter):
    """Sends, and notes the outcome; not in a forked child."""

    def __init__(self, exporter: SpanExporter, outage: Outage) -> None:
        self._exporter, self._outage = exporter, outage
        self._pid = os.getpid()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send; a failure is told of by the outage alone."""
        if os.getpid() != self._pid:
            return SpanExportResult.SUCCESS
        result = SpanExportResult.FAILURE
        _silence_loggers()
        try:
            with _silence():
                result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - as above
            logger.debug("Spans were not sent (%s)", type(error).__name__)
        finally:
            self._outage.note("traces", failed=result is not SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Do as the exporter does, in silence."""
        with _silence():
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do as the exporter does."""
        return self._exporter.force_flush(timeout_millis)


class _Unhurried(list[ReadableSpan]):
    """Spans, with a moment for the event loop before every few of them: 512 take some 3 ms to encode.

    A thread that computes without a break gives way every 5 ms only, and the event loop asks for that at every turn.
    """

    def __iter__(self) -> Iterator[ReadableSpan]:
        for index, span in enumerate(super().__iter__()):
            if index % _BETWEEN_BREATHS == 0:
                time.sleep(_BREATH)
            yield span


class Outbox:
    """Keeps spans until a thread sends them, every two seconds or when there are enough; the oldest go if it overflows.

    The SDK's own takes ten times as long to accept a span.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._spans: deque[ReadableSpan] = deque(maxlen=_MAX_SPANS)
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="streams_queue.spans", daemon=True)
        self._thread.start()

    def add(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._spans.append(span)
        if len(self._spans) >= _SPANS_AT_ONCE:
            self._wake.set()

    def shutdown(self) -> None:
        """Send what is there and end; takes as long as the exporter does."""
        self._ending = True
        self._wake.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(_SEND_EVERY)
            self._wake.clear()
            self._send()
        self._send()

    def _send(self) -> None:
        """Send those that are there by now; spans that end meanwhile wait, or each request would hold but a few."""
        left = len(self._spans)
        while left > 0:
            some = _Unhurried(self._spans.popleft() for _ in range(min(left, _SPANS_AT_ONCE)))
            left -= len(some)
            if self._exporter.export(some) is not SpanExportResult.SUCCESS:
                return


# --- providers -------------------------------------------------------------------------------------------------------


def make_meter_provider(settings: TelemetrySettings, outage: Outage) -> tuple[MeterProvider, Callable[[Sources], None]]:
    """Return a provider that exports to the collector, and what tells it whose histograms to add."""
    exporter = _Metrics(_exporter("metrics", settings), outage)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval(settings) * 1000)
    provider = MeterProvider([reader], resource=_resource(settings), shutdown_on_exit=False)

    def add(sources: Sources) -> None:
        exporter.sources = sources

    return provider, add


def make_tracer(settings: TelemetrySettings, outage: Outage, name: str, version: str) -> LightTracer:
    """Return a tracer that exports to the collector; who is traced at all is decided before it is asked."""
    outbox = Outbox(_Spans(_exporter("traces", settings), outage))
    return LightTracer(outbox.add, outbox.shutdown, _resource(settings), InstrumentationScope(name, version))


class _HashedOnce(Resource):
    """A resource whose hash is known: the SDK's writes itself as JSON for every span that is sent."""

    def __init__(self, given: Resource) -> None:
        super().__init__(given.attributes, given.schema_url)
        self._hash = super().__hash__()

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    def __hash__(self) -> int:
        return self._hash


def _resource(settings: TelemetrySettings) -> Resource:
    """Return what tells this process from others: without an instance id, ten workers would overwrite each other."""
    given = os.environ.get(OTEL_RESOURCE_ATTRIBUTES, "")
    attributes = {}
    if settings.service_name:
        attributes[SERVICE_NAME] = settings.service_name
    elif not os.environ.get(OTEL_SERVICE_NAME) and f"{SERVICE_NAME}=" not in given:
        attributes[SERVICE_NAME] = _DEFAULT_SERVICE
    if f"{SERVICE_INSTANCE_ID}=" not in given:
        attributes[SERVICE_INSTANCE_ID] = str(uuid.uuid4())
    return _HashedOnce(Resource.create(attributes))


def exporter_class(signal: Signal, settings: TelemetrySettings) -> Callable[..., Any]:
    """Import what sends a signal by the protocol asked for; the first import takes a tenth of a second."""
    name = f"opentelemetry.exporter.otlp.proto.{protocol(signal, settings)}.{_MODULES[signal]}"
    module = _with_our_encoder(name) if signal == "traces" else importlib.import_module(name)
    found: Callable[..., Any] = getattr(module, _CLASSES[signal])
    return found


@cache
def _with_our_encoder(name: str) -> ModuleType:
    """Load a module of the SDK's once more, for our own spans: everybody else's it encodes as ever.

    A release that does not look for the encoder here any more uses its own: slower, with the same result.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - for the type checker
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["encode_spans"] = encode
    return module


def _exporter(signal: Signal, settings: TelemetrySettings) -> Any:
    """Return what sends a signal; what the settings leave out it reads from the variables itself."""
    endpoint = settings.endpoint
    if endpoint is not None and protocol(signal, settings) == "http":
        endpoint = f"{endpoint.rstrip('/')}/v1/{signal}"
    return exporter_class(signal, settings)(endpoint=endpoint, timeout=settings.timeout)
