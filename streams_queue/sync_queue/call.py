"""A call that a thread makes and the event loop carries out, and what becomes of it when the thread is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

from streams_queue.errors import QueueClosed
from streams_queue.queue import Queue

T = TypeVar("T")


class Call(Future[T]):
    """One call: the thread waits for its result, the loop begins, ends or cancels it.

    Args:
        function: What to await on the loop, with the queue that is there.
        unclaimed: Is given the result, on the loop, if the thread never got it; None for what is carried out to its end
            even if nobody waits for it any more, such as a settlement.

    Attributes:
        task: What carries it out; None until its turn comes. Of the loop.
        is_claimed: The thread has the result. It says so itself, in the very step in which it returns: a result that
            came while a signal took the thread elsewhere is not claimed.
    """

    def __init__(self, function: Callable[[Queue], Awaitable[T]], unclaimed: Callable[[T], None] | None) -> None:
        super().__init__()
        self.is_claimed = False
        self.task: asyncio.Task[T] | None = None
        self.function = function
        self._unclaimed = unclaimed
        self._is_withdrawn = False

    # --- on the loop ---

    def begin(self, queue: Queue) -> None:
        """Begin, unless it was withdrawn before its turn came."""
        if self._is_withdrawn:
            self.set_exception(QueueClosed())
            return
        self.task = asyncio.get_running_loop().create_task(self._carry_out(queue))
        self.task.add_done_callback(self._ended)

    def withdraw(self) -> None:
        """Nobody waits for it any more: cancel it, or return what it has brought; a second time is harmless."""
        if self._is_withdrawn or self._unclaimed is None:
            return
        self._is_withdrawn = True
        if self.done():
            self._give_up()
        elif self.task is not None:
            self.task.cancel()

    def fail(self) -> None:
        """End it, whatever it is doing: the loop is over."""
        if not self.done():
            self.set_exception(QueueClosed())

    def brought(self) -> T | None:
        """Return its result; None while there is none, and if it failed."""
        return self.result() if self.done() and self.exception() is None else None

    async def _carry_out(self, queue: Queue) -> T:
        return await self.function(queue)

    def _ended(self, task: asyncio.Task[T]) -> None:
        if self.done():
            return
        if task.cancelled():
            self.set_exception(QueueClosed())
        elif error := task.exception():
            self.set_exception(error)
        else:
            self.set_result(task.result())
            if self._is_withdrawn:
                self._give_up()

    def _give_up(self) -> None:
        if self._unclaimed is not None and self.exception() is None:
            self._unclaimed(self.result())
