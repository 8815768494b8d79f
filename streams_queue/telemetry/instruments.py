"""The instruments of one meter provider, which asks for their values when it exports them.

The SDK takes several microseconds to record one value, which would be felt per event. So counters are observed, and
histograms are counted here and added to what is exported. Only where the application has set the provider, and exports
by itself, they are recorded. See docs/decisions/0080-telemetry.md.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from streams_queue.config import MetricBounds
from streams_queue.messages import QueueStats
from streams_queue.telemetry.names import (
    COUNTERS,
    DEAD,
    DELAYED,
    DEPTH,
    HELD,
    HISTOGRAMS,
    IN_FLIGHT,
    OLDEST,
    QUEUE_GAUGES,
    MetricName,
)
from streams_queue.telemetry.reporter import Reporter
from streams_queue.telemetry.tally import Attributes, Key, Snapshot, Tally

_FIGURES: Mapping[MetricName, Callable[[QueueStats], float]] = {
    DEPTH: lambda figures: figures.waiting,
    IN_FLIGHT: lambda figures: figures.in_flight,
    DELAYED: lambda figures: figures.delayed,
    DEAD: lambda figures: figures.dead,
    OLDEST: lambda figures: figures.oldest_waiting_age or 0.0,
}

Bounds = Mapping[MetricName, Sequence[float]]
Record = Callable[..., None]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One queue object: which queue it is, what it has counted, and who looks at the queue as a whole."""

    labels: Attributes
    tally: Tally
    reporter: Reporter


def histogram_bounds(configured: Mapping[str, MetricBounds]) -> Bounds:
    """Return the upper bounds of each histogram: those of the configuration's metrics list, else the usual ones."""
    return {
        metric: given.buckets if (given := configured.get(metric.name)) and given.buckets else metric.bounds
        for metric in HISTOGRAMS
    }


class Instruments:
    """Offers what the queues of this process have counted.

    Args:
        meter: Of the provider.
        bounds: Of the histograms.
        records: Whether values of histograms are recorded one by one, because somebody else exports them.
    """

    def __init__(self, meter: Meter, bounds: Bounds, *, records: bool) -> None:
        self.bounds = bounds
        self._sources: list[Source] = []
        self._past: dict[Attributes, Tally] = {}
        self._turn = threading.Lock()
        self._recorded = {metric: self._histogram(meter, metric) for metric in HISTOGRAMS} if records else {}
        for metric in COUNTERS:
            meter.create_observable_counter(
                metric.name, [partial(self._count, metric)], unit=metric.unit, description=metric.description
            )
        for metric in QUEUE_GAUGES:
            meter.create_observable_gauge(
                metric.name, [partial(self._figure, metric)], unit=metric.unit, description=metric.description
            )
        meter.create_observable_gauge(HELD.name, [self._held], unit=HELD.unit, description=HELD.description)

    def _histogram(self, meter: Meter, metric: MetricName) -> Callable[..., None]:
        return meter.create_histogram(
            metric.name,
            unit=metric.unit,
            description=metric.description,
            explicit_bucket_boundaries_advisory=self.bounds[metric],
        ).record

    # --- the queues of this process ---

    def join(self, source: Source) -> None:
        """Begin to offer what a queue counts."""
        with self._turn:
            self._sources.append(source)

    def leave(self, source: Source) -> None:
        """Keep what a queue has counted, and ask it no more."""
        with self._turn:
            if source in self._sources:
                self._sources.remove(source)
                self._past.setdefault(source.labels, Tally(self.bounds)).merge(source.tally)

    def recorder(self, metric: MetricName, source: Source, attributes: Attributes) -> Record:
        """Return what takes the values of a histogram."""
        record = self._recorded.get(metric)
        if record is None:
            return source.tally.distribution(metric, attributes).add
        return partial(_record_each, partial(record, attributes=dict(source.labels + attributes)))

    # --- asked for when metrics are exported ---

    def distributions(self) -> dict[Key, Snapshot]:
        """Return what was counted of histograms, by metric and all its attributes."""
        merged = Tally(self.bounds)
        for labels, tally in self._tallies():
            for (metric, attributes), distribution in tally.distributions().items():
                merged.distribution(metric, labels + attributes).merge(distribution)
        return {key: distribution.snapshot() for key, distribution in merged.distributions().items()}

    def _tallies(self) -> list[tuple[Attributes, Tally]]:
        with self._turn:
            return [*self._past.items(), *((source.labels, source.tally) for source in self._sources)]

    def _count(self, metric: MetricName, _options: CallbackOptions) -> Iterable[Observation]:
        counts: Counter[Attributes] = Counter()
        for labels, tally in self._tallies():
            for (counted, attributes), count in tally.counted().items():
                if counted is metric:
                    counts[labels + attributes] += count
        return [Observation(count, dict(attributes)) for attributes, count in counts.items()]

    def _figure(self, metric: MetricName, _options: CallbackOptions) -> Iterable[Observation]:
        figures = [(source.labels, source.reporter.figures()) for source in list(self._sources)]
        return [Observation(_FIGURES[metric](found), dict(labels)) for labels, found in figures if found is not None]

    def _held(self, _options: CallbackOptions) -> Iterable[Observation]:
        held: Counter[Attributes] = Counter()
        for source in list(self._sources):
            count = source.reporter.held_locally()
            if count is not None:
                held[source.labels] += count
        return [Observation(count, dict(labels)) for labels, count in held.items()]


def _record_each(record: Callable[[float], None], *values: float) -> None:
    for value in values:
        record(value)
