"""The providers of this process: those that the application has set, else our own, shared by queues that agree."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from typing import Any

from opentelemetry import metrics

from streams_queue.config import TelemetrySettings
from streams_queue.telemetry.instruments import Instruments, histogram_bounds
from streams_queue.telemetry.tracing import StartsSpans
from streams_queue.telemetry.wanted import SIGNALS, exports, protocol, sampling_ratio, set_by_application

_SCOPE = "streams_queue"
# How much longer a shutdown may take because of a collector that does not answer.
CLOSE_TIMEOUT = 3.0
_POLL = 0.01


class Pipeline:
    """What measures and traces go through, for the queues that share it.

    Attributes:
        instruments: Where counts are offered; None if there are to be no metrics.
        tracer: Makes spans; None if there are to be none.
        ratio: The share of calls for which the tracer is asked at all.
    """

    def __init__(self, settings: TelemetrySettings) -> None:
        self._shutdowns: list[Callable[[], Any]] = []
        self._outage: Any = None
        self._settings = settings
        self.instruments = self._instruments()
        self.tracer = self._tracer()
        self.ratio = self._ratio()
        self.users = 0

    def _instruments(self) -> Instruments | None:
        if (given := set_by_application("metrics")) is not None:
            return _instruments_of(given, self._settings)
        if not exports("metrics", self._settings):
            return None
        from streams_queue.telemetry.exporting import make_meter_provider

        provider, add_histograms = make_meter_provider(self._settings, self._told_once())
        self._shutdowns.append(partial(provider.shutdown, timeout_millis=CLOSE_TIMEOUT * 1000))
        bounds = histogram_bounds(self._settings.bounds)
        instruments = Instruments(provider.get_meter(_SCOPE, _version()), bounds, records=False)
        add_histograms(instruments)
        return instruments

    def _tracer(self) -> StartsSpans | None:
        if (given := set_by_application("traces")) is not None:
            return given.get_tracer(_SCOPE, _version())  # type: ignore[no-any-return]
        if not exports("traces", self._settings) or sampling_ratio(self._settings) == 0:
            return None
        from streams_queue.telemetry.exporting import make_tracer

        tracer = make_tracer(self._settings, self._told_once(), _SCOPE, _version())
        self._shutdowns.append(tracer.shutdown)
        return tracer

    def _ratio(self) -> float:
        if set_by_application("traces") is not None:
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


_turn = threading.Lock()
_pipelines: dict[Any, Pipeline] = {}
_instruments: dict[int, tuple[Any, Instruments]] = {}


def prepare(settings: TelemetrySettings) -> None:
    """Import what `acquire` will need, so that the first event does not wait for that."""
    for signal in SIGNALS:
        if set_by_application(signal) is None and exports(signal, settings):
            from streams_queue.telemetry.exporting import exporter_class

            exporter_class(signal, settings)


def acquire(settings: TelemetrySettings) -> Pipeline:
    """Return the pipeline for these settings, a new one if no other queue of this process has it."""
    key = _key(settings)
    with _turn:
        if key not in _pipelines:
            _pipelines[key] = Pipeline(settings)
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


def _key(settings: TelemetrySettings) -> Any:
    bounds = tuple(sorted((name, repr(given)) for name, given in settings.bounds.items()))
    providers = tuple(id(set_by_application(signal)) for signal in SIGNALS)
    asked = (settings.endpoint, settings.protocol, settings.interval, settings.timeout, settings.sampling_ratio)
    return (os.getpid(), providers, asked, settings.service_name, bounds)


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
