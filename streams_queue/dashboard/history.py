"""What the server's totals say over time: rates, the share of failures, how long processing takes. Pure.

Workers in other processes do not report here; see docs/decisions/0092-figures-of-the-dashboard.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from streams_queue.messages import QueueStats

RATE_WINDOW = 10.0
"""Seconds over which rates and the processing time are taken."""

ERROR_WINDOW = 60.0
"""Seconds over which the share of failures is taken; failures are rarer."""

KEEP = 600
"""Points kept: ten minutes, at one a second."""


class Point(msgspec.Struct, frozen=True, gc=False):
    """The figures of one moment.

    Attributes:
        at: Seconds since the epoch, by this machine's clock.
        waiting: Events not yet handed out.
        held: Waiting, in flight and delayed: what max_size bounds.
        accepted_rate: Events accepted per second.
        processed_rate: Events acknowledged per second.
        error_rate: Share of the runs that failed, 0 to 1; None if none ended.
        processing_time: Mean seconds from handing out to settlement; None if none was settled.
    """

    at: float
    waiting: int
    held: int
    accepted_rate: float
    processed_rate: float
    error_rate: float | None
    processing_time: float | None


@dataclass(frozen=True, slots=True)
class _Sample:
    moment: float
    in_flight: int
    accepted: int
    acked: int
    failed: int
    released: int

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.accepted, self.acked, self.failed, self.released)

    @property
    def settled(self) -> int:
        """How many times an event has left the hands of a consumer."""
        return self.acked + self.failed + self.released


class History:
    """The last minutes of one queue, from looks at its figures."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._points: deque[Point] = deque(maxlen=KEEP)

    def __iter__(self) -> Iterator[Point]:
        """Yield what is kept, oldest first."""
        return iter(self._points)

    def add(self, stats: QueueStats, *, at: float, moment: float) -> Point:
        """Take one look into account and return what it makes of the figures.

        Args:
            stats: The look.
            at: Seconds since the epoch.
            moment: By a clock that never goes back, which rates are taken by.
        """
        sample = _sample(stats, moment)
        if self._samples and _went_back(self._samples[-1], sample):
            self._samples.clear()  # the server lost its state: differences to before mean nothing
        self._samples.append(sample)
        while moment - self._samples[0].moment > ERROR_WINDOW:
            self._samples.popleft()
        point = Point(
            at=at,
            waiting=stats.waiting,
            held=stats.waiting + stats.in_flight + stats.delayed,
            accepted_rate=self._rate("accepted"),
            processed_rate=self._rate("acked"),
            error_rate=self._error_rate(),
            processing_time=self._processing_time(),
        )
        self._points.append(point)
        return point

    def _recent(self) -> list[_Sample]:
        newest = self._samples[-1].moment
        return [sample for sample in self._samples if newest - sample.moment <= RATE_WINDOW]

    def _rate(self, name: str) -> float:
        recent = self._recent()
        seconds = recent[-1].moment - recent[0].moment
        return (getattr(recent[-1], name) - getattr(recent[0], name)) / seconds if seconds > 0 else 0.0

    def _error_rate(self) -> float | None:
        oldest, newest = self._samples[0], self._samples[-1]
        failed = newest.failed - oldest.failed
        ended = failed + newest.acked - oldest.acked
        return failed / ended if ended else None

    def _processing_time(self) -> float | None:
        """By Little's law: the mean number in flight, divided by how many are settled in a second."""
        recent = self._recent()
        settled = recent[-1].settled - recent[0].settled
        if not settled:
            return None
        mean = sum(sample.in_flight for sample in recent) / len(recent)
        return mean * (recent[-1].moment - recent[0].moment) / settled


def _sample(stats: QueueStats, moment: float) -> _Sample:
    totals = stats.totals
    # What was purged went to the dead letters without having run.
    failed = totals.get("retried", 0) + totals.get("dead", 0) - totals.get("purged", 0)
    return _Sample(
        moment, stats.in_flight, totals.get("enqueued", 0), totals.get("acked", 0), failed, totals.get("released", 0)
    )


def _went_back(before: _Sample, after: _Sample) -> bool:
    return any(new < old for old, new in zip(before.counts, after.counts, strict=True))
