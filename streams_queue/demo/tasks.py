"""What GitBridge does with an event, in small: a processor for each kind of webhook makes a task for an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from streams_queue.errors import Reject
from streams_queue.messages import Payload

Agent = Callable[[], Awaitable[object]]
"""Tells the agent of its new task; returns when it has answered."""


class TaskState(StrEnum):
    """Where a task stands."""

    CREATED = "created"
    ASSIGNED = "assigned"


@dataclass(slots=True)
class Task:
    """A piece of work for an agent.

    Attributes:
        task_id: The delivery that it came from, so that a redelivered event makes the same task again.
        agent: Who does it.
        state: Where it stands.
        summary: What is to be done, in one line.
    """

    task_id: str
    agent: str
    state: TaskState = TaskState.CREATED
    summary: str = ""


class TaskChain:
    """Makes tasks of events.

    Args:
        notify: Called once for each task.
    """

    def __init__(self, notify: Agent) -> None:
        self._notify = notify
        self.tasks: dict[str, Task] = {}

    async def create_task(self, task_id: str, agent: str) -> Task:
        """Make a task in state CREATED; the same id gives the same task."""
        return self.tasks.setdefault(task_id, Task(task_id, agent))

    async def process(self, task_id: str, kind: str, payload: Payload) -> Task:
        """
        Make the task that a webhook calls for, and hand it to its agent.

        Raises:
            Reject: There is no processor for this kind of event.
        """
        summarise = PROCESSORS.get(kind)
        if summarise is None:
            raise Reject(f"no processor for {kind!r}")
        task = await self.create_task(task_id, agent=payload["sender"]["login"])
        task.summary = f"{payload['repository']['full_name']}: {summarise(payload)}"
        await self._notify()
        task.state = TaskState.ASSIGNED
        return task


def _push(payload: Payload) -> str:
    changed = {path for commit in payload["commits"] for path in (*commit["added"], *commit["modified"])}
    return f"review {len(payload['commits'])} commits to {payload['ref']} that touch {', '.join(sorted(changed))}"


def _numbered(subject: str) -> Callable[[Payload], str]:
    def summarise(payload: Payload) -> str:
        found: dict[str, Any] = payload[subject]
        labels = ", ".join(label["name"] for label in found["labels"])
        return f"{payload['action']} #{found['number']} “{found['title']}” by {found['user']['login']} [{labels}]"

    return summarise


def _run(subject: str) -> Callable[[Payload], str]:
    def summarise(payload: Payload) -> str:
        found: dict[str, Any] = payload[subject]
        return f"{found['name']} is {found['conclusion'] or found['status']} on {found['head_sha'][:12]}"

    return summarise


PROCESSORS: dict[str, Callable[[Payload], str]] = {
    "push": _push,
    "pull_request": _numbered("pull_request"),
    "issues": _numbered("issue"),
    "issue_comment": _numbered("issue"),
    "workflow_run": _run("workflow_run"),
    "check_run": _run("check_run"),
    "release": lambda payload: f"announce {payload['release']['tag_name']}",
    "create": lambda payload: f"prepare {payload['ref_type']} {payload['ref']}",
    "star": lambda payload: f"thank {payload['sender']['login']}",
    "ping": lambda payload: f"answer “{payload['zen']}”",
}
