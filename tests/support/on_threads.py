"""A SyncQueue behind the asyncio port, for the contract's tests: each asyncio task is a thread.

What a thread cannot see is decided here by the rule of asyncio tasks, and carried out with what SyncQueue has for it: a
task that ends normally calls `task_done`, one that fails just ends its thread, and a cancelled call is interrupted as
Ctrl-C does. A task with several calls of `dequeue` open at once has a thread for each.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Self

from streams_queue import Delivery, SyncQueue
from streams_queue.settling import Claim, TaskSettler

_INTERRUPTED = object()
_current = threading.local()


class Turn:
    """One call on a thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._interruption: Future[None] = Future()
        self.begun = threading.Event()

    def run(self) -> Any:
        """Make the call in this thread."""
        _current.turn = self
        try:
            return self._call()
        except KeyboardInterrupt:
            return _INTERRUPTED
        finally:
            self.begun.set()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the thread, if it is still waiting."""
        self._interruption.set_result(None)

    def wait(self, call: Future[Any]) -> None:
        """Wait for a call that the queue has been told of, or for an interruption."""
        self.begun.set()
        wait([call, self._interruption], return_when=FIRST_COMPLETED)
        if self._interruption.done():
            raise KeyboardInterrupt


class Interruptible(SyncQueue):
    """Its threads can be interrupted by others, which Python does to the main thread only."""

    def _outcome(self, call: Any) -> Any:
        _current.turn.wait(call)
        return super()._outcome(call)


class TaskThread:
    """A thread that makes calls for one task.

    Attributes:
        is_free: Whether a call may be made on it: none is under way, and it holds nothing that its next one would settle.
        is_done_with: Whether what it holds is done, which its next `dequeue` or `task_done` says.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self.is_free = True
        self.is_done_with = False

    def begin(self, call: Callable[[], Any]) -> tuple[Turn, Future[Any]]:
        """Make a call; like a coroutine's first step, it has reached the queue when this returns."""
        turn = Turn(call)
        future = self._executor.submit(turn.run)
        assert turn.begun.wait(10)
        return turn, future

    async def carry_out(self, call: Callable[[], Any]) -> Any:
        """Make a call and wait for it; if the waiting task is cancelled, interrupt it."""
        self.is_free = False
        turn, future = self.begin(call)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            turn.interrupt()
            if await asyncio.wrap_future(future) is not _INTERRUPTED:
                # It has come back with something that nobody will hear of: whatever it took goes back.
                self.end()
            raise
        finally:
            self.is_free = True

    def finish(self, queue: SyncQueue) -> None:
        """What it holds is done: say so, and end."""
        self._executor.submit(Turn(queue.task_done).run)
        self.end()

    def end(self) -> None:
        """End after the call that is under way."""
        self._executor.shutdown(wait=False)


class OnThreads:
    """The asyncio port, kept by a SyncQueue."""

    def __init__(self, config: Any, **options: Any) -> None:
        self.sync = Interruptible(config, **options)
        self._threads: weakref.WeakKeyDictionary[asyncio.Task[Any], list[TaskThread]] = weakref.WeakKeyDictionary()
        self._settler = TaskSettler(
            ack_soon=self._done, ack_at_task_end=partial(_finish, self.sync), give_back=self._give_back
        )

    max_size = property(
        lambda self: self.sync.max_size, lambda self, value: self._at_once(setattr, self.sync, "max_size", value)
    )
    timeout = property(
        lambda self: self.sync.timeout, lambda self, value: self._at_once(setattr, self.sync, "timeout", value)
    )

    # --- threads ---

    def _thread(self, task: asyncio.Task[Any]) -> TaskThread:
        threads = self._threads.get(task)
        if threads is None:
            threads = self._threads[task] = []
            task.add_done_callback(lambda _: [thread.end() for thread in threads if thread.is_free])
        for thread in sorted(threads, key=lambda thread: not thread.is_done_with):
            if thread.is_free:
                return thread
        threads.append(TaskThread())
        return threads[-1]

    def _drop(self, thread: TaskThread) -> None:
        thread.end()
        for threads in self._threads.values():
            if thread in threads:
                threads.remove(thread)

    async def _forward(self, verb: Callable[..., Any], *args: Any, **options: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        return await self._thread(task).carry_out(partial(verb, *args, **options))

    def _at_once(self, verb: Callable[..., Any], *args: Any) -> Any:
        thread = TaskThread()
        _, future = thread.begin(partial(verb, *args))
        thread.end()
        return future.result(10)
