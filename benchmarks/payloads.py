"""What travels: GitBridge's own small event, and webhooks as GitHub sends them, the same in every run."""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from itertools import cycle, islice
from typing import Any

from benchmarks.model import PayloadKind
from streams_queue.demo.github_events import GitHubEvents, gitbridge_event

# So many different payloads, over and over: enough that neither cache nor branch prediction knows them by heart.
_DISTINCT = 500
_DISTINCT_LARGE = 10
_LARGE_BYTES = 1_000_000

_KINDS = {
    # Their sizes lie on both sides of the 8.1 KB that are the median of GitHub's own examples.
    "8 KB": ("push", "release"),
    # Their mean is what the plan's 10 KB stand for, and what GitHub's own examples have.
    "10 KB": ("issue_comment", "issues", "check_run", "release", "push", "create"),
}


@cache
def distinct(kind: PayloadKind) -> tuple[dict[str, Any], ...]:
    """Return the different payloads of a kind."""
    if kind == "small":
        source = random.Random(7)
        return tuple(gitbridge_event(source) for _ in range(_DISTINCT))
    events = GitHubEvents(seed=7)
    if kind == "1 MB":
        return tuple(_large_push(events) for _ in range(_DISTINCT_LARGE))
    kinds = _KINDS[kind]
    return tuple(events.make(kinds[i % len(kinds)]).payload for i in range(_DISTINCT))


def _large_push(events: GitHubEvents) -> dict[str, Any]:
    """Make a push of very many commits, which is what large webhooks are."""
    push = copy.deepcopy(events.make("push").payload)
    commits = push["commits"]
    missing = _LARGE_BYTES - compact_bytes(push)
    push["commits"] = list(islice(cycle(commits), len(commits) + missing // _mean(commits)))
    return push


def _mean(parts: Any) -> int:
    return sum(compact_bytes(part) + 1 for part in parts) // len(parts)


def payloads(kind: PayloadKind, count: int) -> list[dict[str, Any]]:
    """Return `count` payloads of a kind."""
    return list(islice(cycle(distinct(kind)), count))


@cache
def mean_bytes(kind: PayloadKind) -> int:
    """Return the mean size of a kind's payloads as compact JSON."""
    sizes = [compact_bytes(payload) for payload in distinct(kind)]
    return round(sum(sizes) / len(sizes))


def compact_bytes(value: Any) -> int:
    """Return the size as compact JSON."""
    # Not msgspec, as elsewhere: the peers' environments have no need of it.
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
