"""A process that outlives its parent just long enough to clear up behind it.

Whoever starts a server has to end it, and that must hold when the starter is killed with SIGKILL and runs no
`finally`. The guard is told over its standard input what is to be cleared up; the end of that input, which the kernel
brings about however the parent died, is the signal to do so. This works on Linux and macOS alike, from any thread.

One order a line: `process PID` and `directory PATH` add something, `released PID` takes a process off the list. Run by
path, in isolation; imports the standard library only, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable


def follow_orders(lines: Iterable[str]) -> tuple[list[int], list[str]]:
    """Read orders until their end; return the processes to kill and the directories to remove."""
    processes: dict[int, None] = {}
    directories: dict[str, None] = {}
    for line in lines:
        order, _, value = line.rstrip("\n").partition(" ")
        if order == "process":
            processes[int(value)] = None
        elif order == "released":
            processes.pop(int(value), None)
        elif order == "directory":
            directories[value] = None
    return list(processes), list(directories)


def clear_up(processes: Iterable[int], directories: Iterable[str]) -> None:
    """Kill the processes, then remove the directories; what is gone already is passed over."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for the parent's end, deaf to the signals of a terminal, and clear up."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    clear_up(*follow_orders(sys.stdin))


if __name__ == "__main__":
    main()
