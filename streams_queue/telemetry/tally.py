"""What one queue has seen, in plain numbers: cheap to add to on the hot path, read when metrics are exported."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams_queue.telemetry.names import COUNTERS, LOST, LOST_REASONS, REASON, MetricName

Attributes = tuple[tuple[str, str], ...]
Key = tuple[MetricName, Attributes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A distribution at one moment; `buckets` has one count more than there are `bounds`."""

    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    total: float
    lowest: float
    highest: float

    def since(self, earlier: Snapshot | None) -> Snapshot:
        """Return what was added since; lowest and highest stay those of all."""
        if earlier is None:
            return self
        buckets = tuple(now - before for now, before in zip(self.buckets, earlier.buckets, strict=True))
        return Snapshot(self.bounds, buckets, self.total - earlier.total, self.lowest, self.highest)


class Distribution:
    """Counts values by bucket.

    Attributes:
        bounds: Upper bounds, each belonging to its bucket, ascending.
    """

    __slots__ = ("_buckets", "_highest", "_lowest", "_total", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._buckets = [0] * (len(self.bounds) + 1)
        self._total, self._lowest, self._highest = 0.0, math.inf, -math.inf

    def add(self, *values: float) -> None:
        """Count values, at least one."""
        ordered: Sequence[float] = values
        if len(values) == 1:
            self._buckets[bisect_left(self.bounds, values[0])] += 1
        else:
            # A look at each bucket instead of one at each value.
            ordered, counted = sorted(values), 0
            for index, bound in enumerate(self.bounds):
                below = bisect_right(ordered, bound)
                self._buckets[index] += below - counted
                counted = below
                if counted == len(ordered):
                    break
            self._buckets[-1] += len(ordered) - counted
        self._total += sum(values)
        self._lowest = min(self._lowest, ordered[0])
        self._highest = max(self._highest, ordered[-1])

    def merge(self, other: Distribution) -> None:
        """Add what another one, with the same bounds, has counted."""
        self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, other._buckets, strict=True)]
        self._total += other._total
        self._lowest, self._highest = min(self._lowest, other._lowest), max(self._highest, other._highest)

    def snapshot(self) -> Snapshot:
        """Return what has been counted."""
        return Snapshot(self.bounds, tuple(self._buckets), self._total, self._lowest, self._highest)


class Tally:
    """Counts and distributions by metric and attributes.

    Attributes:
        counts: To be added to directly, `counts[LOST, ()] += 1`.
        bounds: Of each histogram.
    """

    __slots__ = ("_distributions", "bounds", "counts")

    def __init__(self, bounds: Mapping[MetricName, tuple[float, ...]]) -> None:
        # What has never happened is told as 0: who waits for a first error wants to see that there was none.
        self.counts: Counter[Key] = Counter({(metric, ()): 0 for metric in COUNTERS})
        # A first loss, too, has to be a rise from 0: Prometheus sees none where a series begins.
        self.counts.update({(LOST, ((REASON, reason),)): 0 for reason in LOST_REASONS})
        self.bounds = bounds
        self._distributions: dict[Key, Distribution] = {}

    def distribution(self, metric: MetricName, attributes: Attributes) -> Distribution:
        """Return the distribution to add a value to."""
        found = self._distributions.get((metric, attributes))
        if found is None:
            found = self._distributions[metric, attributes] = Distribution(self.bounds[metric])
        return found

    def distributions(self) -> dict[Key, Distribution]:
        """Return all distributions; safe to call from another thread."""
        return self._distributions.copy()

    def counted(self) -> Counter[Key]:
        """Return all counts; safe to call from another thread."""
        return self.counts.copy()

    def merge(self, other: Tally) -> None:
        """Add what another tally with the same bounds has counted."""
        self.counts.update(other.counted())
        for (metric, attributes), distribution in other.distributions().items():
            self.distribution(metric, attributes).merge(distribution)
