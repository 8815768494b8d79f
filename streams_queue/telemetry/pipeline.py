"""The providers of this process: those that the application has set, else our own, shared by queues that agree."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from streams_queue.config import TelemetrySettings
from streams_queue.telemetry.instruments import Instruments, Record, histogram_bounds
from streams_queue.telemetry.names import MetricName
from streams_queue.telemetry.sources import Source, Sources
from streams_queue.telemetry.spans import ApplicationTracer, BeginsSpans
from streams_queue.telemetry.tally import Attributes
from streams_queue.telemetry.wanted import (
    SIGNALS,
    Signal,
    exports,
    protocol,
    sampling_ratio,
    set_by_application,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SCOPE = "streams_queue"
# How much longer a shutdown may take because of a collector that does not answer.
CLOSE_TIMEOUT = 3.0
_POLL = 0.01


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of telemetry.

    Attributes:
        settings: What the configuration says.
        sends: Whether OpenTelemetry is to be told at all.
        registry: Of Prometheus's client library, in which metrics are to be; None for none.
    """

    settings: TelemetrySettings
    sends: bool = True
    registry: CollectorRegistry | None = None

    def provider(self, signal: Signal) -> Any:
        """Return the application's provider of a signal, else None."""
        return set_by_application(signal) if self.sends else None

    def exports(self, signal: Signal) -> bool:
        """Tell whether a signal is to be sent to a collector by this package, if the application does not do so."""
        return self.sends and exports(signal, self.settings)


class Pipeline:
    """What measures and traces go through, for the queues that share it.

    Args:
        wanted: What is asked of telemetry.

    Attributes:
        tracer: Makes spans; None if there are to be none.
        ratio: The share of calls for which the tracer is asked at all.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._shutdowns: list[Callable[[], Any]] = []
        self._outage: Any = None
        self._wanted = wanted
        self._settings = wanted.settings
        self._instruments = self._make_instruments()
        self._places = list(self._make_places())
        self.tracer = self._tracer()
        self.ratio = self._ratio()
        self.users = 0

    def join(self, source: Source) -> None:
        """Begin to offer what a queue counts, wherever it is to be seen."""
        for place in self._places:
            place.join(source)

    def leave(self, source: Source) -> None:
        """Keep what a queue has counted, and ask it no more."""
        for place in self._places:
            place.leave(source)

    def recorder(self, metric: MetricName, attributes: Attributes, add: Record) -> Record:
        """Return what takes the values of a histogram: `add` if they are counted here, what hands them on, or both."""
        record = None if self._instruments is None else self._instruments.recorder(metric, attributes)
        if record is None:
            return add
        return record if self._wanted.registry is None else partial(_both, add, record)

    def _make_places(self) -> Iterable[Sources]:
        if self._instruments is not None:
            yield self._instruments.sources
        if self._wanted.registry is not None:
            from streams_queue.telemetry.prometheus import process_metrics

            yield process_metrics(self._wanted.registry).sources

    def _make_instruments(self) -> Instruments | None:
        if (given := self._wanted.provider("metrics")) is not None:
            return _instruments_of(given, self._settings)
        if not self._wanted.exports("metrics"):
            return None
        from streams_queue.telemetry.exporting import make_meter_provider

        provider, add_histograms = make_meter_provider(self._settings, self._told_once())
        self._shutdowns.append(partial(provider.shutdown, timeout_millis=CLOSE_TIMEOUT * 1000))
        bounds = histogram_bounds(self._settings.bounds)
        instruments = Instruments(provider.get_meter(_SCOPE, _version()), bounds, records=False)
        add_histograms(instruments.sources)
        return instruments

    def _tracer(self) -> BeginsSpans | None:
        if (given := self._wanted.provider("traces")) is not None:
            return ApplicationTracer(given.get_tracer(_SCOPE, _version()))
        if not self._wanted.exports("traces") or sampling_ratio(self._settings) == 0:
            return None
        from streams_queue.telemetry.exporting import make_tracer

        tracer = make_tracer(self._settings, self._told_once(), _SCOPE, _version())
        self._shutdowns.append(tracer.shutdown)
        return tracer

    def _ratio(self) -> float:
        if self._wanted.provider("traces") is not None:
            # The application's own sampler decides; ours may thin out what it is asked.
            return 1.0 if self._settings.sampling_ratio is None else self._settings.sampling_ratio
        return sampling_ratio(self._settings)

    def _told_once(self) -> Any:
        from streams_queue.telemetry.exporting import Outage

        if self._outage is None:
            self._outage = Outage(_address(self._settings))
        return self._outage

    def begin_shutdown(self) -> list[threading.Thread]:
        """Send what is left, in threads that end by themselves and that nobody needs to wait for."""
        threads = [
            threading.Thread(target=shutdown, name="streams_queue.telemetry", daemon=True)
            for shutdown in self._shutdowns
        ]
        self._shutdowns = []
        for thread in threads:
            thread.start()
        return threads


def _both(add: Record, record: Record, *values: float) -> None:
    add(*values)
    record(*values)


_turn = threading.Lock()
_pipelines: dict[Any, Pipeline] = {}
_instruments: dict[int, tuple[Any, Instruments]] = {}


def prepare(wanted: Wanted) -> None:
    """Import what `acquire` will need, so that the first event does not wait for that.

    Raises:
        ConfigError: The registry has queues whose histograms have other bounds.
    """
    for signal in SIGNALS:
        if wanted.provider(signal) is None and wanted.exports(signal):
            from streams_queue.telemetry.exporting import exporter_class

            exporter_class(signal, wanted.settings)
    if wanted.registry is not None:
        from streams_queue.telemetry.prometheus import process_metrics

        process_metrics(wanted.registry).agree_on(histogram_bounds(wanted.settings.bounds))


def acquire(wanted: Wanted) -> Pipeline:
    """Return the pipeline for what is wanted, a new one if no other queue of this process has it."""
    key = _key(wanted)
    with _turn:
        if key not in _pipelines:
            _pipelines[key] = Pipeline(wanted)
        pipeline = _pipelines[key]
        pipeline.users += 1
        return pipeline


def release(pipeline: Pipeline) -> list[threading.Thread]:
    """Give a pipeline back; the last one to do so begins its shutdown and gets the threads that carry it out."""
    with _turn:
        pipeline.users -= 1
        if pipeline.users:
            return []
        for key in [key for key, known in _pipelines.items() if known is pipeline]:
            del _pipelines[key]
    return pipeline.begin_shutdown()


async def until_ended(threads: Iterable[threading.Thread]) -> None:
    """Wait for threads, at most CLOSE_TIMEOUT seconds; the event loop goes on."""
    deadline = time.monotonic() + CLOSE_TIMEOUT
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL)  # a thread has nothing to await


def _key(wanted: Wanted) -> Any:
    settings = wanted.settings
    bounds = tuple(sorted((name, repr(given)) for name, given in settings.bounds.items()))
    told = (wanted.sends, id(wanted.registry), *(id(wanted.provider(signal)) for signal in SIGNALS))
    asked = (settings.endpoint, settings.protocol, settings.interval, settings.timeout, settings.sampling_ratio)
    return (os.getpid(), told, asked, settings.service_name, bounds)


def _instruments_of(provider: Any, settings: TelemetrySettings) -> Instruments:
    """Return the instruments of a provider that is not ours; it has them once and for all."""
    if id(provider) not in _instruments:
        meter: metrics.Meter = provider.get_meter(_SCOPE, _version())
        _instruments[id(provider)] = (provider, Instruments(meter, histogram_bounds(settings.bounds), records=True))
    return _instruments[id(provider)][1]


def _version() -> str:
    return version("streams-queue")


def _address(settings: TelemetrySettings) -> str:
    """Return what a log line calls the collector; variables may hold what should not be in a log."""
    return settings.endpoint or f"the collector of OTEL_EXPORTER_OTLP_ENDPOINT ({protocol('metrics', settings)})"


def _end_all() -> None:
    """At the interpreter's end, send what forgotten queues have left, within bounds."""
    threads = [
        thread
        for key, pipeline in list(_pipelines.items())
        if key[0] == os.getpid()
        for thread in pipeline.begin_shutdown()
    ]
    deadline = time.monotonic() + CLOSE_TIMEOUT
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(_end_all)
