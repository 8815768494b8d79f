"""Configurations and payloads in the form that most tests want."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.logins import login


def queue_config(**queue: Any) -> dict[str, Any]:
    """Return a configuration with short times; `queue` overrides single keys."""
    defaults = {
        "max_size": 10_000,
        "timeout": 1.0,
        "lease": 2.0,
        "retry_policy": {"max_retries": 3, "base_delay": 0.05},
    }
    return {"queue": {**defaults, **queue}}


def redis_config(url: str, **queue: Any) -> dict[str, Any]:
    """Return the configuration of a queue on the server at `url`."""
    return queue_config(**{"type": "redis", "redis_url": login(url, queue.get("namespace", "gitbridge")), **queue})


def memory_config(**queue: Any) -> dict[str, Any]:
    """Return the configuration of an in-process queue."""
    return queue_config(type="asyncio", **queue)


def event(number: int, **extra: Any) -> dict[str, Any]:
    """Return a small event that can be told from all others; its bytes hold `marker(number)`."""
    return {"event_type": "push", "repo": "octocat/Hello-World", "n": number, "mark": f"<{number}>", **extra}


def events(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Return `count` numbered events in order."""
    return [event(number) for number in range(start, start + count)]


def marker(number: int) -> bytes:
    """Return bytes found in every request and reply that carries `event(number)`, and in no other."""
    return b"<%d>" % number


@dataclass(frozen=True)
class Keys:
    """The key names of one queue, for tests that look at the server behind the queue's back."""

    namespace: str
    name: str = "events"
    group: str = "processors"

    @property
    def stream(self) -> str:
        """Waiting and in-flight events."""
        return f"{self.namespace}:{{{self.name}}}"

    @property
    def delayed(self) -> str:
        """Delayed events and retries."""
        return f"{self.stream}:delayed"

    @property
    def dead(self) -> str:
        """Dead letters."""
        return f"{self.stream}:dead"

    @property
    def stats(self) -> str:
        """Totals."""
        return f"{self.stream}:stats"

    @property
    def reporter(self) -> str:
        """Who reports the figures to telemetry."""
        return f"{self.stream}:reporter"
