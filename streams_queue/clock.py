"""Wall and monotonic time behind one small interface, so that tests can turn the hands themselves."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time; all values are seconds."""

    def time(self) -> float:
        """Return wall-clock time as seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return a time that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def time(self) -> float:
        """Return wall-clock time as seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return a time that never goes back; only differences mean anything."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._wall = now
        self._monotonic = 0.0

    def time(self) -> float:
        """Return wall-clock time as seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Return a time that never goes back; only differences mean anything."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` (at least 0) go by on both clocks."""
        self._wall += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would; monotonic time does not move."""
        self._wall += seconds
