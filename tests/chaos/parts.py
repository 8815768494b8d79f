"""What each process of the storm is told, and which events it makes: known from an event's name alone."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

# What its handler does with an event, and how many of a million are so. The rest is done at once.
SHARES = {
    "short": 100_000,  # a few milliseconds
    "slow": 12_000,  # a third of a second
    "block": 300,  # blocks its event loop for a fifth of a second
    "fail_once": 3_000,
    "later": 1_000,  # asks for a retry after a delay
    "slow_fail": 300,  # fails the first two times, after more than a lease
    "fail": 150,  # always
    "reject": 150,
}
FAST, POISON = "fast", "poison"
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerPart:
    """What a producer does.

    Attributes:
        name: Of this incarnation; first part of its events' ids.
        journal: Where it writes.
        config: The queue's configuration.
        rate: Events a second that it aims at.
        callers: How many tasks enqueue at the same time.
        batch: Events a call; 1 uses `enqueue`, more `enqueue_many`.
        named: Whether it gives event ids, and so may call again after an unknown outcome.
        poison_every: One event in so many kills the process that runs it; 0: none.
        work: What the handlers do with its events, where that is not as in SHARES.
        resend: Calls of a dead predecessor whose outcome is unknown: prefix, numbers, flag.
    """

    name: str
    journal: str
    config: dict[str, Any]
    rate: float
    callers: int = 4
    batch: int = 50
    named: bool = True
    poison_every: int = 0
    work: dict[str, int] = field(default_factory=dict)
    resend: list[tuple[str, list[int], str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPart:
    """What a worker does.

    Attributes:
        name: Of this incarnation.
        journal: Where it writes.
        config: The queue's configuration.
        mode: `worker` (async handlers), `threads` (sync ones), `loop` (dequeue), `batch` (receive and ack).
        concurrency: How many events it has in hand at most.
    """

    name: str
    journal: str
    config: dict[str, Any]
    mode: str = "worker"
    concurrency: int = 16


Part = TypeVar("Part", ProducerPart, WorkerPart)


def to_argument(part: ProducerPart | WorkerPart) -> str:
    """Write a part as the one argument of its process."""
    return msgspec.json.encode(part).decode()


def take_part(kind: type[Part]) -> Part:
    """Read the part that this process was given."""
    return msgspec.json.decode(sys.argv[1], type=kind)


def event_id(prefix: str, number: int) -> str:
    """Name an event."""
    return f"{prefix}-{number}"


def doing(name: str, number: int, poison_every: int, work: Mapping[str, int]) -> str:
    """Decide what an event's handler does; the same for the same name, whoever asks."""
    if poison_every and number % poison_every == poison_every // 3:
        return POISON
    draw = zlib.crc32(name.encode()) % MILLION
    for what, share in {**SHARES, **work}.items():
        if draw < share:
            return what
        draw -= share
    return FAST


def payload(prefix: str, number: int, poison_every: int, work: Mapping[str, int]) -> dict[str, Any]:
    """Make an event of GitBridge's size, and some of a webhook's."""
    name = event_id(prefix, number)
    size = 8_000 if number % 200 == 7 else 100
    return {"event_type": "push", "id": name, "do": doing(name, number, poison_every, work), "message": "x" * size}
