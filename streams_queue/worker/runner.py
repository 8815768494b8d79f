"""The worker's loop: a free slot fetches for all that are free, and each event goes through the same few steps.

start → run_handler → classify → decide → settle → report. How often and when a failed event runs again is the queue's
own decision in `nack`. A slot is one long-lived task, so that an event costs no task of its own; the one that fetched
runs the first event itself, so that it waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import math
import random
import signal
import time
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from streams_queue.errors import BackendRejected, LeaseLost, QueueClosed, StreamsQueueError, UsageError
from streams_queue.messages import Delivery
from streams_queue.observer import Observers
from streams_queue.queue import Queue
from streams_queue.retry import RetryPolicy, backoff
from streams_queue.worker.handler import Handler, call_caught, inspect_handler
from streams_queue.worker.outcome import (
    LOST,
    PROCESSED,
    End,
    Outcome,
    WorkerCounts,
    classify,
    decide,
    describe,
    timed_out,
)
from streams_queue.worker.signals import on_stop_signals

logger = logging.getLogger(__name__)

_RECEIVE_WAIT = 30.0
# More that is decoded at once leaves the processor's caches before the handlers see it.
_AT_ONCE_BYTES = 64 * 1024
_RECEIVE_BACKOFF = RetryPolicy(base_delay=0.1, max_delay=5.0, jitter=0.5)
_LEASE_CHECK_INTERVAL = 0.2
_DEFAULT_SHUTDOWN_TIMEOUT = 30.0
_UNWIND_TIMEOUT = 5.0


@dataclass(slots=True, eq=False)
class _Slot:
    """A place for one running event.

    Attributes:
        task: Runs one delivery after the other.
        delivery: What is in it and not settled yet; None between two.
        running: The handler is being awaited, so that cancelling the task cancels the handler and nothing else.
        interrupt: Why the worker cancelled the handler; None if it did not.
        thread: What runs a sync handler; it may outlive the handler's timeout and keeps the slot until it ends.
        loss_logged: It was logged that this delivery's lease is lost.
    """

    task: asyncio.Task[None] | None = None
    delivery: Delivery | None = None
    running: bool = False
    interrupt: End | None = None
    thread: asyncio.Future[tuple[Any, BaseException | None]] | None = None
    loss_logged: bool = False


class Worker:
    """Runs a handler on the events of a queue.

    A handler that returns has its event acknowledged. One that raises hands it back: `Reject` makes it a dead letter,
    `RetryLater` postpones it, any other exception is a failure that the queue retries by its policy. KeyboardInterrupt
    and SystemExit give the event back and end the worker.

    Attributes:
        counts: What became of the events so far.
        name: Stands in logs and in the names of tasks and threads.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        concurrency: int = 10,
        handler_timeout: float | None = None,
        shutdown_timeout: float | None = None,
        name: str = "worker",
    ) -> None:
        """Set the worker up; nothing runs before `run`.

        Args:
            queue: Where the events come from; its owner cleans it up.
            handler: Async, or sync and then run in threads. Gets the payload, or the `Delivery` if its first parameter
                is annotated so.
            concurrency: How many events run at once; at least 1.
            handler_timeout: Seconds before a run counts as failed; None takes the queue's setting, math.inf is none.
            shutdown_timeout: Seconds that running handlers have to finish once the worker is stopped; None takes the
                handler_timeout, or 30 if there is none.
            name: For logs, tasks and threads.

        Raises:
            UsageError: The handler cannot be called with one argument, or is a generator.
            ValueError: A number is out of its range.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.counts = WorkerCounts()
        self.name = name
        self._queue = queue
        self._handler = handler
        self._kind = inspect_handler(handler)
        self._call = self._call_async if self._kind.is_async else self._call_in_thread
        self._observers: Observers = getattr(queue, "observers", None) or Observers()
        self._watched = self._observers.watch_handlers
        self._handler_timeout = _handler_timeout(handler_timeout, queue)
        self._shutdown_timeout = _shutdown_timeout(shutdown_timeout, self._handler_timeout)
        self._slots = [_Slot() for _ in range(concurrency)]
        self._ready: deque[Delivery] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._waking: asyncio.Handle | None = None
        self._done: list[Delivery] = []
        self._durations: list[float] = []
        self._busy = 0
        self._receiver: asyncio.Task[None] | None = None
        self._failures = 0
        self._stopping = asyncio.Event()
        self._stop_asked = False
        self._signals = 0
        self._grace: asyncio.Timeout | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._fatal: BaseException | None = None

    # --- from outside ---

    async def run(self) -> None:
        """Handle events until `stop`, SIGTERM or SIGINT, or until the queue is cleaned up.

        Stopping is graceful: nothing more is fetched, running handlers may finish within shutdown_timeout, and what is
        unfinished then is cancelled and given back. A second signal cancels at once. The signal handlers that were
        installed before are put back at the end; outside the main thread signals are left alone.

        Raises:
            StreamsQueueError: What no retry mends, such as a wrong password; running handlers have finished by then.
            UsageError: The worker is running already.

        Cancelled: Running handlers are cancelled and their events given back.
        """
        if self._loop is not None:
            raise UsageError("This worker is running already")
        self._begin()
        try:
            with on_stop_signals(self._on_signal):
                await self._serve()
        finally:
            self._end()
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """Ask the worker to stop gracefully; returns at once, from any thread, also before `run`."""
        self._stop_asked = True
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._stopping.set)

    def is_running(self) -> bool:
        """True while it fetches events: from the beginning of `run` until it is asked to stop; from any thread."""
        return self._loop is not None and not self._stop_asked and not self._stopping.is_set()

    @property
    def running_handlers(self) -> int:
        """How many handlers run at this moment."""
        return self._busy

    # --- a whole run ---

    def _begin(self) -> None:
        self._stopping = asyncio.Event()
        self._signals, self._busy, self._failures, self._fatal = 0, 0, 0, None
        self._loop = asyncio.get_running_loop()
        if self._stop_asked:
            self._stopping.set()

    def _end(self) -> None:
        self._loop = None
        self._stop_asked = False
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _serve(self) -> None:
        watch = self._spawn(self._watch_leases(), "leases")
        slots = [self._spawn(self._run_slot(slot), f"slot {number}") for number, slot in enumerate(self._slots)]
        for slot, task in zip(self._slots, slots, strict=True):
            slot.task = task
        try:
            await self._until_stopped(watch, *slots)
            self._stop_receiving()
            await self._finish_running(slots)
        finally:
            self._stopping.set()
            self._stop_receiving()
            await _cancel(watch)
            await self._cancel_running(slots)
            self._ack_done()
            await self._give_back()
            self._raise_later(watch, *slots)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"{self.name}: {what}")

    async def _until_stopped(self, *tasks: asyncio.Task[None]) -> None:
        """Wait for a stop, or for one of the tasks to end, which none does while all is well."""
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(stop)
            self._stopping.set()

    async def _finish_running(self, slots: list[asyncio.Task[None]]) -> None:
        """Let running handlers finish, until shutdown_timeout is over or a second signal comes."""
        self._wake_all()
        try:
            async with asyncio.timeout(0 if self._signals > 1 else self._shutdown_timeout) as self._grace:
                await asyncio.wait(slots)
        except TimeoutError:
            logger.warning(
                "%s: cancelling %d handlers that have not finished",
                self.name,
                self._busy,
                extra={"worker": self.name, "handlers": self._busy},
            )
        finally:
            self._grace = None

    async def _cancel_running(self, slots: list[asyncio.Task[None]]) -> None:
        self._wake_all()
        for slot in self._slots:
            self._interrupt(slot, End.RELEASED)
        _, stuck = await asyncio.wait(slots, timeout=_UNWIND_TIMEOUT)
        for task in stuck:
            task.cancel()
            logger.error("%s ignores its cancellation and is left behind", task.get_name(), extra={"worker": self.name})

    async def _give_back(self) -> None:
        """Release what was fetched and not started, and what no slot could settle any more."""
        unfinished = [*self._ready, *(slot.delivery for slot in self._slots if slot.delivery is not None)]
        self._ready.clear()
        if unfinished:
            await self._release(unfinished)

    async def _release(self, deliveries: list[Delivery]) -> None:
        try:
            await self._queue.release(*deliveries)
        except Exception as error:  # noqa: BLE001 - the shutdown goes on; the leases run out by themselves
            ids = ", ".join(delivery.event_id for delivery in deliveries)
            logger.warning(
                "%s: could not give back %s; they run again later (%s)",
                self.name,
                ids,
                describe(error),
                extra={"worker": self.name, "event_ids": ids, "error": describe(error)},
            )
        self.counts.add(End.RELEASED, len(deliveries))

    def _raise_later(self, *tasks: asyncio.Task[None]) -> None:
        """Keep the error of a task that broke, so that `run` ends with it instead of going on with fewer slots."""
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self._fatal = self._fatal or error

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        self._stopping.set()
        if self._signals == 1:
            logger.info(
                "%s: %s; running handlers have %g s to finish",
                self.name,
                number.name,
                self._shutdown_timeout,
                extra={"worker": self.name, "signal": number.name, "seconds": self._shutdown_timeout},
            )
        elif self._grace is not None and not self._grace.expired():
            self._grace.reschedule(asyncio.get_running_loop().time())

    # --- slots ---

    async def _run_slot(self, slot: _Slot) -> None:
        while not self._stopping.is_set():
            if self._ready:
                delivery = self._ready.popleft()
                self._busy += 1
                if self._idle and self._waking is None:
                    self._waking = asyncio.get_running_loop().call_soon(self._wake_others)
                await self._deliver(slot, delivery)
                self._busy -= 1
                if not self._ready:
                    # A handler that never waits must not keep the reader from fetching what comes next.
                    await asyncio.sleep(0)
            elif self._receiver is None and not self._stop_asked:
                await self._receive()
            else:
                await self._wait_for_work()

    async def _receive(self) -> None:
        """Ask the queue, for this slot and all that are free; survives every error that a retry may mend."""
        self._receiver = asyncio.current_task()
        free = len(self._slots) - self._busy
        try:
            deliveries = await self._queue.receive(free, _RECEIVE_WAIT, max_bytes=_AT_ONCE_BYTES)
        except QueueClosed:
            self._stopping.set()
        except Exception as error:
            if _is_final(error):
                raise
            self._failures += 1
            await self._wait_after(error)
        else:
            if self._failures:
                logger.info("%s: receiving again", self.name, extra={"worker": self.name})
                self._failures = 0
            if not deliveries and not self._queue.is_running():
                self._stopping.set()
            self._ready.extend(deliveries)
        finally:
            self._receiver = None

    async def _wait_after(self, error: Exception) -> None:
        """Log the first failure of an outage, and wait before the next try."""
        if self._failures == 1:
            trace = None if isinstance(error, StreamsQueueError) else error
            logger.warning(
                "%s: cannot receive, trying until it works (%s)",
                self.name,
                describe(error),
                exc_info=trace,
                extra={"worker": self.name, "error": describe(error)},
            )
        await asyncio.sleep(backoff(self._failures, _RECEIVE_BACKOFF, jitter=random.random()))

    def _stop_receiving(self) -> None:
        """End the wait for events; whatever the queue has not handed out stays there."""
        if self._receiver is not None:
            self._receiver.cancel()

    async def _wait_for_work(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        await waiter

    def _wake_others(self) -> None:
        """Wake a slot for each event and one that asks for more; a handler that never waits has done it all by now."""
        self._waking = None
        wanted = len(self._ready) + (self._receiver is None)
        for _ in range(min(wanted, len(self._idle))):
            _wake(self._idle.popleft())

    def _wake_all(self) -> None:
        while self._idle:
            _wake(self._idle.popleft())

    def _interrupt(self, slot: _Slot, why: End) -> None:
        """Cancel the slot's handler, or its wait for an overrunning thread; a settlement under way is left alone."""
        outlasting = slot.delivery is None and slot.thread is not None
        if slot.task is not None and slot.interrupt is None and (slot.running or outlasting):
            slot.task.cancel()
        slot.interrupt = slot.interrupt or why

    async def _watch_leases(self) -> None:
        """Cancel handlers whose lease is lost: their event may be running elsewhere by now."""
        while True:
            await asyncio.sleep(_LEASE_CHECK_INTERVAL)
            for slot in self._slots:
                if slot.running and slot.delivery is not None and slot.delivery.lease_lost and not slot.loss_logged:
                    self._lose(slot, slot.delivery)

    def _lose(self, slot: _Slot, delivery: Delivery) -> None:
        slot.loss_logged = True
        if self._kind.is_async:
            self._interrupt(slot, End.LEASE_LOST)
        else:
            logger.warning(
                "%s: event %s has lost its lease; its thread goes on",
                self.name,
                delivery.event_id,
                extra={"worker": self.name, "event_id": delivery.event_id},
            )

    # --- one delivery ---

    async def _deliver(self, slot: _Slot, delivery: Delivery) -> None:
        slot.delivery, slot.interrupt, slot.loss_logged = delivery, None, False
        began = 0.0
        if self._watched and not delivery.lease_lost:
            if delivery.headers:
                self._observers.handling(delivery)
            began = time.perf_counter()
        outcome = LOST if delivery.lease_lost else await self._run_handler(slot, delivery)
        if began:
            seconds = time.perf_counter() - began
            if delivery.headers:
                self._observers.handled(delivery, seconds, outcome.end, outcome.error)
            if outcome is PROCESSED:
                self._durations.append(seconds)
            else:
                self._observers.handled_together([seconds], outcome.end)
        outcome = decide(outcome, lease_lost=delivery.lease_lost)
        end = self._ack(delivery) if outcome is PROCESSED else await self._settle(delivery, outcome)
        slot.delivery = None
        self._report(delivery, end, outcome)
        if slot.thread is not None:
            await self._outlast(slot)

    async def _run_handler(self, slot: _Slot, delivery: Delivery) -> Outcome:
        """Run the handler within its timeout; raises only what does not come from the handler or the worker."""
        argument = delivery if self._kind.takes_delivery else delivery.payload
        overrun: asyncio.Timeout | None = None
        slot.running = True
        try:
            if self._handler_timeout is None:
                await self._call(slot, argument)
            else:
                async with asyncio.timeout(self._handler_timeout) as overrun:
                    await self._call(slot, argument)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything; what is not its own goes on below
            return self._interpret(slot, error, overrun)
        finally:
            slot.running = False
            if slot.interrupt is not None and slot.task is not None:
                slot.task.uncancel()
        return PROCESSED

    def _interpret(self, slot: _Slot, error: BaseException, overrun: asyncio.Timeout | None) -> Outcome:
        """Name what ended a handler: the worker's own interruption, its timeout, an outsider, or its own doing."""
        if slot.interrupt is not None:
            return Outcome(slot.interrupt, describe(error))
        if overrun is not None and overrun.expired():
            return timed_out(self._handler_timeout or 0.0)
        if isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and _is_cancelled(slot.task)):
            raise error
        return classify(error)

    async def _call_async(self, _slot: _Slot, argument: Any) -> None:
        await self._handler(argument)

    async def _call_in_thread(self, slot: _Slot, argument: Any) -> None:
        """Run a sync handler in a thread, in a copy of this context; await what it returns if that can be awaited."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        slot.thread = loop.run_in_executor(self._executor(), context.run, call_caught, self._handler, argument)
        result, error = await asyncio.shield(slot.thread)
        slot.thread = None
        if error is not None:
            raise error
        if inspect.isawaitable(result):
            await result

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=len(self._slots), thread_name_prefix=self.name)
        return self._threads

    async def _outlast(self, slot: _Slot) -> None:
        """Keep the slot until its overrunning thread ends, so that never more threads run than there are slots."""
        if slot.thread is not None and slot.interrupt is None:
            await asyncio.wait({slot.thread})
        slot.thread = None

    async def _settle(self, delivery: Delivery, outcome: Outcome) -> End:
        """Tell the queue, and return how it ended after all; an event that cannot be settled runs again later."""
        try:
            match outcome.end:
                case End.FAILED | End.TIMED_OUT:
                    await self._queue.nack(delivery, error=outcome.detail)
                case End.POSTPONED:
                    await self._queue.nack(delivery, delay=outcome.delay, error=outcome.detail)
                case End.REJECTED:
                    await self._queue.dead_letter(delivery, outcome.detail)
                case End.RELEASED:
                    await self._queue.release(delivery)
                case End.LEASE_LOST:
                    pass
        except LeaseLost:
            return End.LEASE_LOST
        except Exception as error:  # noqa: BLE001 - one event that cannot be settled must not end the others
            self._could_not_settle(delivery, outcome.end, error)
        return outcome.end

    def _ack(self, delivery: Delivery) -> End:
        """Note that it is done; all that are done in one turn of the event loop are acknowledged together."""
        self._done.append(delivery)
        if len(self._done) == 1:
            asyncio.get_running_loop().call_soon(self._ack_done)
        return End.PROCESSED

    def _ack_done(self) -> None:
        """Tell the queue; the server learns it with the next read."""
        done, self._done = self._done, []
        if self._durations:
            durations, self._durations = self._durations, []
            self._observers.handled_together(durations, End.PROCESSED)
        try:
            if done:
                self._queue.ack_soon(*done)
        except Exception as error:  # noqa: BLE001 - as in _settle
            for delivery in done:
                self._could_not_settle(delivery, End.PROCESSED, error)

    def _could_not_settle(self, delivery: Delivery, end: End, error: Exception) -> None:
        what = f"event {delivery.event_id} ({end}: {describe(error)})"
        logger.warning(
            "%s: could not settle %s; it runs again later",
            self.name,
            what,
            extra={"worker": self.name, "event_id": delivery.event_id, "error": describe(error)},
        )

    def _report(self, delivery: Delivery, end: End, outcome: Outcome) -> None:
        if end is End.PROCESSED:
            self.counts.processed += 1
            return
        self.counts.add(end)
        match end:
            case End.FAILED | End.TIMED_OUT:
                run = f"event {delivery.event_id}, delivery {delivery.deliveries}"
                logger.warning(
                    "%s: %s failed: %s",
                    self.name,
                    run,
                    outcome.detail,
                    exc_info=outcome.error,
                    extra={
                        "worker": self.name,
                        "event_id": delivery.event_id,
                        "deliveries": delivery.deliveries,
                        "error": outcome.detail,
                    },
                )
            case End.LEASE_LOST:
                logger.warning(
                    "%s: event %s has lost its lease and was not settled",
                    self.name,
                    delivery.event_id,
                    extra={"worker": self.name, "event_id": delivery.event_id},
                )
            case End.RELEASED if outcome.error is not None:
                self._fatal = self._fatal or outcome.error
                self._stopping.set()


def _handler_timeout(given: float | None, queue: Queue) -> float | None:
    """Return the timeout to use, in seconds; None for none."""
    seconds = given if given is not None else getattr(getattr(queue, "settings", None), "handler_timeout", None)
    if seconds is None or seconds == math.inf:
        return None
    if not seconds > 0:
        raise ValueError(f"handler_timeout must be above 0, not {seconds}")
    return float(seconds)


def _shutdown_timeout(given: float | None, handler_timeout: float | None) -> float:
    if given is None:
        return handler_timeout or _DEFAULT_SHUTDOWN_TIMEOUT
    if not given >= 0:
        raise ValueError(f"shutdown_timeout must be at least 0, not {given}")
    return given


def _is_final(error: Exception) -> bool:
    """Tell whether receiving can never work again: an error of ours that no retry mends."""
    passing = isinstance(error, BackendRejected) and error.passing
    return isinstance(error, StreamsQueueError) and not error.retryable and not passing


def _is_cancelled(task: asyncio.Task[None] | None) -> bool:
    return task is not None and task.cancelling() > 0


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end, whatever it is."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
