"""The same metrics for Prometheus: its names for them, and collectors for a registry of its client library.

Definitions are in `names`, as for OTLP; here is only how they are written. See docs/decisions/0081-prometheus.md.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streams_queue.errors import ConfigError
from streams_queue.messages import QueueStats
from streams_queue.telemetry.names import (
    COUNTERS,
    EVENTS,
    HISTOGRAMS,
    KIND,
    PROCESS_GAUGES,
    QUEUE_GAUGES,
    UP,
    MetricName,
)
from streams_queue.telemetry.sources import FIGURES, Sources
from streams_queue.telemetry.tally import Attributes

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from streams_queue.telemetry.instruments import Bounds

_UNITS = {"ms": "milliseconds", "s": "seconds"}

Looks = Sequence[tuple[Attributes, QueueStats | None]]


def family_name(metric: MetricName) -> str:
    """Return what Prometheus calls a metric, without the ending of a counter: by OpenTelemetry's rule for it.

    Whoever gets the metrics from a collector of OpenTelemetry finds the same names.
    """
    name = label_name(metric.name)
    unit = _UNITS.get(metric.unit)
    return name if unit is None or name.endswith(f"_{unit}") else f"{name}_{unit}"


def series_name(metric: MetricName) -> str:
    """Return what stands in a query: a counter's name with its ending, a histogram's for its buckets."""
    ending = "_total" if metric in (*COUNTERS, EVENTS) else "_bucket" if metric in HISTOGRAMS else ""
    return f"{family_name(metric)}{ending}"


def label_name(attribute: str) -> str:
    """Return what Prometheus calls an attribute."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", attribute)


# --- what a process has counted --------------------------------------------------------------------------------------


class ProcessMetrics(Collector):
    """Offers what the queues of this process have counted; nothing of what the queues are as a whole.

    Attributes:
        sources: The queues.
    """

    def __init__(self) -> None:
        self.sources = Sources()
        self._bounds: Bounds | None = None

    def agree_on(self, bounds: Bounds) -> None:
        """Take the bounds of a queue that will join. Raises ConfigError if those of another one are different."""
        self._bounds = self._bounds or bounds
        if self._bounds != bounds:
            raise ConfigError("metrics: All queues of one registry must have the same buckets")

    def describe(self) -> Iterable[Metric]:
        """Tell the registry which names are taken."""
        yield from (_counter(metric, {}) for metric in COUNTERS)
        yield from (_gauge(metric, {}) for metric in PROCESS_GAUGES)
        yield from (HistogramMetricFamily(family_name(metric), metric.description) for metric in HISTOGRAMS)

    def collect(self) -> Iterable[Metric]:
        """Return all values as they are now."""
        yield from (_counter(metric, self.sources.counts(metric)) for metric in COUNTERS)
        yield from (_gauge(metric, self.sources.gauge(metric)) for metric in PROCESS_GAUGES)
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        counted = self.sources.distributions()
        for metric in HISTOGRAMS:
            found = {attributes: snapshot for (of, attributes), snapshot in counted.items() if of is metric}
            names = _label_names(found)
            family = HistogramMetricFamily(family_name(metric), metric.description, labels=_written(names))
            for attributes, snapshot in found.items():
                buckets, count = [], 0
                for bound, here in zip((*snapshot.bounds, "+Inf"), snapshot.buckets, strict=True):
                    count += here
                    buckets.append((str(bound), count))
                family.add_metric(_values(names, attributes), buckets, snapshot.total)
            yield family


_of_registry: weakref.WeakKeyDictionary[CollectorRegistry, ProcessMetrics] = weakref.WeakKeyDictionary()


def process_metrics(registry: CollectorRegistry) -> ProcessMetrics:
    """Return the collector of this process's queues in a registry; there is one."""
    found = _of_registry.get(registry)
    if found is None:
        found = ProcessMetrics()
        registry.register(found)
        _of_registry[registry] = found
    return found


def _after_fork_in_child() -> None:
    for collector in list(_of_registry.values()):
        collector.sources.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# --- what queues are as a whole --------------------------------------------------------------------------------------


class QueueMetrics(Collector):
    """Offers the figures of whole queues, which are asked for when they are collected.

    Args:
        look: Returns the figures of each queue, by its labels; None where its server does not say.
    """

    def __init__(self, look: Callable[[], Looks]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Tell the registry which names are taken."""
        yield from _of_queues([])

    def collect(self) -> Iterable[Metric]:
        """Ask, and return all values."""
        yield from _of_queues(self._look())


def _of_queues(looks: Looks) -> Iterator[Metric]:
    yield _gauge(UP, {labels: figures is not None for labels, figures in looks})
    known = [(labels, figures) for labels, figures in looks if figures is not None]
    for metric in QUEUE_GAUGES:
        values = {labels: FIGURES[metric](figures) for labels, figures in known}
        yield _gauge(metric, {labels: value for labels, value in values.items() if value is not None})
    totals = {(*labels, (KIND, kind)): count for labels, figures in known for kind, count in figures.totals.items()}
    yield _counter(EVENTS, totals)


# --- families --------------------------------------------------------------------------------------------------------


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily], metric: MetricName, values: Mapping[Attributes, float]
) -> Metric:
    names = _label_names(values)
    family = kind(family_name(metric), metric.description, labels=_written(names))
    for attributes, value in values.items():
        family.add_metric(_values(names, attributes), value)
    return family


_counter = partial(_family, CounterMetricFamily)
_gauge = partial(_family, GaugeMetricFamily)


def _label_names(values: Iterable[Attributes]) -> list[str]:
    return list(dict.fromkeys(name for attributes in values for name, _ in attributes))


def _written(names: Iterable[str]) -> list[str]:
    return [label_name(name) for name in names]


def _values(names: Iterable[str], attributes: Attributes) -> list[str]:
    """Return a value for each label; an empty one is to Prometheus what none is."""
    given = dict(attributes)
    return [given.get(name, "") for name in names]
