"""The worker against a scripted queue: what it makes of each handler, and how it starts, stops and survives."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.errors import (
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    LeaseLost,
    QueueClosed,
    Reject,
    RetryLater,
    UsageError,
)
from streams_queue.messages import Delivery
from streams_queue.worker import Worker, WorkerCounts
from streams_queue.worker.handler import inspect_handler
from streams_queue.worker.outcome import LOST, PROCESSED, End, Outcome, classify, decide, describe
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from streams_queue import messages as seen_by_type_checkers_only

ids = itertools.count()


def delivery(payload: Any = None, **fields: Any) -> Delivery:
    """Return a delivery with an id of its own."""
    number = next(ids)
    return Delivery(
        payload={} if payload is None else payload,
        event_id=f"e{number}",
        entry_id=f"{number}-0",
        deliveries=1,
        **fields,
    )


@dataclass
class ScriptedQueue:
    """Hands out what a test puts in, and writes down how each delivery was settled."""

    settings: Any = None
    settled: list[tuple[Any, ...]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    refusals: list[BaseException] = field(default_factory=list)
    settle_errors: dict[str, BaseException] = field(default_factory=dict)
    running: bool = True
    waiting: list[Delivery] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, *deliveries: Delivery) -> None:
        self.waiting.extend(deliveries)
        self.news.set()

    def close(self) -> None:
        self.running = False
        self.news.set()

    def is_running(self) -> bool:
        return self.running

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        self.asked.append(max_events)
        while not self.waiting and not self.refusals and self.running:
            self.news.clear()
            await self.news.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        taken, self.waiting = self.waiting[:max_events], self.waiting[max_events:]
        return taken

    def _settle(self, verb: str, event: Delivery, *details: Any) -> None:
        if verb in self.settle_errors:
            raise self.settle_errors[verb]
        self.settled.append((verb, event.event_id, *details))

    def ack_soon(self, *deliveries: Delivery) -> None:
        for one in deliveries:
            self._settle("ack", one)

    async def nack(self, one: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        self._settle("nack", one, delay, error)

    async def dead_letter(self, one: Delivery, reason: str) -> None:
        self._settle("dead_letter", one, reason)

    async def release(self, *deliveries: Delivery) -> None:
        for one in deliveries:
            self._settle("release", one)


@pytest.fixture
def queue() -> ScriptedQueue:
    """A queue that does what the test says."""
    return ScriptedQueue()


@asynccontextmanager
async def running(queue: ScriptedQueue, handler: Callable[..., Any], **options: Any) -> AsyncIterator[Worker]:
    """Run a worker around the block; leaving stops it and waits for its end."""
    worker = Worker(queue, handler, **options)  # type: ignore[arg-type]
    run = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await run


async def settled(queue: ScriptedQueue, count: int = 1) -> list[tuple[Any, ...]]:
    """Wait for `count` settlements and return all."""
    await wait_until(lambda: len(queue.settled) >= count, what=lambda: queue.settled)
    return queue.settled


async def outcome_of(queue: ScriptedQueue, handler: Callable[..., Any], **options: Any) -> tuple[Any, ...]:
    """Run one event through a handler and return its settlement, without the event's id."""
    async with running(queue, handler, **options):
        queue.put(delivery())
        (verb, _, *details) = (await settled(queue))[0]
    return (verb, *details)


class Deaf(BaseException):
    """Not an Exception: nothing that a handler would raise about its event."""


# --- settling ------------------------------------------------------------------------------------------------


async def test_a_handler_that_returns_has_its_event_acknowledged(queue: ScriptedQueue) -> None:
    """The handler gets the payload, the queue an ack_soon, the counts one processed event."""
    seen = []

    async def handler(payload: dict[str, Any]) -> None:
        seen.append(payload)

    event = delivery({"n": 1})
    async with running(queue, handler) as worker:
        queue.put(event)
        await settled(queue)
    assert seen == [{"n": 1}]
    assert queue.settled == [("ack", event.event_id)]
    assert worker.counts == WorkerCounts(processed=1)


async def test_a_worker_runs_until_it_is_asked_to_stop(queue: ScriptedQueue) -> None:
    """What it still finishes then does not count."""
    began, go, seen = asyncio.Event(), asyncio.Event(), []

    async def handler(_payload: dict[str, Any]) -> None:
        began.set()
        await go.wait()
        seen.append(worker.is_running())

    worker = Worker(queue, handler)  # type: ignore[arg-type]
    assert not worker.is_running()
    queue.put(delivery())
    run = asyncio.create_task(worker.run())
    await began.wait()
    assert worker.is_running()
    worker.stop()
    assert not worker.is_running()
    go.set()
    await run
    assert (seen, worker.is_running()) == ([False], False)


@pytest.mark.parametrize(
    ("error", "settlement", "counts"),
    [
        (Reject("no such repo"), ("dead_letter", "no such repo"), WorkerCounts(rejected=1)),
        (RetryLater(2.5), ("nack", 2.5, "RetryLater: retry in 2.5 s"), WorkerCounts(postponed=1)),
        (RetryLater(), ("nack", None, "RetryLater: retry later"), WorkerCounts(postponed=1)),
        (KeyError("repo"), ("nack", None, "KeyError: 'repo'"), WorkerCounts(failed=1)),
        (TimeoutError(), ("nack", None, "TimeoutError"), WorkerCounts(failed=1)),
        (asyncio.CancelledError(), ("nack", None, "CancelledError"), WorkerCounts(failed=1)),
        (StopIteration(), ("nack", None, "RuntimeError: coroutine raised StopIteration"), WorkerCounts(failed=1)),
        (RetryLater(-1), ("nack", None, "RetryLater: retry in -1 s"), WorkerCounts(failed=1)),
    ],
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_each_exception_of_a_handler_is_settled_in_its_own_way(
    queue: ScriptedQueue, error: BaseException, settlement: tuple[Any, ...], counts: WorkerCounts, in_thread: bool
) -> None:
    """Async and sync handlers alike; a handler's own CancelledError or TimeoutError is a failure like any other."""

    async def handler(payload: Any) -> None:
        raise error

    def sync_handler(payload: Any) -> None:
        raise error

    async with running(queue, sync_handler if in_thread else handler) as worker:
        event = delivery()
        queue.put(event)
        assert await settled(queue) == [(settlement[0], event.event_id, *settlement[1:])]
    assert worker.counts == counts


@pytest.mark.parametrize("sync", [False, True])
async def test_an_overrunning_handler_is_handed_back_with_its_timeout(queue: ScriptedQueue, sync: bool) -> None:
    """The nack says which timeout; an async handler is cancelled."""
    cancelled, thread_may_end = asyncio.Event(), threading.Event()

    async def handler(payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def sync_handler(payload: Any) -> None:
        thread_may_end.wait(10)

    async with running(queue, sync_handler if sync else handler, handler_timeout=0.02) as worker:
        event = delivery()
        queue.put(event)
        assert await settled(queue) == [("nack", event.event_id, None, "handler timeout after 0.02 s")]
        thread_may_end.set()
    assert worker.counts == WorkerCounts(timed_out=1)
    assert cancelled.is_set() != sync


async def test_an_overrunning_sync_handler_keeps_its_slot_until_its_thread_ends(queue: ScriptedQueue) -> None:
    """With one slot, the second event starts only when the first thread is over, although that was settled long ago."""
    started, thread_may_end, log = threading.Event(), threading.Event(), list[str]()

    def handler(payload: dict[str, str]) -> None:
        log.append(f"{payload['name']} starts")
        if payload["name"] == "first":
            started.set()
            thread_may_end.wait(10)
        log.append(f"{payload['name']} ends")

    async with running(queue, handler, concurrency=1, handler_timeout=0.05):
        queue.put(delivery({"name": "first"}), delivery({"name": "second"}))
        await settled(queue, 1)
        assert log == ["first starts"]
        assert queue.asked == [1]
        thread_may_end.set()
        await settled(queue, 2)
    assert log == ["first starts", "first ends", "second starts", "second ends"]


async def test_the_timeout_of_the_queue_s_settings_is_the_default(queue: ScriptedQueue) -> None:
    """Without an argument the configured handler_timeout applies; math.inf switches it off."""
    queue.settings = SimpleNamespace(handler_timeout=0.02)
    assert await outcome_of(queue, _wait_for_ever) == ("nack", None, "handler timeout after 0.02 s")
    with pytest.raises(ValueError, match="handler_timeout must be above 0"):
        Worker(queue, _wait_for_ever, handler_timeout=0)  # type: ignore[arg-type]
    passed = asyncio.Event()

    async def patient(payload: Any) -> None:
        await asyncio.sleep(0.1)
        passed.set()

    queue.settled.clear()
    assert await outcome_of(queue, patient, handler_timeout=math.inf) == ("ack",)
    assert passed.is_set()


async def _wait_for_ever(payload: Any) -> None:
    await asyncio.Event().wait()


async def test_long_error_texts_are_shortened(queue: ScriptedQueue) -> None:
    """What goes into the dead letter has at most 500 characters."""

    async def handler(payload: Any) -> None:
        raise ValueError("x" * 5000)

    _, _, error = await outcome_of(queue, handler)
    assert len(error) == 500
    assert error.startswith("ValueError: xxx")
    assert error.endswith("…")


async def test_a_lost_lease_cancels_an_async_handler_and_nothing_is_settled(
    queue: ScriptedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """The event belongs to somebody else by then; the slot goes on with the next one."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(payload: dict[str, Any]) -> None:
        if "lost" not in payload:
            return
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    lost, following = delivery({"lost": True}), delivery()
    async with running(queue, handler, concurrency=1) as worker:
        queue.put(lost, following)
        await started.wait()
        lost.lease_lost = True
        await cancelled.wait()
        await settled(queue)
    assert queue.settled == [("ack", following.event_id)]
    assert worker.counts == WorkerCounts(processed=1, lease_lost=1)
    assert f"event {lost.event_id} has lost its lease and was not settled" in caplog.text


async def test_a_sync_handler_that_lost_its_lease_still_reports_finished_work(queue: ScriptedQueue) -> None:
    """A thread cannot be stopped, and finished work needs no ownership to be acknowledged; a failure does."""
    started, may_end = threading.Event(), threading.Event()

    def handler(payload: dict[str, Any]) -> None:
        started.set()
        may_end.wait(10)
        if "bad" in payload:
            raise ValueError

    good, bad = delivery(), delivery({"bad": True})
    async with running(queue, handler, concurrency=2) as worker:
        queue.put(good, bad)
        await wait_until(started.is_set)
        good.lease_lost = bad.lease_lost = True
        may_end.set()
        await wait_until(lambda: worker.counts == WorkerCounts(processed=1, lease_lost=1))
    assert queue.settled == [("ack", good.event_id)]


async def test_an_event_whose_lease_is_lost_before_it_starts_is_not_run(queue: ScriptedQueue) -> None:
    """Running it would be known to be twice."""
    ran = []
    async with running(queue, ran.append) as worker:
        queue.put(delivery(lease_lost=True))
        await wait_until(lambda: worker.counts.lease_lost == 1)
    assert (ran, queue.settled) == ([], [])


async def test_a_settlement_that_finds_the_lease_lost_is_reported_not_raised(
    queue: ScriptedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """LeaseLost from the queue counts as a lost lease and is a warning."""
    queue.settle_errors["nack"] = LeaseLost()
    event = delivery()
    async with running(queue, _fail) as worker:
        queue.put(event)
        await wait_until(lambda: worker.counts.lease_lost == 1)
    assert worker.counts == WorkerCounts(lease_lost=1)
    assert f"event {event.event_id} has lost its lease" in caplog.text


async def _fail(payload: Any) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("error", [BackendUnavailable(), BackendTimeout(), RuntimeError("a bug")])
async def test_a_settlement_that_fails_is_logged_and_the_worker_goes_on(
    queue: ScriptedQueue, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The log names the event, which runs again later; the next event is handled as ever."""
    queue.settle_errors["nack"] = error
    bad, good = delivery({"bad": True}), delivery({})

    async def handler(payload: dict[str, Any]) -> None:
        if payload:
            raise ValueError

    async with running(queue, handler, concurrency=1):
        queue.put(bad, good)
        assert await settled(queue) == [("ack", good.event_id)]
    assert f"could not settle event {bad.event_id} (failed: {describe(error)}); it runs again later" in caplog.text


async def test_success_leaves_no_log_line(queue: ScriptedQueue, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of events a second would drown everything else."""
    caplog.set_level(logging.DEBUG, logger="streams_queue")

    async def handler(payload: Any) -> None:
        return

    async with running(queue, handler):
        queue.put(*(delivery() for _ in range(20)))
        await settled(queue, 20)
    assert [record for record in caplog.records if record.name.startswith("streams_queue")] == []


# --- what a handler may look like ----------------------------------------------------------------------------


async def async_payload(payload: dict[str, Any]) -> None: ...  # noqa: D103 - an example
async def async_delivery(delivery: Delivery) -> None: ...  # noqa: D103 - an example
async def async_optional(delivery: Delivery | None) -> None: ...  # noqa: D103 - an example
async def unresolvable(delivery: seen_by_type_checkers_only.Delivery) -> None: ...  # noqa: D103 - an example
async def unresolvable_payload(payload: seen_by_type_checkers_only.Payload) -> None: ...  # noqa: D103 - an example
def sync_delivery(delivery: Delivery) -> None: ...  # noqa: D103 - an example
async def configured(prefix: str, delivery: Delivery, *, dry: bool = False) -> None: ...  # noqa: D103 - an example


class Processor:
    async def __call__(self, delivery: Delivery) -> None: ...
    async def method(self, payload: dict[str, Any]) -> None: ...
    def sync_method(self, delivery: Delivery) -> None: ...

    @staticmethod
    async def static(delivery: Delivery) -> None: ...


@functools.wraps(async_delivery)
def wrapping(*args: Any) -> Any:  # noqa: D103 - an example
    return async_delivery(*args)


@pytest.mark.parametrize(
    ("handler", "is_async", "takes_delivery"),
    [
        (async_payload, True, False),
        (async_delivery, True, True),
        (async_optional, True, True),
        (unresolvable, True, True),
        (unresolvable_payload, True, False),
        (sync_delivery, False, True),
        (functools.partial(configured, "x"), True, True),
        (functools.partial(functools.partial(configured, "x"), dry=True), True, True),
        (Processor(), True, True),
        (functools.partial(Processor()), True, True),
        (Processor().method, True, False),
        (Processor().sync_method, False, True),
        (Processor.static, True, True),
        (wrapping, False, True),
        (lambda payload: None, False, False),
        (print, False, False),
    ],
)
def test_the_kind_of_a_handler_is_found_out(handler: Any, is_async: bool, takes_delivery: bool) -> None:
    """Functions, partials, methods and callable instances, with annotations that may not even be evaluable."""
    kind = inspect_handler(handler)
    assert (kind.is_async, kind.takes_delivery) == (is_async, takes_delivery)


async def test_a_handler_annotated_with_delivery_gets_it(queue: ScriptedQueue) -> None:
    """And not its payload."""
    seen = []

    async def handler(event: Delivery) -> None:
        seen.append(event)

    event = delivery()
    async with running(queue, handler):
        queue.put(event)
        await settled(queue)
    assert seen == [event]


async def test_a_sync_wrapper_of_an_async_handler_is_awaited(queue: ScriptedQueue) -> None:
    """A decorator that returns the coroutine must not have its event acknowledged unrun."""
    ran = asyncio.Event()

    async def inner(payload: Any) -> None:
        await asyncio.sleep(0)
        ran.set()

    def wrapper(payload: Any) -> Any:
        return inner(payload)

    assert await outcome_of(queue, wrapper) == ("ack",)
    assert ran.is_set()


def generator(payload: Any) -> Iterator[None]:  # noqa: D103 - an example
    yield


async def async_generator(payload: Any) -> AsyncIterator[None]:  # noqa: D103 - an example
    yield


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (None, "A handler must be callable, not NoneType"),
        (generator, "must not be a generator"),
        (async_generator, "must not be a generator"),
        (lambda: None, "called with one argument"),
        (lambda a, b: None, "called with one argument"),
    ],
)
def test_a_handler_that_could_only_fail_is_refused_at_once(queue: ScriptedQueue, handler: Any, message: str) -> None:
    """Better than one dead letter per event."""
    with pytest.raises(UsageError, match=message):
        Worker(queue, handler)  # type: ignore[arg-type]


async def test_sync_handlers_see_the_caller_s_context_in_threads_of_their_own(queue: ScriptedQueue) -> None:
    """Context variables travel into the thread, whose name says which worker it belongs to."""
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("from the caller")
    seen = []

    def handler(payload: Any) -> None:
        seen.append((variable.get(), threading.current_thread().name.startswith("pushes")))

    assert await outcome_of(queue, handler, name="pushes") == ("ack",)
    assert seen == [("from the caller", True)]


# --- concurrency ---------------------------------------------------------------------------------------------


async def test_no_more_events_are_fetched_than_there_are_free_slots(queue: ScriptedQueue) -> None:
    """Three slots: three run at once, the fourth comes when one of them is done."""
    gates = [asyncio.Event() for _ in range(5)]
    started: list[int] = []

    async def handler(payload: dict[str, int]) -> None:
        started.append(payload["n"])
        await gates[payload["n"]].wait()

    async with running(queue, handler, concurrency=3):
        queue.put(*(delivery({"n": n}) for n in range(5)))
        await wait_until(lambda: len(started) == 3)
        assert (sorted(started), queue.asked, len(queue.waiting)) == ([0, 1, 2], [3], 2)
        gates[1].set()
        await wait_until(lambda: len(started) == 4)
        assert queue.asked == [3, 1]
        for gate in gates:
            gate.set()
        await settled(queue, 5)
    assert started == [0, 1, 2, 3, 4]


async def test_quick_handlers_do_not_starve_the_loop(queue: ScriptedQueue) -> None:
    """With handlers that never wait and an endless supply, other tasks of the loop still get their turn."""
    handled = 0

    async def handler(payload: Any) -> None:
        nonlocal handled
        handled += 1
        queue.put(delivery())

    async with running(queue, handler, concurrency=4):
        queue.put(*(delivery() for _ in range(8)))
        await wait_until(lambda: handled > 500)


# --- stopping ------------------------------------------------------------------------------------------------


async def test_stop_lets_running_handlers_finish_and_fetches_nothing_more(queue: ScriptedQueue) -> None:
    """What is running is acknowledged, what waits stays in the queue, and `run` returns."""
    started, may_end = asyncio.Event(), asyncio.Event()

    async def handler(payload: Any) -> None:
        started.set()
        await may_end.wait()

    worker = Worker(queue, handler, concurrency=1)  # type: ignore[arg-type]
    run = asyncio.create_task(worker.run())
    first, second = delivery(), delivery()
    queue.put(first, second)
    await started.wait()
    worker.stop()
    assert not run.done()
    may_end.set()
    await run
    assert queue.settled == [("ack", first.event_id)]
    assert queue.waiting == [second]
    assert worker.counts == WorkerCounts(processed=1)


async def test_unfinished_handlers_are_cancelled_and_given_back_after_the_shutdown_timeout(
    queue: ScriptedQueue,
) -> None:
    """Their delivery is not counted against them: it is a release, not a failure."""
    started = asyncio.Event()

    async def handler(payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    event = delivery()
    async with running(queue, handler, shutdown_timeout=0.02) as worker:
        queue.put(event)
        await started.wait()
    assert queue.settled == [("release", event.event_id)]
    assert worker.counts == WorkerCounts(released=1)


async def test_a_sync_handler_that_does_not_end_is_given_back_too(queue: ScriptedQueue) -> None:
    """Its thread cannot be stopped; `run` returns nevertheless."""
    started, may_end = threading.Event(), threading.Event()

    def handler(payload: Any) -> None:
        started.set()
        may_end.wait(10)

    event = delivery()
    async with running(queue, handler, shutdown_timeout=0.02):
        queue.put(event)
        await wait_until(started.is_set)
    may_end.set()
    assert queue.settled == [("release", event.event_id)]


async def test_a_handler_that_finishes_while_it_is_cancelled_has_done_its_work(queue: ScriptedQueue) -> None:
    """Returning counts, whatever was going on around it."""
    started = asyncio.Event()

    async def handler(payload: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    event = delivery()
    async with running(queue, handler, shutdown_timeout=0):
        queue.put(event)
        await started.wait()
    assert queue.settled == [("ack", event.event_id)]


async def test_a_settlement_under_way_is_not_cut_off_by_the_shutdown(queue: ScriptedQueue) -> None:
    """Only handlers are cancelled, so the failure is told to the queue although shutdown_timeout is over."""
    settling, may_settle = asyncio.Event(), asyncio.Event()
    nack = queue.nack

    async def slow_nack(one: Delivery, *, delay: float | None = None, error: str | None = None) -> None:
        settling.set()
        await may_settle.wait()
        await nack(one, delay=delay, error=error)

    queue.nack = slow_nack  # type: ignore[method-assign]
    event = delivery()
    async with running(queue, _fail, shutdown_timeout=0) as worker:
        queue.put(event)
        await settling.wait()
        worker.stop()
        asyncio.get_running_loop().call_later(0.05, may_settle.set)
    assert queue.settled == [("nack", event.event_id, None, "ValueError: no")]


async def test_cancelling_run_gives_everything_back(queue: ScriptedQueue) -> None:
    """A task group that fails cancels its worker; no event may hang on it."""
    started = asyncio.Event()

    async def handler(payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    worker = Worker(queue, handler)  # type: ignore[arg-type]
    run = asyncio.create_task(worker.run())
    event = delivery()
    queue.put(event)
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert queue.settled == [("release", event.event_id)]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_stop_works_before_run_and_from_another_thread(queue: ScriptedQueue) -> None:
    """Before: `run` returns without fetching. From a thread: the loop is woken."""
    worker = Worker(queue, _fail)  # type: ignore[arg-type]
    worker.stop()
    await worker.run()
    assert queue.settled == []
    run = asyncio.create_task(worker.run())
    await wait_until(lambda: bool(queue.asked))
    await asyncio.to_thread(worker.stop)
    await asyncio.wait_for(run, 5)


async def test_a_worker_runs_once_at_a_time(queue: ScriptedQueue) -> None:
    """A second `run` beside the first is a mistake."""
    async with running(queue, _fail) as worker:
        await wait_until(lambda: bool(queue.asked))
        with pytest.raises(UsageError, match="running already"):
            await worker.run()


@pytest.mark.parametrize("closed", ["empty answers", "QueueClosed"])
async def test_a_queue_that_is_cleaned_up_ends_the_worker(queue: ScriptedQueue, closed: str) -> None:
    """`run` returns as after a stop."""
    run = asyncio.create_task(Worker(queue, _fail).run())  # type: ignore[arg-type]
    await wait_until(lambda: bool(queue.asked))
    if closed == "QueueClosed":
        queue.refusals.append(QueueClosed())
    queue.close()
    await asyncio.wait_for(run, 5)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Deaf])
async def test_a_base_exception_gives_the_event_back_and_ends_the_worker(
    queue: ScriptedQueue, kind: type[BaseException], sync: bool
) -> None:
    """It is no business of the event; `run` raises it when everything is in order."""

    async def handler(payload: Any) -> None:
        raise kind

    def sync_handler(payload: Any) -> None:
        raise kind

    worker = Worker(queue, sync_handler if sync else handler)  # type: ignore[arg-type]
    event = delivery()
    queue.put(event)
    with pytest.raises(kind):
        await worker.run()
    assert queue.settled == [("release", event.event_id)]
    assert worker.counts == WorkerCounts(released=1)


# --- signals -------------------------------------------------------------------------------------------------


@contextmanager
def own_handlers() -> Iterator[list[int]]:
    """Install handlers as an application would; yield what reaches them."""
    reached: list[int] = []
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in former:
        signal.signal(number, lambda got, frame: reached.append(got))
    try:
        yield reached
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_first_signal_stops_gracefully_a_second_at_once(
    queue: ScriptedQueue, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    """And the application's own handlers are back afterwards."""
    caplog.set_level(logging.INFO)
    started = asyncio.Event()

    async def handler(payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    with own_handlers() as reached:
        worker = Worker(queue, handler, shutdown_timeout=3600)  # type: ignore[arg-type]
        run = asyncio.create_task(worker.run())
        event = delivery()
        queue.put(event)
        await started.wait()
        os.kill(os.getpid(), number)
        await wait_until(lambda: f"{number.name}; running handlers have 3600 s to finish" in caplog.text)
        queue.put(left := delivery())
        assert not run.done()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(run, 5)
        assert queue.settled == [("release", event.event_id)]
        assert queue.waiting == [left]
        assert reached == []
        os.kill(os.getpid(), number)
        assert reached == [number]


async def test_a_worker_outside_the_main_thread_leaves_signals_alone(queue: ScriptedQueue) -> None:
    """Only the main thread may handle them; the worker runs and stops all the same."""

    async def in_thread() -> Worker:
        worker = Worker(queue, _fail)  # type: ignore[arg-type]
        worker.stop()
        await worker.run()
        return worker

    before = signal.getsignal(signal.SIGTERM)
    await asyncio.to_thread(lambda: asyncio.run(in_thread()))
    assert signal.getsignal(signal.SIGTERM) is before


# --- errors of receive ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [BackendUnavailable(), BackendTimeout(), BackendRejected("LOADING", passing=True), OSError("a bug")]
)
async def test_the_worker_survives_errors_that_pass(
    queue: ScriptedQueue, caplog: pytest.LogCaptureFixture, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log line for the outage, however many tries it takes, and then it goes on."""
    monkeypatch.setattr("streams_queue.worker.runner.backoff", lambda *args, **kwargs: 0.0)
    caplog.set_level(logging.INFO)
    queue.refusals.extend([error, error, error])

    async def handler(payload: Any) -> None:
        return

    async with running(queue, handler, name="pushes") as worker:
        queue.put(delivery())
        await settled(queue)
    assert worker.counts == WorkerCounts(processed=1)
    assert caplog.text.count("pushes: cannot receive, trying until it works") == 1
    assert caplog.text.count("pushes: receiving again") == 1


async def test_an_error_that_no_retry_mends_is_raised_after_running_handlers_have_finished(
    queue: ScriptedQueue,
) -> None:
    """A wrong password ends `run`; what is running is still settled."""
    started, may_end = asyncio.Event(), asyncio.Event()

    async def handler(payload: Any) -> None:
        started.set()
        await may_end.wait()

    run = asyncio.create_task(Worker(queue, handler, concurrency=2).run())  # type: ignore[arg-type]
    event = delivery()
    queue.put(event)
    await started.wait()
    queue.refusals.append(BackendRejected("WRONGPASS"))
    queue.news.set()
    may_end.set()
    with pytest.raises(BackendRejected, match="WRONGPASS"):
        await run
    assert queue.settled == [("ack", event.event_id)]


# --- the pure part -------------------------------------------------------------------------------------------


@given(st.text())
def test_every_exception_is_described_in_at_most_500_characters(message: str) -> None:
    """Whatever it says, and it begins with its type."""
    text = describe(ValueError(message))
    assert len(text) <= 500
    assert text.startswith("ValueError")


@given(st.floats() | st.integers() | st.none())
def test_only_a_usable_delay_postpones(delay: float | None) -> None:
    """A negative or infinite delay, or one that is not a number, is a failure; the event must not get stuck for it."""
    usable = delay is None or (math.isfinite(delay) and delay >= 0)
    assert classify(RetryLater(delay)).end is (End.POSTPONED if usable else End.FAILED)


@pytest.mark.parametrize("end", End)
def test_without_the_lease_only_finished_work_is_settled(end: End) -> None:
    """With it, everything is."""
    outcome = PROCESSED if end is End.PROCESSED else Outcome(end, "detail")
    assert decide(outcome, lease_lost=False) is outcome
    assert decide(outcome, lease_lost=True).end is (End.PROCESSED if end is End.PROCESSED else LOST.end)
