"""The journals of the storm: what each process saw, one line a record, safe from its own sudden death.

A line is `verb time rest…`, the time from the system-wide monotonic clock. It goes out in one write to a file opened
for appending; what the operating system has taken survives SIGKILL. A last line without its end is not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

# --- producers
SENT = "s"  # call, prefix, numbers, flag: before enqueue
ACKED = "a"  # call, one word per event: an entry id, or a letter below
ERROR = "e"  # call, name of the error, the server's own word if it refused
DUPLICATE, DELAYED, FULL, HELD = "D", "L", "F", "H"
REFUSALS = (FULL,)
PLAIN, LATER, AGAIN = "plain", "later", "again"

# --- workers
HANDED = "h"  # event, entry, deliveries: as the queue hands it out
STARTED = "b"  # event, entry: before handling
FINISHED = "f"  # event, entry: before settling
GAVE_UP = "x"  # event, entry, how: the handler ended otherwise
DYING = "d"  # event: the next thing that happens is SIGKILL by its own hand
LEASE_LOST = "l"  # event, entry
QUEUE_LOST = "q"  # count, reason: the queue reports events as lost

# --- both
BEGAN = "began"  # wall time, process id
READY = "ready"
ENDED = "ended"  # orderly


class Journal:
    """The journal that a process writes.

    Args:
        path: The file; what it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.note(BEGAN, f"{time.time():.6f}", os.getpid())

    def note(self, verb: str, *words: object) -> None:
        """Add a line; it is with the operating system when this returns."""
        line = " ".join((verb, f"{time.monotonic():.6f}", *map(str, words)))
        os.write(self._file, f"{line}\n".encode())


def read(path: Path) -> Iterator[list[str]]:
    """Return the words of each complete line; nothing if there is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield line.split()
