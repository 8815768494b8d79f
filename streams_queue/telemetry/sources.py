"""What the queues of this process have counted, for whoever offers it; those that have ended included.

Everything here is asked for from the threads that export.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streams_queue.config import Settings
from streams_queue.messages import QueueStats
from streams_queue.telemetry.names import (
    CONSUMERS,
    CONSUMERS_IDLE,
    DEAD,
    DELAYED,
    DEPTH,
    DESTINATION,
    FALLBACK_ACTIVE,
    HELD,
    IN_FLIGHT,
    MAX_SIZE,
    OLDEST,
    SYSTEM,
    MetricName,
)
from streams_queue.telemetry.reporter import Reporter
from streams_queue.telemetry.tally import Attributes, Key, Snapshot, Tally

FIGURES: Mapping[MetricName, Callable[[QueueStats], float | None]] = {
    DEPTH: lambda figures: figures.waiting,
    IN_FLIGHT: lambda figures: figures.in_flight,
    DELAYED: lambda figures: figures.delayed,
    DEAD: lambda figures: figures.dead,
    OLDEST: lambda figures: figures.oldest_waiting_age or 0.0,
    MAX_SIZE: lambda figures: figures.max_size,
    CONSUMERS: lambda figures: figures.consumers,
    CONSUMERS_IDLE: lambda figures: figures.consumers_idle,
}
"""What each gauge of a whole queue is; None: there is no such value now."""

_GAUGES: Mapping[MetricName, Callable[[Reporter], int | None]] = {
    HELD: Reporter.held_locally,
    FALLBACK_ACTIVE: Reporter.fallback_active,
}


def labels_of(settings: Settings) -> Attributes:
    """Return what tells a queue from others in every metric."""
    system = "asyncio" if settings.type == "asyncio" else "redis"
    return ((SYSTEM, system), (DESTINATION, f"{settings.namespace}:{settings.name}"))


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One queue object: which queue it is, what it has counted, and who looks at the queue as a whole."""

    labels: Attributes
    tally: Tally
    reporter: Reporter


class Sources:
    """The queues whose counts are offered in one place."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child, whose parent tells of what it has counted."""
        self._sources: list[Source] = []
        self._past: dict[Any, tuple[Attributes, Tally]] = {}
        self._turn = threading.Lock()

    def join(self, source: Source) -> None:
        """Begin to offer what a queue counts."""
        with self._turn:
            self._sources.append(source)

    def leave(self, source: Source) -> None:
        """Keep what a queue has counted, and ask it no more."""
        with self._turn:
            if source in self._sources:
                self._sources.remove(source)
                bounds = source.tally.bounds
                key = (source.labels, tuple(bounds.values()))
                self._past.setdefault(key, (source.labels, Tally(bounds)))[1].merge(source.tally)

    def present(self) -> list[Source]:
        """Return the queues that are in use."""
        return list(self._sources)

    def counts(self, metric: MetricName) -> Counter[Attributes]:
        """Return a counter's values by its attributes."""
        counts: Counter[Attributes] = Counter()
        for labels, tally in self._tallies():
            for (counted, attributes), count in tally.counted().items():
                if counted is metric:
                    counts[labels + attributes] += count
        return counts

    def distributions(self) -> dict[Key, Snapshot]:
        """Return what was counted of histograms, by metric and all its attributes; all have the same bounds."""
        tallies = self._tallies()
        merged = Tally(tallies[0][1].bounds if tallies else {})
        for labels, tally in tallies:
            for (metric, attributes), distribution in tally.distributions().items():
                merged.distribution(metric, labels + attributes).merge(distribution)
        return {key: distribution.snapshot() for key, distribution in merged.distributions().items()}

    def gauge(self, metric: MetricName) -> Counter[Attributes]:
        """Return the values of a gauge of this process, by its attributes."""
        values: Counter[Attributes] = Counter()
        for source in self.present():
            value = _GAUGES[metric](source.reporter)
            if value is not None:
                values[source.labels] += value
        return values

    def _tallies(self) -> list[tuple[Attributes, Tally]]:
        with self._turn:
            return [*self._past.values(), *((source.labels, source.tally) for source in self._sources)]
