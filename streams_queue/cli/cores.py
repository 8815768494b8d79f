"""How many cores there are to work on."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of its container (cgroup v2)."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(cores, _allowed(quota) or cores)


def _allowed(quota: Path) -> int | None:
    """Read a quota such as `150000 100000`, one and a half cores, as a whole number of them; None for none."""
    try:
        micros, period = map(int, quota.read_text("ascii").split())
        return math.ceil(micros / period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
