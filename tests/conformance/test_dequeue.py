"""How dequeue settles: every rule, on every queue."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams_queue.errors import UsageError
from streams_queue.queue import Queue
from tests.conformance.kinds import Kind
from tests.conformance.whole import assert_state, state_of, whole
from tests.support.builders import event, events

MakeQueue = Callable[..., Queue]


@pytest.fixture
async def five(queue: Queue) -> Queue:
    """A queue that holds the events 0 to 4."""
    await queue.enqueue_many(events(5))
    return queue


async def in_task(coroutine: Any) -> Any:
    """Run in a task of its own and let its callbacks run."""
    return await asyncio.create_task(coroutine)


async def test_a_plain_loop_is_at_least_once(five: Queue) -> None:
    """The next dequeue acknowledges the event before; the one in hand is not acknowledged yet."""

    async def loop() -> None:
        assert await five.dequeue() == event(0)
        await assert_state(five, whole(waiting=4, in_flight=1, enqueued=5))
        assert await five.dequeue() == event(1)
        await assert_state(five, whole(waiting=3, in_flight=1, enqueued=5, acked=1))

    await in_task(loop())


async def test_an_idle_dequeue_acknowledges_too(queue: Queue) -> None:
    """A dequeue that finds nothing has settled the event before it."""

    async def loop() -> None:
        await queue.enqueue(event(1))
        await queue.dequeue()
        assert await queue.dequeue(timeout=0.1) is None
        await assert_state(queue, whole(enqueued=1, acked=1))

    await in_task(loop())


async def test_timeout_zero_returns_at_once(queue: Queue) -> None:
    """A poll does not wait, and finds what is there."""
    started = time.monotonic()
    assert await queue.dequeue(timeout=0) is None
    assert time.monotonic() - started < 0.5
    await queue.enqueue(event(1))
    assert await queue.dequeue(timeout=0) == event(1)


async def test_an_infinite_timeout_waits_for_the_next_event(queue: Queue) -> None:
    """math.inf waits as long as it takes."""

    async def waits() -> None:
        assert await queue.dequeue(math.inf) == event(1)

    waiting = asyncio.create_task(waits())
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    await queue.enqueue(event(1))
    await asyncio.wait_for(waiting, 5)


async def test_the_task_is_the_one_that_calls(five: Queue) -> None:
    """wait_for runs its argument in a task of its own on Python 3.11; the caller settles all the same."""

    async def loop() -> None:
        assert await asyncio.wait_for(five.dequeue(), 5) == event(0)
        await assert_state(five, whole(waiting=4, in_flight=1, enqueued=5))
        assert await asyncio.wait_for(five.dequeue(), 5) == event(1)
        await assert_state(five, whole(waiting=3, in_flight=1, enqueued=5, acked=1))

    await in_task(loop())
    await assert_state(five, whole(waiting=3, enqueued=5, acked=2))


async def test_a_wait_that_times_out_loses_nothing(queue: Queue) -> None:
    """An event that comes after wait_for gave up goes to the next dequeue."""

    async def loop() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queue.dequeue(30), 0.1)
        await queue.enqueue(event(1))
        assert await asyncio.wait_for(queue.dequeue(30), 5) == event(1)

    await in_task(loop())
    await assert_state(queue, whole(enqueued=1, acked=1))


async def test_calls_open_at_once_do_not_acknowledge_each_other(five: Queue) -> None:
    """Gathered events are all in flight until the task comes back for more."""

    async def gathers() -> None:
        taken = await asyncio.gather(*(five.dequeue() for _ in range(3)))
        assert sorted(payload["n"] for payload in taken) == [0, 1, 2]
        await assert_state(five, whole(waiting=2, in_flight=3, enqueued=5))
        await five.dequeue()
        await assert_state(five, whole(waiting=1, in_flight=1, enqueued=5, acked=3))

    await in_task(gathers())


async def test_tasks_do_not_acknowledge_for_each_other(five: Queue) -> None:
    """Two loops on one queue settle their own events only."""
    both_took = asyncio.Barrier(2)

    async def loop() -> None:
        await five.dequeue()
        await both_took.wait()
        await assert_state(five, whole(waiting=3, in_flight=2, enqueued=5))
        await both_took.wait()

    await asyncio.gather(loop(), loop())
    await assert_state(five, whole(waiting=3, enqueued=5, acked=2))


async def test_a_task_that_ends_normally_acknowledges(five: Queue) -> None:
    """The last event of a task is done when the task is."""

    async def takes() -> str:
        await five.dequeue()
        return "done"

    assert await in_task(takes()) == "done"
    await assert_state(five, whole(waiting=4, enqueued=5, acked=1))


async def test_a_task_that_fails_gives_back(five: Queue) -> None:
    """The event of a failed task is available again at once, deliveries not raised."""

    async def fails() -> None:
        await five.dequeue()
        raise LookupError("no such repository")

    with pytest.raises(LookupError):
        await in_task(fails())
    await assert_state(five, whole(waiting=5, enqueued=5, released=1))
    deliveries = [delivery for _ in range(5) for delivery in await five.receive()]
    assert sorted((delivery.payload["n"], delivery.deliveries) for delivery in deliveries) == [
        (number, 1) for number in range(5)
    ]


async def test_a_task_that_is_cancelled_gives_back(five: Queue) -> None:
    """The event of a cancelled task is available again at once."""
    took = asyncio.Event()

    async def hangs() -> None:
        await five.dequeue()
        took.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(hangs())
    await took.wait()
    task.cancel()
    await asyncio.wait({task})
    await assert_state(five, whole(waiting=5, enqueued=5, released=1))


async def test_cancelling_a_waiting_dequeue_a_thousand_times_loses_nothing(queue: Queue) -> None:
    """Whatever moment the cancellation hits, each event is taken, given back or still waiting."""
    numbers: set[int] = set()

    async def take() -> None:
        payload = await queue.dequeue(30)
        numbers.add(payload["n"])

    for number in range(1000):
        waiting = asyncio.create_task(take())
        for _ in range(number % 4):
            await asyncio.sleep(0)
        if number % 5 == 0:
            await queue.enqueue(event(number))
        waiting.cancel()
        await asyncio.wait({waiting})
    deadline = time.monotonic() + 20
    while len(numbers) < 200 and time.monotonic() < deadline:
        await in_task(take())
    assert numbers == set(range(0, 1000, 5))
    await _everything_is_settled(queue, 200)


async def _everything_is_settled(queue: Queue, count: int) -> None:
    state = await state_of(queue)
    while state.in_flight:
        await asyncio.sleep(0.01)
        state = await state_of(queue)
    assert (state.waiting, state.in_flight, state.delayed, state.dead) == (0, 0, 0, 0)
    assert dict(state.totals)["acked"] == count


async def test_a_helper_that_only_fetches_leaves_the_event_leased(
    five: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """Its event is neither lost nor acknowledged, a warning names receive, and the second time it raises."""

    async def fetch() -> Any:
        return await five.dequeue()

    assert await in_task(fetch()) == event(0)
    await asyncio.sleep(0)
    assert "receive" in caplog.text
    await assert_state(five, whole(waiting=4, in_flight=1, enqueued=5))
    with pytest.raises(UsageError, match="receive"):
        await in_task(fetch())
    await assert_state(five, whole(waiting=4, in_flight=1, enqueued=5))


async def test_cleanup_gives_an_escaped_event_back(kind: Kind, make_queue: MakeQueue) -> None:
    """What a helper let escape is not lost with the queue."""
    queue = make_queue()
    await queue.enqueue(event(1))

    async def fetch() -> Any:
        return await queue.dequeue()

    await in_task(fetch())
    await asyncio.sleep(0)
    await queue.cleanup()
    await assert_state(_seen_afterwards(queue, kind, make_queue), whole(waiting=1, enqueued=1, released=1))


async def test_leaving_normally_acknowledges_the_leaving_task_only(kind: Kind, make_queue: MakeQueue) -> None:
    """What other tasks hold goes back."""
    queue = make_queue()
    took = asyncio.Event()

    async def other() -> None:
        await queue.dequeue()
        took.set()
        await asyncio.Event().wait()

    async def leaves() -> None:
        async with queue:
            await queue.enqueue_many(events(2))
            task = asyncio.create_task(other())
            await took.wait()
            await queue.dequeue()
        task.cancel()
        await asyncio.wait({task})

    await in_task(leaves())
    assert not queue.is_running()
    await assert_state(_seen_afterwards(queue, kind, make_queue), whole(waiting=1, enqueued=2, acked=1, released=1))


async def test_leaving_with_an_exception_gives_back(kind: Kind, make_queue: MakeQueue) -> None:
    """What the failing task held is not acknowledged."""
    queue = make_queue()

    async def fails() -> None:
        async with queue:
            await queue.enqueue(event(1))
            await queue.dequeue()
            raise LookupError("no such repository")

    with pytest.raises(LookupError):
        await in_task(fails())
    await assert_state(_seen_afterwards(queue, kind, make_queue), whole(waiting=1, enqueued=1, released=1))


async def test_a_bare_cleanup_gives_back(kind: Kind, make_queue: MakeQueue) -> None:
    """Cleanup does not know that the event is done: it goes back, whoever took it and however."""
    queue = make_queue()

    async def leaves() -> None:
        await queue.enqueue_many(events(2))
        await queue.dequeue()
        await queue.receive()
        await queue.cleanup()

    await in_task(leaves())
    await assert_state(_seen_afterwards(queue, kind, make_queue), whole(waiting=2, enqueued=2, released=2))


def _seen_afterwards(closed: Queue, kind: Kind, make_queue: MakeQueue) -> Queue:
    """Return what shows the events of a closed queue: another instance, where they live on a server."""
    return make_queue() if kind.shared else closed


def test_outside_a_task_dequeue_raises_and_names_receive(make_config_only: Callable[[], Queue]) -> None:
    """There is no task to settle for when no loop runs."""
    with pytest.raises(UsageError, match="receive"):
        make_config_only().dequeue()


@pytest.fixture
def make_config_only(kind: Kind, request: pytest.FixtureRequest) -> Callable[[], Queue]:
    """Make a queue outside any event loop; it is never used and never cleaned up."""
    return lambda: kind.make(request, {}, {})


async def test_a_forgotten_queue_says_nothing(kind: Kind, request: pytest.FixtureRequest) -> None:
    """A queue that is dropped without cleanup, with an event in hand, causes no warning."""

    async def forgets() -> None:
        queue = kind.make(request, {}, {})
        await queue.enqueue(event(1))
        assert await queue.dequeue() == event(1)

    await in_task(forgets())
    gc.collect()
