"""How many events to fetch at once: about 50 ms of work by the measured pace. Pure."""

from __future__ import annotations

from typing import Literal

WORK_AHEAD = 0.05
MOST_EVENTS = 512
MOST_BYTES = 16 * 1024 * 1024
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
        self._average_bytes = 1.0

    def next_count(self, demand: int, now: float) -> int:
        """Return how many events to fetch for `demand` callers that wait; `now` in monotonic seconds."""
        self._learn(now)
        wanted = max(demand, self._target if self._fixed is None else self._fixed)
        return max(1, min(wanted, int(MOST_BYTES / self._average_bytes)))

    def fetched(self, count: int, size_bytes: int, now: float) -> None:
        """Note what a fetch brought, and when."""
        self._fetched, self._fetched_at = count, now
        if count:
            self._average_bytes += 0.2 * (size_bytes / count - self._average_bytes)
            self._average_bytes = max(1.0, self._average_bytes)

    def _learn(self, now: float) -> None:
        if self._fetched:
            pace = self._fetched / max(1e-6, now - self._fetched_at)
            self._target = max(1, min(int(pace * WORK_AHEAD), self._fetched * _GROWTH, MOST_EVENTS))
            self._fetched = 0
