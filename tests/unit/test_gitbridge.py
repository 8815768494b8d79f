"""The adapter for GitBridge, on a queue in memory: its interface, its answers, and who has an event in hand."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from streams_queue.errors import (
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    StreamsQueueError,
    UsageError,
)
from streams_queue.gitbridge import (
    GitBridgeQueue,
    QueueConnectionError,
    QueueError,
    QueueFullError,
    QueueTimeoutError,
)
from tests.support.builders import event, events, memory_config
from tests.support.waiting import wait_until

MakeQueue = Callable[..., GitBridgeQueue]
SECRET = "hunter2-secret"


class AbstractQueue(ABC):
    """What GitBridge's `mas_core.queue.EventQueue` asks for."""

    @abstractmethod
    async def enqueue(self, event: dict[str, Any]) -> bool: ...

    @abstractmethod
    async def dequeue(self) -> dict[str, Any] | None: ...

    @abstractmethod
    async def cleanup(self) -> None: ...

    @abstractmethod
    def get_queue_size(self) -> int: ...

    @abstractmethod
    def is_running(self) -> bool: ...


@dataclass
class WebhookPayload:
    event_type: str
    repo: str
    user: str
    message: str = ""
    files: list[str] = field(default_factory=list)


class PayloadStruct(msgspec.Struct):
    event_type: str
    repo: str
    user: str


@pytest.fixture
async def make_queue() -> AsyncIterator[MakeQueue]:
    """Make queues in memory, `make_queue(max_size=1)`; stop them at the end."""
    made: list[GitBridgeQueue] = []

    def make(*, payload_type: type[Any] | None = None, **section: Any) -> GitBridgeQueue:
        made.append(GitBridgeQueue(memory_config(**section), payload_type=payload_type))
        return made[-1]

    yield make
    for queue in made:
        await queue.stop()


@pytest.fixture
def queue(make_queue: MakeQueue) -> GitBridgeQueue:
    """A queue with the tests' defaults."""
    return make_queue()


def in_the_log(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return level and words of what the adapter has logged, from info on."""
    return [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "streams_queue.gitbridge"
    ]


async def state_of(queue: GitBridgeQueue) -> tuple[int, int]:
    """Return how many events wait, and how many are in flight."""
    stats = await queue.queue.stats()
    return stats.waiting, stats.in_flight


# --- what it is ------------------------------------------------------------------------------------------------------


def test_nothing_loads_it_unasked() -> None:
    """`import streams_queue` and all its public names do without."""
    program = "import sys, streams_queue as s; [getattr(s, n) for n in s.__all__]; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "streams_queue.gitbridge" not in result.stdout.split()


async def test_it_can_stand_for_an_abstract_class(make_queue: MakeQueue) -> None:
    """By `register_as`; isinstance and issubclass say so afterwards."""
    assert GitBridgeQueue.register_as(AbstractQueue) is GitBridgeQueue
    assert isinstance(make_queue(), AbstractQueue)
    assert issubclass(GitBridgeQueue, AbstractQueue)


def test_it_stands_for_no_class_that_asks_for_more() -> None:
    """The error names what is missing, and nothing is registered."""

    class Asks(AbstractQueue):
        @abstractmethod
        def rewind(self) -> None: ...

    with pytest.raises(UsageError, match="has no rewind, for which Asks asks"):
        GitBridgeQueue.register_as(Asks)
    assert not issubclass(GitBridgeQueue, Asks)
    with pytest.raises(UsageError, match="not an abstract base class"):
        GitBridgeQueue.register_as(dict)  # type: ignore[arg-type]


def test_the_errors_have_gitbridges_names_and_are_ours() -> None:
    """What GitBridge catches by its names are the errors that the queue raises."""
    assert issubclass(BackendUnavailable, QueueConnectionError)
    assert issubclass(BackendTimeout, QueueTimeoutError)
    for error in (QueueFullError, QueueTimeoutError, QueueConnectionError):
        assert issubclass(error, QueueError)
    assert issubclass(QueueError, StreamsQueueError)


def test_a_configuration_that_cannot_be_used_is_refused_at_once() -> None:
    """As by GitBridge's factory, with a ValueError."""
    with pytest.raises(ValueError, match="Missing queue configuration"):
        GitBridgeQueue({})
    with pytest.raises(ConfigError, match="max_size"):
        GitBridgeQueue(memory_config(max_size=-1))


async def test_bounds_are_attributes(make_queue: MakeQueue) -> None:
    """As in GitBridge's queues; they may be set at any time."""
    queue = make_queue(max_size=1, timeout=0.05)
    assert (queue.max_size, queue.timeout) == (1, 0.05)
    assert (await queue.enqueue(event(1)), await queue.enqueue(event(2))) == (True, False)
    queue.max_size, queue.timeout = 2, 0.01
    assert await queue.enqueue(event(2))
    assert queue.queue.timeout == 0.01


# --- enqueue ---------------------------------------------------------------------------------------------------------


async def test_an_event_goes_in_and_comes_out(queue: GitBridgeQueue) -> None:
    """The sizes follow, the sync one and the one that asks."""
    assert await queue.enqueue(event(1)) is True
    assert (queue.get_queue_size(), await queue.get_queue_depth()) == (1, 1)
    assert await queue.dequeue() == event(1)
    assert (queue.get_queue_size(), await queue.get_queue_depth()) == (0, 0)


async def test_the_same_event_id_twice_is_one_event(queue: GitBridgeQueue) -> None:
    """Both answers are True: the queue has it."""
    assert await queue.enqueue(event(1), event_id="delivery-1")
    assert await queue.enqueue(event(1), event_id="delivery-1")
    assert queue.get_queue_size() == 1


async def test_a_full_queue_says_false(make_queue: MakeQueue, caplog: pytest.LogCaptureFixture) -> None:
    """With a line in the log, as GitBridge's queues did."""
    queue = make_queue(max_size=1)
    assert await queue.enqueue(event(1))
    assert await queue.enqueue(event(2)) is False
    ((level, line),) = in_the_log(caplog)
    assert level == "WARNING"
    assert "full" in line


@pytest.mark.parametrize("bad", ["no object", None, 7, [], {"at": object()}, {"n": float("nan")}, {7: "key"}])
async def test_what_cannot_travel_is_refused(queue: GitBridgeQueue, bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    """False and one line; nothing is raised, nothing added."""
    assert await queue.enqueue(bad) is False
    assert queue.get_queue_size() == 0
    assert [level for level, _ in in_the_log(caplog)] == ["WARNING"]


async def test_no_payload_is_logged(queue: GitBridgeQueue, caplog: pytest.LogCaptureFixture) -> None:
    """The line names the path of what is wrong, not the values beside it."""
    assert not await queue.enqueue({"token": SECRET, "at": {SECRET, "b"}})
    ((_, line),) = in_the_log(caplog)
    assert "payload.at" in line
    assert SECRET not in caplog.text


async def test_an_unforeseen_error_is_false_and_logged(
    queue: GitBridgeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GitBridge's caller has no except clause."""

    async def broken(*_: Any, **__: Any) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(queue.queue, "enqueue", broken)
    assert await queue.enqueue(event(1)) is False
    assert [level for level, _ in in_the_log(caplog)] == ["ERROR"]


# --- dequeue ---------------------------------------------------------------------------------------------------------


async def test_none_when_nothing_comes_in_time(make_queue: MakeQueue, caplog: pytest.LogCaptureFixture) -> None:
    """Without a word."""
    assert await make_queue(timeout=0.02).dequeue() is None
    assert await make_queue().dequeue(timeout=0) is None
    assert in_the_log(caplog) == []


async def test_the_next_dequeue_confirms_the_one_before(queue: GitBridgeQueue) -> None:
    """So the event in hand is the only one in flight."""
    for each in events(2):
        await queue.enqueue(each)
    await queue.dequeue()
    assert await state_of(queue) == (1, 1)
    await queue.dequeue()
    assert await state_of(queue) == (0, 1)


async def test_wait_for_leaves_the_event_to_the_caller(queue: GitBridgeQueue) -> None:
    """On Python 3.11 wait_for runs its argument in a task of its own, whose end must not confirm the event."""
    await queue.enqueue(event(1))
    assert await asyncio.wait_for(queue.dequeue(), 5) == event(1)
    assert await state_of(queue) == (0, 1)
    assert await asyncio.wait_for(queue.dequeue(timeout=0), 5) is None
    assert await state_of(queue) == (0, 0)


async def test_a_task_around_dequeue_leaves_the_event_to_the_caller(queue: GitBridgeQueue) -> None:
    """`create_task(queue.dequeue())` as well."""
    await queue.enqueue(event(1))
    assert await asyncio.create_task(queue.dequeue()) == event(1)
    assert await state_of(queue) == (0, 1)


async def test_a_failed_task_gives_its_event_back(queue: GitBridgeQueue) -> None:
    """What was in hand when the loop died runs again."""
    await queue.enqueue(event(1))

    async def loop() -> None:
        await queue.dequeue()
        raise ValueError("the pipeline is gone")

    with pytest.raises(ValueError, match="gone"):
        await asyncio.create_task(loop())
    assert await queue.dequeue() == event(1)


async def test_trouble_is_none_and_told_once(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that asks again does not fill the log, and each call takes its time."""
    queue = make_queue(timeout=0.02)

    async def refused(_: Any) -> None:
        raise StreamsQueueError("NOPERM")

    monkeypatch.setattr(queue.queue, "dequeue", refused)
    began = asyncio.get_running_loop().time()
    assert [await queue.dequeue() for _ in range(3)] == [None] * 3
    assert asyncio.get_running_loop().time() - began >= 0.05
    assert in_the_log(caplog) == [("ERROR", "Nothing can be dequeued (NOPERM)")]
    monkeypatch.undo()
    assert await queue.dequeue() is None
    monkeypatch.setattr(queue.queue, "dequeue", refused)
    assert await queue.dequeue() is None
    assert len(in_the_log(caplog)) == 2


async def test_an_unforeseen_error_of_dequeue_is_none_and_logged(
    queue: GitBridgeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop goes on."""

    async def broken(_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(queue.queue, "dequeue", broken)
    assert await queue.dequeue(timeout=0) is None
    assert [level for level, _ in in_the_log(caplog)] == ["ERROR"]


async def test_a_helper_that_passes_its_event_on_is_told_what_to_use(
    make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could confirm it there: None and an error that names `receive`, as nothing may be raised."""
    queue = make_queue(timeout=0.02)
    await queue.enqueue(event(1))

    async def fetch() -> Any:
        return await queue.dequeue()

    assert await asyncio.create_task(fetch()) == event(1)
    assert await asyncio.create_task(fetch()) is None
    assert "receive" in caplog.text


# --- objects with attributes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload_type", [WebhookPayload, PayloadStruct])
async def test_dicts_go_in_and_objects_come_out(make_queue: MakeQueue, payload_type: type[Any]) -> None:
    """With the attributes that one of GitBridge's queues hands out."""
    queue = make_queue(payload_type=payload_type)
    assert await queue.enqueue({"event_type": "push", "repo": "octocat/Hello-World", "user": "octocat"})
    payload = await queue.dequeue()
    assert isinstance(payload, payload_type)
    assert (payload.user, payload.repo) == ("octocat", "octocat/Hello-World")


async def test_objects_go_in_as_well(make_queue: MakeQueue) -> None:
    """Whoever has one need not take it apart."""
    queue = make_queue(payload_type=WebhookPayload)
    payload = WebhookPayload("push", "octocat/Hello-World", "octocat", files=["README.md"])
    assert await queue.enqueue(payload)
    assert await queue.dequeue() == payload


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"event_type": "push", "user": "octocat"}, "lacks repo"),
        ({"event_type": "push", "repo": "r", "user": "u", "colour": SECRET}, "no field for colour"),
        ({"event_type": "push", "repo": "r", "user": {SECRET: SECRET}}, "payload.user: does not fit"),
        ({}, "lacks event_type, repo, user"),
    ],
)
async def test_what_does_not_fit_the_type_is_refused(
    make_queue: MakeQueue, bad: dict[str, Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """False, and the log names the field, never its value: a value without a field would be lost silently."""
    queue = make_queue(payload_type=WebhookPayload)
    assert await queue.enqueue(bad) is False
    ((_, line),) = in_the_log(caplog)
    assert word in line
    assert SECRET not in caplog.text


# --- cleanup, stop and start -----------------------------------------------------------------------------------------


async def test_cleanup_leaves_the_queue_running(queue: GitBridgeQueue) -> None:
    """GitBridge calls it on a timer: what waits and what is in hand stay where they are."""
    for each in events(2):
        await queue.enqueue(each)
    in_hand = await queue.dequeue()
    await queue.cleanup()
    assert queue.is_running()
    assert await state_of(queue) == (1, 1)
    assert (in_hand, await queue.dequeue(), await queue.dequeue(timeout=0)) == (event(0), event(1), None)


async def test_cleanup_never_raises(
    queue: GitBridgeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be confirmed in time is still being sent: nothing to wake anybody for."""
    caplog.set_level(logging.INFO)
    asked = []

    async def late() -> None:
        asked.append("flush")
        raise BackendTimeout

    monkeypatch.setattr(queue.queue, "flush", late)
    await queue.cleanup()
    assert (asked, in_the_log(caplog)) == (["flush"], [])


async def test_stop_is_for_good(queue: GitBridgeQueue) -> None:
    """Afterwards False and None; twice is harmless."""
    await queue.enqueue(event(1))
    await queue.stop()
    await queue.stop()
    assert not queue.is_running()
    assert (await queue.enqueue(event(2)), await queue.dequeue()) == (False, None)
    await queue.cleanup()
    await queue.start()
    assert not queue.is_running()


async def test_stop_confirms_what_its_own_task_has_done(queue: GitBridgeQueue) -> None:
    """A loop that ends and then stops the queue, all in one task, is done with its last event."""
    await queue.enqueue(event(1))
    await queue.dequeue()
    await queue.stop()
    assert await state_of(queue) == (0, 0)


async def test_stop_on_the_way_out_gives_the_event_back(queue: GitBridgeQueue) -> None:
    """In `finally`, with an exception under way, the event was not processed."""
    await queue.enqueue(event(1))

    async def loop() -> None:
        try:
            await queue.dequeue()
            raise ValueError("no luck")
        finally:
            await queue.stop()

    with pytest.raises(ValueError, match="no luck"):
        await loop()
    assert await state_of(queue) == (1, 0)


async def test_stop_by_a_cancelled_task_gives_the_event_back(queue: GitBridgeQueue) -> None:
    """The same for a pipeline that is cancelled in the middle of an event."""
    await queue.enqueue(event(1))

    async def loop() -> None:
        try:
            await queue.dequeue()
            await asyncio.Event().wait()
        finally:
            await queue.stop()

    looping = asyncio.create_task(loop())
    await wait_until(lambda: queue.get_queue_size() == 0)
    looping.cancel()
    await asyncio.wait([looping])
    assert await state_of(queue) == (1, 0)


async def test_stop_ends_a_dequeue_that_waits(make_queue: MakeQueue) -> None:
    """The loop gets its None and can see that it is over."""
    queue = make_queue(timeout=60)
    waiting = asyncio.create_task(queue.dequeue())
    await asyncio.wait([waiting], timeout=0.05)
    await queue.stop()
    assert await asyncio.wait_for(waiting, 5) is None


async def test_leaving_the_block_stops_the_queue(queue: GitBridgeQueue) -> None:
    """`async with`, as GitBridge's asyncio queue has it."""
    async with queue as entered:
        assert entered is queue
        await queue.enqueue(event(1))
        await queue.dequeue()
    assert not queue.is_running()
    assert await state_of(queue) == (0, 0)


async def test_health_has_gitbridges_keys(queue: GitBridgeQueue) -> None:
    """Status, size and whether it runs."""
    await queue.enqueue(event(1))
    health = await queue.check_health()
    assert (health["status"], health["queue_size"], health["running"]) == ("healthy", 1, True)
