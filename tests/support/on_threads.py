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
        is_busy: A call is under way on it.
        holds: It has an event from `dequeue`.
        is_done_with: And that event is done, which its next `dequeue` or `task_done` says.
        is_over: It makes no more calls.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self.is_busy = self.holds = self.is_done_with = self.is_over = False

    def begin(self, call: Callable[[], Any]) -> tuple[Turn, Future[Any]]:
        """Make a call; like a coroutine's first step, it has reached the queue when this returns."""
        turn = Turn(call)
        future = self._executor.submit(turn.run)
        assert turn.begun.wait(10)
        return turn, future

    async def carry_out(self, call: Callable[[], Any]) -> Any:
        """Make a call and wait for it; if the waiting task is cancelled, interrupt it."""
        self.is_busy = True
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
            self.is_busy = False

    async def dequeue(self, queue: SyncQueue, timeout: float | None) -> Any:
        """Take an event; the one that it holds is done."""
        payload = await self.carry_out(partial(queue.dequeue, timeout))
        self.holds, self.is_done_with = payload is not None, False
        return payload

    async def say_done(self, queue: SyncQueue) -> None:
        """Say that what it holds is done."""
        await self.carry_out(queue.task_done)
        self.holds = self.is_done_with = False

    def finish(self, queue: SyncQueue) -> None:
        """What it holds is done: say so, and end."""
        self._executor.submit(Turn(queue.task_done).run)
        self.end()

    def end(self) -> None:
        """End after the call that is under way."""
        self.is_over = True
        self._executor.shutdown(wait=False)


class OnThreads:
    """The asyncio port, kept by a SyncQueue."""

    def __init__(self, config: Any, **options: Any) -> None:
        self.sync = Interruptible(config, **options)
        self._threads: weakref.WeakKeyDictionary[asyncio.Task[Any], list[TaskThread]] = weakref.WeakKeyDictionary()
        self._settler = TaskSettler(ack_soon=_are_done, ack_at_task_end=partial(_finish, self.sync), give_back=_end)

    max_size = property(
        lambda self: self.sync.max_size, lambda self, value: _at_once(setattr, self.sync, "max_size", value)
    )
    timeout = property(
        lambda self: self.sync.timeout, lambda self, value: _at_once(setattr, self.sync, "timeout", value)
    )

    def _threads_of(self, task: asyncio.Task[Any]) -> list[TaskThread]:
        if task not in self._threads:
            threads = self._threads[task] = []
            task.add_done_callback(lambda _: [thread.end() for thread in threads if not thread.holds])
        return self._threads[task]

    def _thread(self, task: asyncio.Task[Any], *, to_dequeue: bool = False) -> TaskThread:
        threads = self._threads_of(task)
        for thread in threads:
            keeps = to_dequeue and thread.holds and not thread.is_done_with
            if not (thread.is_busy or thread.is_over or keeps):
                return thread
        threads.append(TaskThread())
        return threads[-1]

    async def _forward(self, verb: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await self._thread(_task()).carry_out(partial(verb, *args, **options))

    # --- the verbs that settle by task ---

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        return self._dequeue(self._settler.claim(), timeout)

    async def _dequeue(self, claim: Claim, timeout: float | None) -> Any | None:
        self._settler.begin(claim)
        thread = self._thread(claim.task, to_dequeue=True)
        thread.is_busy = True
        await self._say_done(claim.task)
        payload = await thread.dequeue(self.sync, timeout)
        if payload is not None:
            self._settler.returned(claim, Delivery(payload, "", "", 0, handle=thread))
        return payload

    async def _say_done(self, task: asyncio.Task[Any]) -> None:
        for thread in self._threads_of(task):
            if thread.is_done_with and not thread.is_busy:
                await thread.say_done(self.sync)

    async def __aenter__(self) -> Self:
        await self._forward(self.sync.__enter__)
        return self

    async def __aexit__(self, *raised: Any) -> None:
        if raised[0] is None:
            self._settler.finish_current_task()
            await self._say_done(_task())
        await self._forward(self.sync.__exit__, *raised)

    async def cleanup(self) -> None:
        await self._forward(self.sync.cleanup)
        _end(self._settler.take_all())

    # --- all others ---

    async def enqueue(self, payload: Any, **options: Any) -> bool:
        return bool(await self._forward(self.sync.enqueue, payload, **options))

    async def enqueue_many(self, payloads: Any, **options: Any) -> Any:
        return await self._forward(self.sync.enqueue_many, payloads, **options)

    async def receive(self, max_events: int = 1, timeout: float | None = None, **options: Any) -> Any:
        return await self._forward(self.sync.receive, max_events, timeout, **options)

    async def ack(self, *deliveries: Delivery) -> None:
        await self._forward(self.sync.ack, *deliveries)

    def ack_soon(self, *deliveries: Delivery) -> None:
        _at_once(self.sync.ack_soon, *deliveries)

    async def flush(self) -> None:
        await self._forward(self.sync.flush)

    async def nack(self, delivery: Delivery, **options: Any) -> None:
        await self._forward(self.sync.nack, delivery, **options)

    async def release(self, *deliveries: Delivery) -> None:
        await self._forward(self.sync.release, *deliveries)

    async def extend(self, *deliveries: Delivery) -> None:
        await self._forward(self.sync.extend, *deliveries)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        await self._forward(self.sync.dead_letter, delivery, reason)

    async def get_queue_depth(self) -> int:
        return int(await self._forward(self.sync.get_queue_depth))

    def get_queue_size(self) -> int:
        return int(_at_once(self.sync.get_queue_size))

    async def stats(self) -> Any:
        return await self._forward(self.sync.stats)

    async def check_health(self) -> Any:
        return await self._forward(self.sync.check_health)

    def is_running(self) -> bool:
        return self.sync.is_running()

    async def peek(self, count: int = 10) -> Any:
        return await self._forward(self.sync.peek, count)

    async def dead_letters(self, count: int = 100, **options: Any) -> Any:
        return await self._forward(self.sync.dead_letters, count, **options)

    async def redrive(self, *dead_ids: str, **options: Any) -> Any:
        return await self._forward(self.sync.redrive, *dead_ids, **options)

    async def purge(self, to: str = "dead") -> Any:
        return await self._forward(self.sync.purge, to)

    async def purge_dead(self, *dead_ids: str, **options: Any) -> Any:
        return await self._forward(self.sync.purge_dead, *dead_ids, **options)

    async def pause(self, **options: Any) -> None:
        await self._forward(self.sync.pause, **options)

    async def resume(self) -> None:
        await self._forward(self.sync.resume)


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _at_once(verb: Callable[..., Any], *args: Any) -> Any:
    """Do on a thread of its own what asyncio's queues do without awaiting."""
    thread = TaskThread()
    _, future = thread.begin(partial(verb, *args))
    thread.end()
    return future.result(10)


def _are_done(tickets: Sequence[Delivery]) -> None:
    for ticket in tickets:
        ticket.handle.is_done_with = True


def _finish(queue: SyncQueue, tickets: Sequence[Delivery]) -> None:
    for ticket in tickets:
        ticket.handle.finish(queue)


def _end(tickets: Sequence[Delivery]) -> None:
    for ticket in tickets:
        ticket.handle.end()
