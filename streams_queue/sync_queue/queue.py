"""SyncQueue: the port's verbs for programs without asyncio, such as Flask applications and scripts."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from streams_queue.config import FACTORY_REQUIRES, Settings, load_config
from streams_queue.errors import BackendError, QueueClosed, UsageError
from streams_queue.factory import QueueFactory
from streams_queue.messages import DeadLetter, Delivery, QueueStats, Receipt, WaitingEvent
from streams_queue.observer import Observer
from streams_queue.queue import Queue
from streams_queue.sync_queue.call import Call
from streams_queue.sync_queue.runtime import Hands, Runtime

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

T = TypeVar("T")


class SyncQueue:
    """An event queue whose verbs block their thread: the same as `Queue`, with every backend, without asyncio.

    It may be used by several threads at once and after a fork. Making one does no I/O; the first call starts a thread
    with an event loop, on which the queue works, and `cleanup` ends it.

    `dequeue` settles per thread: the next `dequeue` of a thread acknowledges what that thread took before. `task_done`
    does so without taking more. A thread that ends gives back what it had not settled.

    Args:
        config: The mapping of a `webhook_config.yaml`, the path of one, or Settings; None reads the environment.
        environment: Its section `environments.<name>.queue` overrides `queue`.
        observers: Are told what happens in the queue, in the event loop's thread.
        payload_type: A msgspec Struct or a dataclass that payloads are instances of; None takes JSON objects.
        registry: Of Prometheus's client library, in which what this process does with the queue is counted.

    Raises:
        ConfigError: As QueueFactory.create_queue. All other errors are those of `Queue`, and UsageError for a call that
            would block a running event loop.

    Source: docs/decisions/0130-sync-queue.md
    """

    def __init__(
        self,
        config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        environment: str | None = None,
        observers: Iterable[Observer] = (),
        payload_type: type | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        settings = load_config(config, environment=environment, require=FACTORY_REQUIRES)
        self._make_queue = partial(
            QueueFactory.create_queue,
            settings,
            observers=tuple(observers),
            payload_type=payload_type,
            registry=registry,
        )
        self._max_size = settings.max_size
        self._timeout = settings.timeout
        self._closed = False
        self._start_over(self._make_queue())
        _queues.add(self)

    def _start_over(self, queue: Queue | None) -> None:
        """Begin without an event loop: at construction, and in a forked child, which makes a queue of its own."""
        self._turn = threading.RLock()
        self._queue = queue
        self._runtime: Runtime | None = None

    @property
    def max_size(self) -> int:
        """The most events that may be unsettled at once; may be set at any time. 0 refuses everything."""
        return self._max_size

    @max_size.setter
    def max_size(self, max_size: int) -> None:
        self._max_size = max_size
        self._settle(partial(_set, "max_size", max_size))

    @property
    def timeout(self) -> float:
        """Default wait of `dequeue` and `receive` in seconds; may be set at any time."""
        return self._timeout

    @timeout.setter
    def timeout(self, timeout: float) -> None:
        self._timeout = timeout
        self._settle(partial(_set, "timeout", timeout))

    # --- producing ---

    def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put one event into the queue, as `Queue.enqueue`: True if it holds the event, False if it is full or closed.

        Interrupted: The event may be in the queue or not.

        Raises:
            EncodeError: The payload would not come back equal; the message names the path.
            MessageTooLarge: It is over max_event_bytes.
            BackendUnavailable: The server could not be reached within enqueue_timeout; nothing was written.
            BackendTimeout: No answer within enqueue_timeout; call again with the same event_id.
            BackendRejected: The server refused (out of memory, no permission, wrong type).
            NotDurable: The queue holds the event, but it did not reach the configured `durability` in time.
        """
        return self.run(lambda queue: queue.enqueue(payload, event_id=event_id, delay=delay, headers=headers))

    def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events into the queue, in order; one receipt per payload, as `Queue.enqueue_many`."""
        given = list(payloads)
        return self.run(lambda queue: queue.enqueue_many(given, event_ids=event_ids, delay=delay, headers=headers))

    # --- consuming ---

    def dequeue(self, timeout: float | None = None) -> Any | None:
        """Take the next event and acknowledge the one that the calling thread took before.

        Args:
            timeout: Seconds to wait; None is the queue's own `timeout`, 0 returns at once, math.inf waits for ever.

        Returns:
            The payload, or None when nothing came in time or the queue is closed, also while this waits.

        Interrupted: A KeyboardInterrupt, or whatever a signal handler raises, ends the wait; no event is lost.

        Raises:
            BackendRejected: Only for what no retry mends (wrong password, no permission, wrong type).
        """
        runtime = self._running()
        if runtime is None:
            return self._call_closed(partial(_next, timeout=timeout))
        hands = runtime.hands()
        call = Call(partial(_done_and_next, runtime, hands, timeout), runtime.give_back)
        hands.calls.append(call)
        delivery = self._wait(runtime, call)
        # No call between that one and the return: the event is in the thread's hands now, and a signal may come.
        return None if delivery is None else delivery.payload

    def task_done(self) -> None:
        """Acknowledge what the calling thread took with `dequeue`, without taking more: before the thread ends.

        Returns when the server knows. While it cannot be reached, after enqueue_timeout: it is told later.
        """
        self._finish(_done_and_told)

    def _finish(self, carry_out: Callable[[Runtime, Hands, Queue], Awaitable[None]]) -> None:
        runtime = None if self._runtime is None or sys.is_finalizing() else self._running()
        if runtime is not None:
            self._wait(runtime, Call(partial(carry_out, runtime, runtime.hands()), None))

    def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        """Take up to `max_events` deliveries, to be settled one by one, by any thread; [] when nothing came in time.

        Payloads of more than `max_bytes` together are taken only if there is a single one.

        Interrupted: No event is lost.
        """
        return self._call(
            lambda queue: queue.receive(max_events, timeout, max_bytes=max_bytes),
            lambda runtime: lambda deliveries: runtime.give_back(*deliveries),
        )

    def ack(self, *deliveries: Delivery) -> None:
        """The events are done. Returns after the server's reply; the first settlement of an event wins."""
        self._settle(lambda queue: queue.ack(*deliveries))

    def ack_soon(self, *deliveries: Delivery) -> None:
        """The events are done; tell the server with the next read, or within 5 ms. Leases are kept until it knows."""

        async def ack_them_soon(queue: Queue) -> None:
            queue.ack_soon(*deliveries)

        self._settle(ack_them_soon)

    def flush(self) -> None:
        """Return when the server knows of all that was done so far; what is in hand stays there.

        Raises:
            BackendTimeout: No reply within enqueue_timeout; the acks are still being sent.
        """
        self._settle(lambda queue: queue.flush())

    def nack(self, delivery: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        """The event failed: retry it after `delay` seconds (default: the retry policy's), or bury it past the limit.

        Raises:
            LeaseLost: The delivery no longer belongs to this consumer.
        """
        self._settle(lambda queue: queue.nack(delivery, delay=delay, error=error))

    def release(self, *deliveries: Delivery) -> None:
        """Give the events back untouched: available at once, at the end of the line, deliveries not raised."""
        self._settle(lambda queue: queue.release(*deliveries))

    def extend(self, *deliveries: Delivery) -> None:
        """Renew the lease by hand. Raises LeaseLost if one of them is no longer held; the others are renewed."""
        self._settle(lambda queue: queue.extend(*deliveries))

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Never hand the event out again without a redrive. Raises LeaseLost."""
        self._settle(lambda queue: queue.dead_letter(delivery, reason))

    # --- looking ---

    def get_queue_depth(self) -> int:
        """How many events wait to be handed to a caller; never below 0."""
        return self.run(lambda queue: queue.get_queue_depth())

    def get_queue_size(self) -> int:
        """The depth as far as this process knows it, without asking the server."""

        async def size(queue: Queue) -> int:
            return queue.get_queue_size()

        return self.run(size)

    def stats(self) -> QueueStats:
        """One consistent look at all figures."""
        return self.run(lambda queue: queue.stats())

    def check_health(self) -> dict[str, Any]:
        """Tell how the queue is, as `Queue.check_health`; never raises for a server problem."""
        return self.run(lambda queue: queue.check_health())

    def is_running(self) -> bool:
        """True from construction to cleanup."""
        return not self._closed

    # --- operating ---

    def peek(self, count: int = 10) -> list[WaitingEvent]:
        """Look at the next waiting events and then the next due delayed ones, without taking them."""
        return self.run(lambda queue: queue.peek(count))

    def dead_letters(self, count: int = 100, *, after: str | None = None) -> list[DeadLetter]:
        """List dead letters, oldest first; `after` is the dead_id of the last one seen."""
        return self.run(lambda queue: queue.dead_letters(count, after=after))

    def redrive(self, *dead_ids: str, count: int | None = None) -> int:
        """Put dead letters back into the queue with a fresh delivery count; all of them if no id is given."""
        return self.run(lambda queue: queue.redrive(*dead_ids, count=count))

    def purge(self, to: str = "dead") -> int:
        """Move all waiting and delayed events to the dead letters, reason `purged`; returns how many."""
        return self.run(lambda queue: queue.purge(to))

    def purge_dead(self, *dead_ids: str, who: str = "unknown") -> int:
        """Delete dead letters for good (all if no id is given), counted and logged with `who`; returns how many."""
        return self.run(lambda queue: queue.purge_dead(*dead_ids, who=who))

    def pause(self, *, intake: bool = True, delivery: bool = True) -> None:
        """Refuse new events and/or stop handing out, in all processes that share the queue, within a second."""
        self.run(lambda queue: queue.pause(intake=intake, delivery=delivery))

    def resume(self) -> None:
        """End a pause."""
        self.run(lambda queue: queue.resume())

    def run(self, function: Callable[[Queue], Awaitable[T]]) -> T:
        """Call a function with the asyncio queue behind this one, in its event loop, and wait for what it awaits.

        For what has no verb here; the function must not block.

        Interrupted: What it awaits is cancelled.
        """
        return self._call(function, lambda _: _ignore)

    # --- ending ---

    def cleanup(self) -> None:
        """Flush acks, give back what is unsettled, close connections, end the event loop; twice is harmless.

        Deletes no event. Threads that wait in `dequeue` get None.
        """
        if sys.is_finalizing():
            return  # That was done at the end of the interpreter, and whoever could do it has gone.
        _refuse_to_block_a_loop()
        with self._turn:
            self._closed, runtime = True, self._runtime
        if runtime is not None:
            runtime.end()
        else:
            self._call_closed(_nothing)

    def __enter__(self) -> Self:
        """Enter; connects nothing by itself."""
        _refuse_to_block_a_loop()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave: acknowledge what the leaving thread took if it leaves normally, then `cleanup`."""
        if exc_type is None:
            self._finish(_done)
        self.cleanup()

    # --- how a call is made ---

    def _settle(self, function: Callable[[Queue], Awaitable[None]]) -> None:
        self._call(function, lambda _: None)

    def _call(
        self, function: Callable[[Queue], Awaitable[T]], unclaimed: Callable[[Runtime], Callable[[T], None] | None]
    ) -> T:
        runtime = self._running()
        if runtime is None:
            return self._call_closed(function)
        return self._wait(runtime, Call(function, unclaimed(runtime)))

    def _wait(self, runtime: Runtime, call: Call[T]) -> T:
        """Have a call carried out and wait for it; if this thread is interrupted, the call is taken back."""
        try:
            result = self._outcome(call) if runtime.submit(call) else self._call_closed(call.function)
            # From here to the caller no signal is looked at.
            call.is_claimed = True
            return result
        except BaseException:
            runtime.withdraw(call)
            raise

    def _outcome(self, call: Call[T]) -> T:
        return call.result()

    def _running(self) -> Runtime | None:
        """Return what carries out calls, started if need be; None after cleanup.

        Raises:
            QueueClosed: The interpreter takes itself apart: no thread but this one runs any more.
        """
        _refuse_to_block_a_loop()
        if self._closed:
            return None
        if sys.is_finalizing():
            raise QueueClosed("the queue was closed at the end of the interpreter")
        return self._runtime or self._start()

    def _start(self) -> Runtime | None:
        with self._turn:
            if self._runtime is None and not self._closed:
                runtime = Runtime(self._own_queue())
                # A queue that is dropped without cleanup leaves no thread and no event behind.
                self._finalizer = weakref.finalize(self, Runtime.end_soon, runtime)
                self._finalizer.atexit = False
                # Last: another thread may fork at any moment, and the child goes by it.
                self._runtime = runtime
            return self._runtime

    def _own_queue(self) -> Queue:
        """Return the queue of this process."""
        if self._queue is None:
            self._queue = self._make_queue()
            self._queue.max_size, self._queue.timeout = self._max_size, self._timeout
        return self._queue

    def _call_closed(self, function: Callable[[Queue], Awaitable[T]]) -> T:
        """Let a closed queue answer: it does no I/O, so that a loop for the moment is enough."""
        with self._turn:
            self._closed = True
            if self._runtime is not None:
                self._runtime.end()
            return asyncio.run(_closed(self._own_queue(), function))

    # --- the ends of a process ---

    def _forked(self) -> None:
        """In a forked child: leave everything of the parent's alone, and start over."""
        if self._runtime is not None:
            self._finalizer.detach()
        # Never collected: neither the parent's loop nor what it was doing may be touched here.
        _inherited.append((self._runtime, self._queue, self._turn))
        self._start_over(None)

    def _at_exit(self) -> None:
        if self._runtime is not None and not self._closed:
            self._runtime.leave()


async def _next(queue: Queue, timeout: float | None) -> Delivery | None:
    for delivery in await queue.receive(1, timeout):
        return delivery
    return None


async def _done_and_next(runtime: Runtime, hands: Hands, timeout: float | None, queue: Queue) -> Delivery | None:
    runtime.settle(hands)
    return await _next(queue, timeout)


async def _done(runtime: Runtime, hands: Hands, _: Queue) -> None:
    runtime.settle(hands)


async def _closed(queue: Queue, function: Callable[[Queue], Awaitable[T]]) -> T:
    await queue.cleanup()
    return await function(queue)


async def _done_and_told(runtime: Runtime, hands: Hands, queue: Queue) -> None:
    runtime.settle(hands)
    with contextlib.suppress(BackendError):
        await queue.flush()


async def _set(name: str, value: float, queue: Queue) -> None:
    setattr(queue, name, value)


async def _nothing(_: Queue) -> None:
    return None


def _ignore(_: object) -> None:
    """Nothing is lost with this result."""


def _refuse_to_block_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        "SyncQueue blocks its thread, and in this thread an event loop is running: "
        "await the verbs of a queue from QueueFactory.create_queue instead"
    )


_queues: weakref.WeakSet[SyncQueue] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for queue in list(_queues):
        queue._forked()


@atexit.register
def _leave_at_exit() -> None:
    for queue in list(_queues):
        queue._at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
