"""The names of a queue's keys. One hash tag per queue, so that every script works in a cluster."""

from __future__ import annotations

from dataclasses import dataclass

PLAN_LIST = "gitbridge:events"
"""The list of GitBridge's plan that holds what waits, the oldest at its right end."""

PLAN_PROCESSING_LIST = "gitbridge:processing"
"""The list of the plan to which its workers move what they take; nothing removes it from there."""


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue, all starting with `<namespace>:{<name>}`.

    Attributes:
        namespace: Shared by the queues of one application.
        name: The queue's own name.
    """

    namespace: str
    name: str

    @property
    def stream(self) -> str:
        """Stream: waiting and in-flight events; an acknowledged entry is deleted."""
        return f"{self.namespace}:{{{self.name}}}"

    @property
    def delayed(self) -> str:
        """Sorted set: delayed events and retries by due time in milliseconds."""
        return f"{self.stream}:delayed"

    @property
    def dead(self) -> str:
        """Stream: dead letters."""
        return f"{self.stream}:dead"

    @property
    def stats(self) -> str:
        """Hash: totals, schema, pause, and when the fleet last swept."""
        return f"{self.stream}:stats"

    @property
    def reporter(self) -> str:
        """String: the consumer that reports the queue's figures to telemetry, for a while."""
        return f"{self.stream}:reporter"

    @property
    def drains(self) -> str:
        """Hash: how many events each unfinished drain has taken out."""
        return f"{self.stream}:drains"

    @property
    def imports(self) -> str:
        """Hash: which events of each exported file are in the queue, or have been."""
        return f"{self.stream}:imports"

    def producer(self, producer_id: str) -> str:
        """String: the last batch of one producer and its reply."""
        return f"{self.stream}:producer:{producer_id}"

    def dedup(self, bucket: int) -> str:
        """Set: digests of the event ids that callers gave during one slice of the dedup window."""
        return f"{self.stream}:dedup:{bucket}"

    def ceded(self, bucket: int) -> str:
        """Hash: digests of those of them that were left to another queue, and by how many attempts."""
        return f"{self.stream}:ceded:{bucket}"
