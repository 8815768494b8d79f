"""The event loop of a SyncQueue, in a thread of one process, and what the other threads have in hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from streams_queue.errors import StreamsQueueError
from streams_queue.messages import Delivery
from streams_queue.queue import Queue
from streams_queue.sync_queue.call import Call

logger = logging.getLogger(__name__)

# How long the end of the interpreter waits for a queue that was not cleaned up.
_AT_EXIT = 3.0
# How long calls that are under way when the queue is closed may take to find out.
_GRACE = 5.0


@dataclass(eq=False, slots=True)
class Hands:
    """The calls of `dequeue` by which one thread took what it has not settled: one, but for signal handlers.

    The thread adds to it before a call is begun; the loop takes away.
    """

    calls: list[Call[Delivery | None]] = field(default_factory=list)


class _Mark:
    """Dies with the thread to which it belongs."""


class Runtime:
    """Runs an event loop in a daemon thread until `end`, and carries out on it what other threads ask for.

    Args:
        queue: Used on this loop and on no other; is cleaned up at the end.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._pid = os.getpid()
        # Held while a call is handed over, so that none comes after the end; reentrant, for signal handlers.
        self._turn = threading.RLock()
        self._is_ending = False
        self._calls: set[Call[Any]] = set()
        self._releases: set[asyncio.Task[None]] = set()
        self._hands = threading.local()
        self._over: Future[None] = Future()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="streams_queue.sync", daemon=True)
        self._thread.start()
        self._loop = started.result()

    # --- called by any thread ---

    def submit(self, call: Call[Any]) -> bool:
        """Have a call carried out; False if the end has come before it."""
        with self._turn:
            if self._is_ending:
                return False
            self._loop.call_soon_threadsafe(self._begin, call)
            return True

    def withdraw(self, call: Call[Any]) -> None:
        """Take a call back whose thread was interrupted: no event may stay behind in hands that know nothing of it."""
        self._post(call.withdraw)

    def hands(self) -> Hands:
        """Return what the calling thread has in hand; when the thread ends, it is given back."""
        hands: Hands | None = getattr(self._hands, "hands", None)
        if hands is None:
            hands = self._hands.hands = Hands()
            mark = self._hands.mark = _Mark()
            # Weakly: what outlives a queue are the threads that used it.
            weakref.finalize(mark, _thread_ended, weakref.ref(self), hands).atexit = False
        return hands

    def end(self) -> None:
        """Clean the queue up and end the thread, which goes on if the caller is interrupted; twice is harmless.

        Raises what the queue's own cleanup raises.
        """
        self.end_soon()
        self._over.result()
        self._thread.join()

    def end_soon(self) -> None:
        """Do as `end` does, without waiting."""
        if not self._has_thread():
            return
        with self._turn:
            if not self._is_ending:
                # In this order: who is interrupted between the two has begun the end all the same.
                self._loop.call_soon_threadsafe(self._end_requested.set)
                self._is_ending = True

    def leave(self) -> None:
        """Clean the queue up at the end of the interpreter, which no event loop may hold up."""
        call = Call[None](lambda queue: queue.cleanup(), None)
        if self.submit(call):
            with contextlib.suppress(StreamsQueueError, TimeoutError):
                call.result(_AT_EXIT)

    def thread_ended(self, hands: Hands) -> None:
        """Give back what an ended thread had in hand; called in that thread, or by the collector in any."""
        if hands.calls:
            self._post(self._give_back_all, hands)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        if not self._has_thread():
            return
        with self._turn:
            if not self._is_ending:
                self._loop.call_soon_threadsafe(callback, *args)

    def _has_thread(self) -> bool:
        """Whether the loop's thread is here to do anything, and to give a lock back that it holds."""
        # A forked child drops the threads of its parent, and with them their marks: their events are the parent's.
        # An interpreter that takes itself apart lets no other thread run.
        return os.getpid() == self._pid and not sys.is_finalizing()

    # --- on the loop ---

    def settle(self, hands: Hands) -> None:
        """Acknowledge what a thread has got from its earlier calls; what it never got goes back."""
        for call in [call for call in hands.calls if call.done()]:
            hands.calls.remove(call)
            if not call.is_claimed:
                call.withdraw()
            elif delivery := call.brought():
                self.queue.ack_soon(delivery)

    def _give_back_all(self, hands: Hands) -> None:
        """Give back what a thread took, and take back what it had asked for."""
        calls, hands.calls = hands.calls, []
        for call in calls:
            call.withdraw()

    def give_back(self, *deliveries: Delivery | None) -> None:
        """Release events in the background: nobody waits for that."""
        self._release_soon([delivery for delivery in deliveries if delivery is not None])

    def _release_soon(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        task = asyncio.get_running_loop().create_task(self._release(deliveries))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self.queue.release(*deliveries)
        except StreamsQueueError as error:
            logger.warning(
                "Could not give back %d events that a thread had taken (%s); their leases run out",
                len(deliveries),
                error,
                extra={"events": len(deliveries), "error": str(error)},
            )

    def _begin(self, call: Call[Any]) -> None:
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.begin(self.queue)

    # --- the thread ---

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner() as runner:
                runner.run(self._live(started))
        except BaseException as failure:  # noqa: BLE001 - told to whoever waits for the end
            error = failure
        for call in list(self._calls):
            call.fail()
        if error is None:
            self._over.set_result(None)
        elif self._end_requested.is_set():
            self._over.set_exception(error)
        else:
            logger.error("The event loop of a queue without asyncio failed; it takes no more calls", exc_info=error)
            self._over.set_result(None)

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        self._end_requested = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        try:
            await self._end_requested.wait()
        finally:
            # Also when the loop failed, which cancels this.
            with self._turn:
                self._is_ending = True
        try:
            await self.queue.cleanup()
        finally:
            await self._last_calls()

    async def _last_calls(self) -> None:
        """Let calls that came before the end find out by themselves that the queue is closed."""
        if tasks := [*self._releases, *(call.task for call in self._calls if call.task is not None)]:
            await asyncio.wait(tasks, timeout=_GRACE)


def _thread_ended(runtime: weakref.ref[Runtime], hands: Hands) -> None:
    alive = runtime()
    if alive is not None:
        alive.thread_ended(hands)
