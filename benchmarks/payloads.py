"""What travels: GitBridge's own small event, and webhooks as GitHub sends them, the same in every run."""

from __future__ import annotations

import random
from functools import cache
from itertools import cycle, islice
from typing import Any

import msgspec

from benchmarks.model import PayloadKind
from streams_queue.demo.github_events import GitHubEvents, gitbridge_event

# So many different payloads, over and over: enough that neither cache nor branch prediction knows them by heart.
_DISTINCT = 500


@cache
def distinct(kind: PayloadKind) -> tuple[dict[str, Any], ...]:
    """Return the different payloads of a kind."""
    if kind == "small":
        source = random.Random(7)
        return tuple(gitbridge_event(source) for _ in range(_DISTINCT))
    events = GitHubEvents(seed=7)
    if kind == "8 KB":
        # The kinds whose sizes lie on both sides of the 8.1 KB that are the median of GitHub's own examples.
        return tuple(events.make(("push", "release")[i % 2]).payload for i in range(_DISTINCT))
    return tuple(webhook.payload for webhook in events.take(_DISTINCT))


def payloads(kind: PayloadKind, count: int) -> list[dict[str, Any]]:
    """Return `count` payloads of a kind."""
    return list(islice(cycle(distinct(kind)), count))


@cache
def mean_bytes(kind: PayloadKind) -> int:
    """Return the mean size of a kind's payloads as compact JSON."""
    return round(sum(len(msgspec.json.encode(payload)) for payload in distinct(kind)) / _DISTINCT)
