"""Stand-ins for the parts of GitBridge that the plan's integration test uses."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from typing import Any


class TaskState(enum.Enum):
    """Where a task is in its life."""

    CREATED = "created"


@dataclass(frozen=True)
class Task:
    """A task made from an event."""

    task_id: str
    agent: str
    state: TaskState = TaskState.CREATED


class TaskChain:
    """Makes tasks, as GitBridge's does."""

    def __init__(self, consensus_manager: object, mas_logger: object, config: dict[str, Any]) -> None:
        self.consensus_manager, self.mas_logger, self.config = consensus_manager, mas_logger, config

    async def create_task(self, *, task_id: str, agent: str) -> Task:
        """Make a task for an agent."""
        return Task(task_id, agent)


def create_test_payload() -> dict[str, Any]:
    """Return an event in GitBridge's own form."""
    return {
        "event_type": "push",
        "repo": "octocat/Hello-World",
        "user": "octocat",
        "message": "Update README",
        "files": ["README.md"],
        "timestamp": "2025-06-03T10:00:00Z",
        "retry_count": 0,
    }


def generate_task_id() -> str:
    """Return a new task id."""
    return uuid.uuid4().hex
