"""streams_queue.testing: what drain tells, and that it is there only with pytest."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streams_queue import Delivery, Queue, Reject, RetryLater, SyncQueue, UsageError
from streams_queue.memory_queue import EventQueue
from streams_queue.testing import drain, drain_sync
from tests.support.builders import event, events, memory_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "test-your-handlers.md"


@pytest.fixture
def queue() -> Queue:
    """A queue in memory with retries after 50 ms and more."""
    return EventQueue(memory_config())


async def test_drain_tells_what_was_handled_what_failed_and_what_died(queue: Queue) -> None:
    """Retries are waited for; each failed run is told with its error, and the dead letters are those of this drain."""
    await queue.enqueue(event(9))
    await queue.dead_letter((await queue.receive())[0], "before")
    await queue.enqueue_many(events(4))

    async def handle(payload: dict[str, Any]) -> None:
        if payload["n"] == 1:
            raise Reject("not one of ours")
        if payload["n"] == 2:
            raise LookupError("no such repository")
        if payload["n"] == 3 and not seen:
            seen.append(payload)
            raise RetryLater(0.01)

    seen: list[Any] = []
    drained = await drain(queue, handle)

    assert drained.handled == [event(0), event(3)]
    runs = [(failure.payload["n"], type(failure.error), failure.deliveries) for failure in drained.failed]
    assert runs[:3] == [(1, Reject, 1), (2, LookupError, 1), (3, RetryLater, 1)]
    assert runs[3:] == [(2, LookupError, deliveries) for deliveries in (2, 3, 4)]
    assert [(letter.payload["n"], letter.reason) for letter in drained.dead] == [
        (1, "not one of ours"),
        (2, "max_retries"),
    ]
    assert drained.later == []


async def test_drain_works_off_what_the_handler_enqueues(queue: Queue) -> None:
    """Also in a sync handler that takes the delivery, and with several at once."""
    await queue.enqueue(event(0))

    async def handle(payload: dict[str, Any]) -> None:
        if payload["n"] < 5:
            await queue.enqueue(event(payload["n"] + 1))

    assert (await drain(queue, handle)).handled == events(6)
    await queue.enqueue_many(events(20))
    ids: list[str] = []

    def note(delivery: Delivery) -> None:
        ids.append(delivery.event_id)

    assert len((await drain(queue, note, concurrency=5)).handled) == len(set(ids)) == 20


async def test_a_retry_that_begins_while_drain_looks_is_waited_for(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the figures and the list of what is delayed an event may come due: it is no reason to end."""
    look = queue.peek

    async def look_late(count: int) -> Any:
        await asyncio.wait_for(runs_again.wait(), 5)
        return await look(count)

    async def fail_twice(_: Any) -> None:
        failed.append(True)
        if len(failed) == 2:
            runs_again.set()
            await asyncio.sleep(0.1)
        if len(failed) < 3:
            raise LookupError

    failed: list[bool] = []
    runs_again = asyncio.Event()
    monkeypatch.setattr(queue, "peek", look_late)
    await queue.enqueue(event(0))
    await queue.enqueue(event(1), delay=3600)
    drained = await drain(queue, fail_twice)
    assert (drained.handled, [left.payload for left in drained.later]) == ([event(0)], [event(1)])


async def test_drain_leaves_what_is_due_later(queue: Queue) -> None:
    """A test does not wait for an hour; it sees what waits."""
    await queue.enqueue(event(0), delay=0.05)
    await queue.enqueue(event(1), delay=3600)
    drained = await drain(queue, lambda _: None)
    assert (drained.handled, [left.payload for left in drained.later]) == ([event(0)], [event(1)])


async def test_drain_does_not_wait_for_ever(queue: Queue) -> None:
    """A handler that hangs, or feeds itself, ends in an error that says what is left; its event is given back."""
    await queue.enqueue_many(events(2))
    with pytest.raises(TimeoutError, match=r"after 0\.1 s 1 events wait, 1 are in flight"):
        await drain(queue, lambda _: asyncio.sleep(30), timeout=0.1)
    assert (await queue.stats()).waiting == 2


async def test_drain_counts_a_timeout_as_a_failure(queue: Queue) -> None:
    """As the worker does."""
    await queue.enqueue(event(0))

    async def hang(_: Any) -> None:
        await asyncio.Event().wait()

    drained = await drain(queue, hang, handler_timeout=0.01)
    assert [type(failure.error) for failure in drained.failed] == [asyncio.CancelledError] * 4
    assert "handler timeout" in drained.dead[0].error


async def test_drain_refuses_what_is_no_handler(queue: Queue) -> None:
    """Before anything is taken."""
    with pytest.raises(UsageError, match="one argument"):
        await drain(queue, lambda: None)


def test_drain_sync_runs_a_handler_that_uses_the_queue() -> None:
    """In a test without asyncio, the handler may enqueue with the same SyncQueue."""
    with SyncQueue(memory_config()) as queue:
        queue.enqueue(event(0))

        def handle(payload: dict[str, Any]) -> None:
            if payload["n"] < 2:
                queue.enqueue(event(payload["n"] + 1))

        assert drain_sync(queue, handle).handled == events(3)


def test_without_pytest_it_names_the_extra() -> None:
    """An import in a program that has no pytest says what to install."""
    program = "import sys; sys.modules['pytest'] = None\nimport streams_queue.testing"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip().endswith("pip install 'streams-queue[testing]'")


TESTS_OF_A_USER = """
import pytest
from streams_queue.testing import drain, drain_sync

async def store(event):
    if "repo" not in event:
        raise LookupError("repo")

@pytest.mark.parametrize("name", ["memory_queue", "redis_queue"])
@pytest.mark.parametrize("again", [1, 2])
async def test_store(name, again, request):
    queue = request.getfixturevalue(name)
    await queue.enqueue({"repo": "octocat/Hello-World"})
    await queue.enqueue({})
    drained = await drain(queue, store)
    assert drained.handled == [{"repo": "octocat/Hello-World"}]
    assert [letter.reason for letter in drained.dead] == ["max_retries"]

@pytest.mark.parametrize("again", [1, 2])
def test_sync(sync_queue, again):
    sync_queue.enqueue({"repo": "octocat/Hello-World"})
    assert drain_sync(sync_queue, print).handled == [{"repo": "octocat/Hello-World"}]

async def test_leaves_events_in_hand(redis_queue):
    await redis_queue.enqueue({"repo": "octocat/Hello-World"})
    await redis_queue.dequeue()
"""


def run_as_a_project(folder: Path, tests: str) -> str:
    """Run tests in a project of their own, which opts in as the page says and takes warnings for errors."""
    (folder / "conftest.py").write_text('pytest_plugins = ["streams_queue.testing"]\n', "utf-8")
    (folder / "test_user.py").write_text(tests, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-W", "error", str(folder)]
    settings = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    result = subprocess.run([*command, *settings], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.integration
def test_the_fixtures_work_in_a_project_of_their_own(tmp_path: Path) -> None:
    """Each test has an empty queue, on a real server, too, and nothing is left that would be warned of."""
    assert "7 passed" in run_as_a_project(tmp_path, TESTS_OF_A_USER)


@pytest.mark.integration
def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    """What the how-to shows is not only Python that runs: pytest runs it."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert "4 passed" in run_as_a_project(tmp_path, "\n\n".join(["from __future__ import annotations", *blocks]))
