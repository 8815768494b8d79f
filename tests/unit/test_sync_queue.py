"""SyncQueue in one process, on a queue in memory: threads, interruptions, ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from streams_queue import ConfigError, EncodeError, EventQueue, QueueClosed, QueueStats, SyncQueue, UsageError
from streams_queue.observer import Observer
from streams_queue.sync_queue.call import Call
from streams_queue.sync_queue.runtime import Runtime
from tests.support.builders import event, events, memory_config
from tests.support.waiting import wait_until_sync


@pytest.fixture
def queue() -> Iterator[SyncQueue]:
    """An empty queue; no thread of it is left afterwards."""
    before = set(threading.enumerate())
    with SyncQueue(memory_config()) as made:
        yield made
    assert set(threading.enumerate()) <= before


def in_thread(function: Callable[[], Any]) -> None:
    """Run a function in a thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def figures(queue: SyncQueue) -> tuple[int, int, int]:
    """Return waiting, in flight and acknowledged."""
    stats = queue.stats()
    return stats.waiting, stats.in_flight, stats.totals["acked"]


def test_the_next_dequeue_of_a_thread_acknowledges(queue: SyncQueue) -> None:
    """What it took before is done, and what it has now is not."""
    queue.enqueue_many(events(3))
    assert queue.dequeue() == event(0)
    assert figures(queue) == (2, 1, 0)
    assert queue.dequeue() == event(1)
    assert figures(queue) == (1, 1, 1)


def test_threads_do_not_acknowledge_for_each_other(queue: SyncQueue) -> None:
    """A dequeue elsewhere leaves alone what this thread has."""
    queue.enqueue_many(events(2))
    assert queue.dequeue() == event(0)
    seen: list[Any] = []
    in_thread(lambda: seen.extend([queue.dequeue(), queue.dequeue(timeout=0), figures(queue)]))
    assert seen == [event(1), None, (0, 1, 1)]


def test_a_thread_that_ends_gives_back(queue: SyncQueue) -> None:
    """The event waits again, deliveries not raised; somebody who waits gets it at once."""
    queue.enqueue(event(0))
    in_thread(queue.dequeue)
    (delivery,) = queue.receive(timeout=5)
    assert (delivery.payload, delivery.deliveries) == (event(0), 1)


def test_task_done_before_the_end_of_a_thread_acknowledges(queue: SyncQueue) -> None:
    """That is how a thread says that its last event is done; without one it does nothing."""
    queue.enqueue(event(0))
    in_thread(lambda: (queue.dequeue(), queue.task_done(), queue.task_done()))
    assert figures(queue) == (0, 0, 1)


def test_the_threads_of_a_pool_keep_what_they_have(queue: SyncQueue) -> None:
    """They do not end with the function that ran in them."""
    queue.enqueue_many(events(2))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(queue.dequeue).result(10) == event(0)
        assert figures(queue) == (1, 1, 0)
        assert pool.submit(queue.dequeue).result(10) == event(1)
        assert figures(queue) == (0, 1, 1)
    wait_until_sync(lambda: figures(queue) == (1, 0, 1))


def test_a_received_delivery_may_be_settled_by_any_thread(queue: SyncQueue) -> None:
    """Receive and ack know no threads, and the end of one gives nothing back."""
    queue.enqueue_many(events(2))
    deliveries: list[Any] = []
    in_thread(lambda: deliveries.extend(queue.receive(2)))
    assert figures(queue) == (0, 2, 0)
    queue.ack(*deliveries)
    assert figures(queue) == (0, 0, 2)


def test_leaving_with_an_exception_gives_back() -> None:
    """Leaving normally acknowledges what the thread took, an exception does not."""
    outcomes: list[QueueStats] = []
    for error in (None, LookupError("no such repository")):
        queue = SyncQueue(memory_config())
        with pytest.raises(LookupError) if error else contextlib.nullcontext(), queue:
            queue.enqueue(event(0))
            queue.dequeue()
            if error:
                raise error
        outcomes.append(queue.stats())
    assert [(stats.waiting, stats.totals["acked"]) for stats in outcomes] == [(0, 1), (1, 0)]


def test_cleanup_wakes_all_threads_that_wait(queue: SyncQueue) -> None:
    """Eight threads that wait for ever get None, and so does a ninth that comes later; two cleanups at once are one."""
    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(queue.dequeue, math.inf) for _ in range(8)]
        wait_until_sync(lambda: queue.run(_open_calls) >= 8)
        cleaning = [pool.submit(queue.cleanup) for _ in range(2)]
        assert [call.result(10) for call in [*waiting, *cleaning]] == [None] * 10
        assert pool.submit(queue.dequeue, math.inf).result(10) is None
    assert not queue.is_running()


async def _open_calls(_: Any) -> int:
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    return sum(name == "Call._carry_out" for name in names) - 1


def test_cleanup_ends_a_producer_that_waits_for_room() -> None:
    """It is told that the queue is closed: False."""
    queue = SyncQueue(memory_config(max_size=1, overflow="block", timeout=30))
    queue.enqueue(event(0))
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(queue.enqueue, event(1))
        wait_until_sync(lambda: queue.run(_open_calls) >= 1)
        queue.cleanup()
        assert blocked.result(10) is False


def test_cleanup_lets_a_call_finish_that_is_under_way(queue: SyncQueue) -> None:
    """Its caller gets the result."""
    begun = threading.Event()

    async def takes_a_while(_: Any) -> str:
        begun.set()
        await asyncio.sleep(0.1)
        return "done"

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(queue.run, takes_a_while)
        assert begun.wait(10)
        queue.cleanup()
        assert slow.result(10) == "done"


def test_no_call_is_handed_over_after_the_end() -> None:
    """Its thread would wait for ever."""
    runtime = Runtime(EventQueue(memory_config()))
    call = Call[None](EventQueue.cleanup, None)
    runtime.end()
    assert not runtime.submit(call)


def test_when_the_loop_fails_nobody_waits_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """Who waits is told, the queue is closed, and the log says why."""
    queue = SyncQueue(memory_config())

    async def fail(_: Any) -> None:
        raise SystemExit(3)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.dequeue, math.inf)
        wait_until_sync(lambda: queue.run(_open_calls) >= 1)
        with pytest.raises(SystemExit):
            queue.run(fail)
        with pytest.raises(QueueClosed):
            waiting.result(10)
    assert queue.enqueue(event(0)) is False
    assert not queue.is_running()
    assert "takes no more calls" in caplog.text


def test_calls_that_race_with_cleanup_are_all_answered() -> None:
    """Whatever moment a call comes at, it is carried out or told that the queue is closed, and none hangs."""
    for _ in range(30):
        queue = SyncQueue(memory_config())
        start = threading.Barrier(5)
        answers: list[bool] = []

        def produce(queue: SyncQueue = queue, start: threading.Barrier = start, answers: Any = answers) -> None:
            start.wait()
            while queue.enqueue(event(0)):
                answers.append(True)
            answers.append(False)

        threads = [threading.Thread(target=produce) for _ in range(4)]
        for thread in threads:
            thread.start()
        start.wait()
        queue.cleanup()
        for thread in threads:
            thread.join(10)
        assert answers.count(False) == 4
        assert queue.stats().totals["enqueued"] == answers.count(True)


def test_a_queue_that_was_never_used_is_closed_without_a_thread() -> None:
    """Nothing is started for that; afterwards it answers as closed."""
    before = threading.active_count()
    queue = SyncQueue(memory_config())
    queue.cleanup()
    assert threading.active_count() == before
    assert queue.enqueue(event(0)) is False
    assert queue.check_health()["error"] == "the queue is closed"


async def test_in_a_running_event_loop_it_says_what_to_use() -> None:
    """Every verb would block the loop, and so would the context manager."""
    queue = SyncQueue(memory_config())
    for blocking in (queue.dequeue, queue.stats, queue.cleanup, queue.__enter__, lambda: queue.enqueue(event(0))):
        with pytest.raises(UsageError, match=r"event loop is running.*create_queue"):
            blocking()
    assert await asyncio.to_thread(queue.enqueue, event(0))
    await asyncio.to_thread(queue.cleanup)


def test_an_observer_that_calls_the_queue_does_not_deadlock(caplog: pytest.LogCaptureFixture) -> None:
    """It runs on the loop, which it would wait for: that is an error, logged as any of an observer."""

    class Asking(Observer):
        def accepted(self, *_: Any) -> None:
            queue.get_queue_size()

    with SyncQueue(memory_config(), observers=(Asking(),)) as queue:
        assert queue.enqueue(event(0))
    assert "event loop is running" in caplog.text


def test_a_forgotten_queue_leaves_no_thread() -> None:
    """One that is dropped without cleanup, with an event in hand, ends its loop."""
    before = set(threading.enumerate())
    queue = SyncQueue(memory_config())
    queue.enqueue(event(0))
    queue.dequeue()
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None
    wait_until_sync(lambda: set(threading.enumerate()) <= before)


def test_errors_come_as_they_are(queue: SyncQueue) -> None:
    """Bad input raises in the calling thread, and the queue goes on."""
    with pytest.raises(EncodeError, match=r"payload\.a"):
        queue.enqueue({"a": math.nan})
    with pytest.raises(UsageError, match="at least 1"):
        queue.receive(0)
    assert queue.enqueue(event(0))


def test_a_bad_configuration_is_told_at_once() -> None:
    """As by the factory, before any thread is there."""
    with pytest.raises(ConfigError, match=r"queue\.type"):
        SyncQueue({"queue": {"type": "rediss", "max_size": 1, "timeout": 1, "retry_policy": {}}})


def test_limits_may_be_set_at_any_time(queue: SyncQueue) -> None:
    """max_size and timeout are the queue's own."""
    queue.max_size, queue.timeout = 1, 0.01
    assert (queue.max_size, queue.timeout) == (1, 0.01)
    assert [queue.enqueue(event(0)), queue.enqueue(event(1))] == [True, False]
    queue.receive()
    assert queue.dequeue() is None


def test_what_a_thread_has_set_in_its_context_is_there_on_the_loop(queue: SyncQueue) -> None:
    """So that the trace of a web request goes on in its event."""
    variable = contextvars.ContextVar("variable", default="")
    variable.set("mine")

    async def look(_: Any) -> str:
        return variable.get()

    assert queue.run(look) == "mine"


@pytest.mark.parametrize("call", ["cleanup()", "enqueue({})", "dequeue()", "__exit__(None, None, None)"])
def test_an_object_that_dies_with_the_interpreter_may_still_call_the_queue(call: str) -> None:
    """Its __del__ runs when the thread of the loop does not any more: nothing waits for that one."""
    program = f"""if True:
        from streams_queue import SyncQueue

        class Service:
            def __init__(self):
                self.queue = SyncQueue({memory_config()!r})
                self.queue.enqueue({{}})

            def __del__(self):
                try:
                    self.queue.{call}
                    print("done", flush=True)
                except Exception as error:
                    print(type(error).__name__, flush=True)

        service = Service()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == ("done" if call[0] in "c_" else "QueueClosed")
