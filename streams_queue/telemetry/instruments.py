"""The instruments of one meter provider, which asks for their values when it exports them.

The SDK takes several microseconds to record one value, which would be felt per event. So counters are observed, and
histograms are counted here and added to what is exported. Only where the application has set the provider, and exports
by itself, they are recorded. See docs/decisions/0080-telemetry.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from streams_queue.config import MetricBounds
from streams_queue.telemetry.names import COUNTERS, HISTOGRAMS, PROCESS_GAUGES, QUEUE_GAUGES, MetricName
from streams_queue.telemetry.sources import FIGURES, Sources
from streams_queue.telemetry.tally import Attributes

Bounds = Mapping[MetricName, tuple[float, ...]]
Record = Callable[..., None]


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

    Attributes:
        sources: The queues.
    """

    def __init__(self, meter: Meter, bounds: Bounds, *, records: bool) -> None:
        self.sources = Sources()
        self._recorded = {metric: _histogram(meter, metric, bounds[metric]) for metric in HISTOGRAMS} if records else {}
        for metric in COUNTERS:
            meter.create_observable_counter(
                metric.name, [partial(self._count, metric)], unit=metric.unit, description=metric.description
            )
        for metric in QUEUE_GAUGES:
            meter.create_observable_gauge(
                metric.name, [partial(self._figure, metric)], unit=metric.unit, description=metric.description
            )
        for metric in PROCESS_GAUGES:
            meter.create_observable_gauge(
                metric.name, [partial(self._gauge, metric)], unit=metric.unit, description=metric.description
            )

    def recorder(self, metric: MetricName, attributes: Attributes) -> Record | None:
        """Return what records the values of a histogram one by one; None if nothing has to."""
        record = self._recorded.get(metric)
        return None if record is None else partial(_record_each, partial(record, attributes=dict(attributes)))

    # --- asked for when metrics are exported ---

    def _count(self, metric: MetricName, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, dict(attributes)) for attributes, count in self.sources.counts(metric).items()]

    def _figure(self, metric: MetricName, _options: CallbackOptions) -> Iterable[Observation]:
        looks = [(source.labels, source.reporter.figures()) for source in self.sources.present()]
        values = [(labels, FIGURES[metric](figures)) for labels, figures in looks if figures is not None]
        return [Observation(value, dict(labels)) for labels, value in values if value is not None]

    def _gauge(self, metric: MetricName, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(attributes)) for attributes, value in self.sources.gauge(metric).items()]


def _histogram(meter: Meter, metric: MetricName, bounds: Sequence[float]) -> Callable[..., None]:
    return meter.create_histogram(
        metric.name,
        unit=metric.unit,
        description=metric.description,
        explicit_bucket_boundaries_advisory=bounds,
    ).record


def _record_each(record: Callable[[float], None], *values: float) -> None:
    for value in values:
        record(value)
