"""How many events to fetch at once: about 50 ms of work by the measured pace. Pure."""

from __future__ import annotations

from typing import Literal

WORK_AHEAD = 0.05
MOST_EVENTS = 512
MOST_BYTES = 16 * 1024 * 1024
# With fewer the server has too little to do meanwhile.
WORTH_OVERLAPPING = 16
_GROWTH = 4


class Prefetch:
    """Learns from each fetch how fast its events were used up.

    Args:
        setting: A fixed number of events, or "auto".
    """

    def __init__(self, setting: int | Literal["auto"]) -> None:
        self._fixed = setting if isinstance(setting, int) else None
        self._target = 1
        self._fetched = 0
        self._fetched_at = 0.0
        self._had = 0
        self._average_bytes = 1.0

    @property
    def low_water(self) -> int:
        """How many prefetched events are so few that the next ones are fetched while these are used up; 0: never."""
        target = self._target if self._fixed is None else self._fixed
        return target // 2 if target >= WORTH_OVERLAPPING else 0

    def next_count(self, demand: int, now: float, buffered: int = 0) -> int:
        """Return how many events to fetch.

        Args:
            demand: How many events callers wait for.
            now: Monotonic seconds.
            buffered: How many prefetched events are there still.
        """
        self._learn(now, buffered)
        wanted = max(demand, (self._target if self._fixed is None else self._fixed) - buffered)
        return max(1, min(wanted, int(MOST_BYTES / self._average_bytes)))

    def fetched(self, count: int, size_bytes: int, now: float, buffered: int = 0) -> None:
        """Note what a fetch brought, when, and how many were there already."""
        self._fetched, self._fetched_at, self._had = count, now, count + buffered
        if count:
            self._average_bytes += 0.2 * (size_bytes / count - self._average_bytes)
            self._average_bytes = max(1.0, self._average_bytes)

    def _learn(self, now: float, buffered: int) -> None:
        if self._fetched:
            pace = (self._had - buffered) / max(1e-6, now - self._fetched_at)
            self._target = max(1, min(int(pace * WORK_AHEAD), self._had * _GROWTH, MOST_EVENTS))
            self._fetched = 0
