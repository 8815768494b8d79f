"""What is shown: the last sample, rates and history from those before, and whether the server answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from streams_queue.cli.top.sampling import Sample

RATES = ("enqueued", "acked", "retried", "dead")
"""Which totals are shown as rates."""

_RATE_WINDOW = 10.0
_REMEMBERED = 1000


@dataclass(slots=True, kw_only=True)
class View:
    """What is known of a queue.

    Attributes:
        name: The queue's key.
        address: Where its server is.
        max_size: Of the queue.
        dead_max_size: Of its dead letters.
        lease: Of the queue, in seconds.
        samples: The last ones, oldest first.
        trouble: Why there is no newer sample; empty if there is one.
        trouble_since: When that began, by this machine's monotonic clock.
    """

    name: str
    address: str
    max_size: int
    dead_max_size: int
    lease: float
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    trouble: str = ""
    trouble_since: float = 0.0

    @property
    def last(self) -> Sample | None:
        """The newest sample, None before the first."""
        return self.samples[-1] if self.samples else None

    def add(self, sample: Sample) -> None:
        """Note what the server said. A clock that was set back begins a new history."""
        if self.samples and sample.at < self.samples[-1].at:
            self.samples.clear()
        self.samples.append(sample)
        self.trouble = ""

    def failed(self, trouble: str, now: float) -> None:
        """Note that the server did not answer."""
        if not self.trouble:
            self.trouble_since = now
        self.trouble = trouble

    def rates(self) -> dict[str, float | None]:
        """Return how much of each was counted per second over the last 10 s; None with nothing to compare."""
        last = self.last
        if last is None:
            return dict.fromkeys(RATES)
        first = next(each for each in self.samples if each.at >= last.at - _RATE_WINDOW)
        return {name: _rate(first, last, name) for name in RATES}

    def depths(self, count: int) -> list[int]:
        """Return how many events waited at the last `count` samples, oldest first."""
        return [sample.waiting for sample in self.samples][-count:]


def _rate(first: Sample, last: Sample, name: str) -> float | None:
    seconds = last.at - first.at
    # Totals begin anew after a FLUSHALL.
    return max(0, last.totals.get(name, 0) - first.totals.get(name, 0)) / seconds if seconds > 0 else None
