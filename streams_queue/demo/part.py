"""What every process of the demo is told, and how it lives no longer than the process that started it."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from streams_queue.demo.journal import READY, Journal, Record

_STDIN = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerPart:
    """What a producer does.

    Attributes:
        journal: Where it writes its journal.
        config: The queue's configuration.
        seed: Where its webhooks come from.
        events: How many it enqueues.
        requests: How many of its callers are at it at the same time, like the request handlers of a web server.
    """

    journal: str
    config: dict[str, Any]
    seed: str
    events: int
    requests: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPart:
    """What a worker does.

    Attributes:
        journal: Where it writes its journal.
        config: The queue's configuration.
        concurrency: How many events it handles at the same time.
        agent_latency: Seconds that its agents take to answer.
        hang_after: Its agents stop answering after so many events, so that it holds on to the next ones; None: never.
    """

    journal: str
    config: dict[str, Any]
    concurrency: int = 16
    agent_latency: float = 0.002
    hang_after: int | None = None


Part = TypeVar("Part", ProducerPart, WorkerPart)


def to_line(part: ProducerPart | WorkerPart) -> bytes:
    """Write a part as the line that its process reads: on a pipe, since anybody can list the arguments of a process."""
    return msgspec.json.encode(part) + b"\n"


def take_part(kind: type[Part]) -> tuple[Part, Journal]:
    """Read what to do, report for duty, and wait for the sign to begin; end if the parent has ended before that."""
    part = msgspec.json.decode(_line_from_parent(), type=kind)
    journal = Journal(Path(part.journal))
    journal.write(Record(READY))
    _line_from_parent()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    return part, journal


def _line_from_parent() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        # One byte at a time: nothing may be taken off the pipe that the next reader is waiting for.
        byte = os.read(_STDIN, 1)
        if not byte:
            sys.exit(1)
        line += byte
    return line


def _end_with_parent() -> None:
    """End at once when the pipe from the parent ends, however the parent died."""
    while os.read(_STDIN, 1):
        pass
    os._exit(1)
