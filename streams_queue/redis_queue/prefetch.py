"""How many events to fetch at once: about 50 ms of work by the measured pace. Pure."""

from __future__ import annotations

from typing import Literal

WORK_AHEAD = 0.05
MOST_EVENTS = 512
# More leaves the processor's caches before it is handed out, and keeps the server from others for too long.
MOST_BYTES = 1024 * 1024
# Before the first fetch nobody knows how large events are; a hundred of a megabyte must not come at once.
_FIRST_GUESS_BYTES = 64 * 1024
# With fewer the server has too little to do meanwhile.
WORTH_OVERLAPPING = 16
_GROWTH = 4


class Prefetch:
    """Learns from each fetch how large events are, and how fast they are used up.

    Args:
        setting: A fixed number of events, or "auto".
    """

    def __init__(self, setting: int | Literal["auto"]) -> None:
        self._fixed = setting if isinstance(setting, int) else None
        self._target = 1
        self._fetched = 0
        self._fetched_at = 0.0
        self._had = 0
        self._average_bytes = float(_FIRST_GUESS_BYTES)
        self._is_guess = True

    @property
    def low_water(self) -> int:
        """How many prefetched events are so few that the next ones are fetched while these are used up; 0: never."""
        wanted = min(self._wanted, self._most)
        return wanted // 2 if wanted >= WORTH_OVERLAPPING else 0

    @property
    def _wanted(self) -> int:
        return self._target if self._fixed is None else self._fixed

    @property
    def _most(self) -> int:
        return max(1, int(MOST_BYTES / self._average_bytes))

    def next_count(self, demand: int, now: float, buffered: int = 0) -> int:
        """Return how many events to fetch.

        Args:
            demand: How many events callers wait for.
            now: Monotonic seconds.
            buffered: How many prefetched events are there still.
        """
        self._learn(now, buffered)
        return max(1, min(max(demand, self._wanted), self._most) - buffered)

    def fetched(self, count: int, size_bytes: int, now: float, buffered: int = 0) -> None:
        """Note what a fetch brought, when, and how many were there already."""
        self._fetched, self._fetched_at, self._had = count, now, count + buffered
        if count:
            before = size_bytes / count if self._is_guess else self._average_bytes
            self._average_bytes, self._is_guess = max(1.0, (before + size_bytes / count) / 2), False

    def _learn(self, now: float, buffered: int) -> None:
        if self._fetched:
            pace = (self._had - buffered) / max(1e-6, now - self._fetched_at)
            self._target = max(1, min(int(pace * WORK_AHEAD), self._had * _GROWTH, MOST_EVENTS))
            self._fetched = 0
