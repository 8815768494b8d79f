"""What a supervisor and its worker processes say to each other, over one socket pair per process.

The process is told its task, then what to do about it, a byte each time. It reports what it has done, a line each time.
When one side is gone, the other reads an end of file.
"""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass, field

import msgspec

from streams_queue.cli.working import Work
from streams_queue.worker import WorkerCounts

STOP = b"s"
"""Finish gracefully."""
STOP_NOW = b"n"
"""Cancel what is running."""

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker process is told first.

    Attributes:
        work: What it is to do.
        log_level: The number of the lowest level that it logs.
        path: Where modules are found, as in the process that started it.
        debug: Show where an error came from.
        metrics_fd: The file descriptor of the socket at which it serves metrics; None if it does not. The supervisor
            listens there, so that a process started in another's place finds the port free.
    """

    work: Work
    log_level: int
    path: list[str]
    debug: bool = False
    metrics_fd: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker process has done so far.

    Attributes:
        counts: What became of its events.
        done: It will handle no more.
        error: What ended it, if no new process can do better; one line.
        exit_code: For that error.
    """

    counts: WorkerCounts = field(default_factory=WorkerCounts)
    done: bool = False
    error: str | None = None
    exit_code: int = 0


def pack_task(task: Task) -> bytes:
    """Write a task: on a socket, since anybody can list the arguments of a process, and a URL may hold a password."""
    data = pickle.dumps(task)
    return _LENGTH.pack(len(data)) + data


def receive_task(channel: socket.socket) -> Task:
    """Read the task. Raises EOFError if the supervisor is gone."""
    (length,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    # It comes from the process that started this one, which could have had any other program run.
    task: Task = pickle.loads(_receive_exactly(channel, length))  # noqa: S301
    return task


def _receive_exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def to_line(report: Report) -> bytes:
    """Write a report. It begins on a line of its own, whatever became of the one before."""
    return b"\n" + msgspec.json.encode(report) + b"\n"


def from_line(line: bytes) -> Report | None:
    """Read a report; None if the line is empty or was cut."""
    try:
        return msgspec.json.decode(line, type=Report)
    except msgspec.MsgspecError:
        return None
