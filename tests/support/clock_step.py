"""Servers whose wall clock a test can step, forwards and backwards, while they run.

A real server gets libfaketime between itself and the system: TIME, entry ids, idle times, the ends of blocked reads and
TTLs follow the stepped clock, the monotonic clock does not. Nothing else on the machine notices.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

from tests.support.waiting import wait_until_sync

LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"
TOLERANCE = 1.5


class StepClock(Protocol):
    """A server's clock, as far as a test is concerned."""

    def step(self, seconds: float) -> None:
        """Set the clock forwards, or backwards if `seconds` is negative; it goes on from there."""
        ...


class HasClock(Protocol):
    """A server that goes by a clock of ours."""

    def command(self, *args: Any) -> Any:
        """Send one command."""
        ...


class ServerClock:
    """The clock of a real server: `clock = ServerClock(tmp_path)`, `start_server(clock=clock)`, `clock.step(3600)`."""

    def __init__(self, directory: Path) -> None:
        self._library = _require_library()
        self._file = directory / "clock-offset"
        self._offset = 0.0
        self._followers: list[HasClock] = []
        self.step(0.0)

    def step(self, seconds: float) -> None:
        """Set the clock forwards, or backwards if `seconds` is negative, and return when the servers go by it."""
        self._offset += seconds
        # The server reads this file whenever it wants to know the time: it must never find half of it.
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._offset:+.3f}\n")
        new.replace(self._file)
        for follower in self._followers:
            # Valkey looks at the clock ten times a second and counts by itself in between.
            wait_until_sync(lambda follower=follower: self._is_followed_by(follower))

    def _is_followed_by(self, server: HasClock) -> bool:
        seconds, _ = server.command("EVAL", "return redis.call('TIME')", 0)
        return abs(int(seconds) - time.time() - self._offset) < TOLERANCE

    def lead(self, server: HasClock) -> None:
        """Note a server that has started with `environment`."""
        if server not in self._followers:
            self._followers.append(server)

    def environment(self) -> dict[str, str]:
        """Return the environment for the server's process."""
        return {
            **os.environ,
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class FakeredisClock:
    """The clock of every fakeredis in this process, for as long as the test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = 0.0
        for name, module in list(sys.modules.items()):
            if name.startswith("fakeredis") and isinstance(getattr(module, "time", None), ModuleType):
                monkeypatch.setattr(module, "time", self)

    def step(self, seconds: float) -> None:
        """Set the clock forwards, or backwards if `seconds` is negative; it goes on from there."""
        self._offset += seconds

    def time(self) -> float:
        """Do as `time.time` does, by the stepped clock."""
        return time.time() + self._offset

    def __getattr__(self, name: str) -> Any:
        """Leave everything else in `time` as it is."""
        return getattr(time, name)


def _require_library() -> Path:
    """Return the library, or skip the test where it cannot be used."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("libfaketime comes built for Linux on x86-64 only")
    # Not imported: it would prepare to fake this process's time.
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        pytest.skip("libfaketime is not installed; it comes with the extra `test`")
    return Path(spec.origin).parent / LIBRARY
