"""The books of `dequeue`: what is acknowledged, given back or kept, whatever becomes of the task that took it."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from streams_queue.errors import UsageError
from streams_queue.messages import Delivery
from streams_queue.settling import Claim, TaskSettler
from tests.support.waiting import wait_until

Wrap = Callable[[Any], Any]


class Books:
    """What a queue was told to do, by event id; outlives the queue as a lease keeper does."""

    def __init__(self) -> None:
        self.soon: list[str] = []
        self.at_end: list[str] = []
        self.back: list[str] = []

    def ack_at_task_end(self, deliveries: Sequence[Delivery]) -> None:
        self.at_end += _ids(deliveries)

    @property
    def all(self) -> tuple[list[str], list[str], list[str]]:
        return self.soon, self.at_end, self.back


class StandInQueue:
    """A queue that is nothing but a list and a settler."""

    def __init__(self, books: Books, *payloads: Any) -> None:
        self.books = books
        self.waiting = [Delivery(payload, str(number), str(number), 1) for number, payload in enumerate(payloads)]
        self.settler = TaskSettler(
            ack_soon=self._ack_soon, ack_at_task_end=books.ack_at_task_end, give_back=self._give_back
        )

    def _ack_soon(self, deliveries: Sequence[Delivery]) -> None:
        self.books.soon += _ids(deliveries)

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        self.books.back += _ids(deliveries)

    def dequeue(self) -> Awaitable[Any]:
        return self._dequeue(self.settler.claim())

    async def _dequeue(self, claim: Claim) -> Any:
        self.settler.begin(claim)
        await asyncio.sleep(0)
        if not self.waiting:
            return None
        delivery = self.waiting.pop(0)
        self.settler.returned(claim, delivery)
        return delivery.payload


def _ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.event_id for delivery in deliveries]


@pytest.fixture
def books() -> Books:
    """What was settled so far."""
    return Books()


@pytest.fixture
def queue(books: Books) -> StandInQueue:
    """A queue of five events."""
    return StandInQueue(books, *({"n": number} for number in range(5)))


async def test_the_next_dequeue_acknowledges_what_the_task_took_before(books: Books, queue: StandInQueue) -> None:
    """A plain loop is at least once: each call acknowledges the event of the one before."""

    async def loop() -> None:
        assert await queue.dequeue() == {"n": 0}
        assert books.all == ([], [], [])
        assert await queue.dequeue() == {"n": 1}
        assert books.all == (["0"], [], [])

    await asyncio.create_task(loop())


async def test_other_tasks_are_not_concerned(books: Books, queue: StandInQueue) -> None:
    """A task acknowledges only its own events."""
    first_took, second_took = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        await queue.dequeue()
        first_took.set()
        await second_took.wait()
        assert books.all == ([], [], [])

    async def second() -> None:
        await first_took.wait()
        await queue.dequeue()
        second_took.set()

    await asyncio.gather(first(), second())


@pytest.mark.parametrize("wrap", [lambda call: asyncio.wait_for(call, 5), asyncio.create_task, asyncio.shield])
async def test_the_task_is_the_one_that_calls(wrap: Wrap, books: Books, queue: StandInQueue) -> None:
    """It does not matter in which task the coroutine runs, as wait_for runs it in its own on Python 3.11."""

    def dequeue() -> Awaitable[Any]:
        return wrap(queue.dequeue())  # type: ignore[no-any-return]

    async def loop() -> None:
        assert [await dequeue(), await dequeue()] == [{"n": 0}, {"n": 1}]
        assert books.all == (["0"], [], [])

    await asyncio.create_task(loop())
    await wait_until(lambda: books.all == (["0"], ["1"], []))


async def test_calls_open_at_once_do_not_acknowledge_each_other(books: Books, queue: StandInQueue) -> None:
    """Gathered calls see only what had been returned when they were made; the next call acknowledges them all."""

    async def gathers() -> None:
        await asyncio.gather(queue.dequeue(), queue.dequeue())
        assert books.all == ([], [], [])
        await asyncio.gather(queue.dequeue(), queue.dequeue())
        assert books.all == (["0", "1"], [], [])

    await asyncio.create_task(gathers())


async def test_a_call_that_is_never_awaited_acknowledges_nothing(books: Books, queue: StandInQueue) -> None:
    """Settling begins when the coroutine starts."""

    async def calls() -> None:
        await queue.dequeue()
        queue.dequeue().close()  # type: ignore[attr-defined]
        assert books.all == ([], [], [])

    await asyncio.create_task(calls())


async def test_a_task_that_ends_acknowledges_what_it_holds(books: Books, queue: StandInQueue) -> None:
    """The last event of a task that ends normally is done."""

    async def takes() -> str:
        await asyncio.gather(queue.dequeue(), queue.dequeue())
        return "done"

    await asyncio.create_task(takes())
    await wait_until(lambda: books.all == ([], ["0", "1"], []))


def test_the_main_task_acknowledges_too_although_its_queue_is_gone(books: Books) -> None:
    """A queue that was a local variable of the main coroutine dies with it; its last event is still acknowledged."""

    async def main() -> None:
        queue = StandInQueue(books, {"n": 0})
        await queue.dequeue()

    asyncio.run(main())
    assert books.all == ([], ["0"], [])


async def test_a_task_that_fails_gives_back(books: Books, queue: StandInQueue) -> None:
    """What a failed task held goes back."""

    async def fails() -> None:
        await queue.dequeue()
        raise LookupError("no such repository")

    with pytest.raises(LookupError):
        await asyncio.create_task(fails())
    await wait_until(lambda: books.all == ([], [], ["0"]))


async def test_an_exception_that_nobody_looks_at_is_still_reported(
    queue: StandInQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Settling a failed task does not silence asyncio's report of an exception that was never retrieved."""

    async def fails() -> None:
        await queue.dequeue()
        raise LookupError("no such repository")

    task: asyncio.Task[None] | None = asyncio.create_task(fails())
    await wait_until(lambda: queue.books.back == ["0"])
    assert task is not None
    task = None
    gc.collect()
    assert "Task exception was never retrieved" in caplog.text


async def test_a_task_that_is_cancelled_gives_back(books: Books, queue: StandInQueue) -> None:
    """What a cancelled task held goes back."""

    async def hangs() -> None:
        await queue.dequeue()
        await asyncio.Event().wait()

    task = asyncio.create_task(hangs())
    await wait_until(lambda: len(queue.waiting) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: books.all == ([], [], ["0"]))


RESULTS: dict[str, Wrap] = {
    "the event": lambda event: event,
    "list": lambda event: [1, event],
    "tuple": lambda event: (event, None),
    "dict value": lambda event: {"event": event},
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
async def test_a_helper_that_only_fetches_leaves_the_event_leased(
    result: Wrap, books: Books, queue: StandInQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that leaves its task as the result stays leased, and a warning names receive."""

    async def fetch() -> Any:
        return result(await queue.dequeue())

    with caplog.at_level(logging.WARNING):
        await asyncio.create_task(fetch())
        await wait_until(lambda: caplog.records)
    assert books.all == ([], [], [])
    assert "fetch" in caplog.text
    assert "receive" in caplog.text
    assert _ids(queue.settler.take_all()) == ["0"]


async def test_the_second_time_the_helper_raises_before_taking_anything(queue: StandInQueue) -> None:
    """A helper that let an event escape is known by its code, in whatever task it runs."""

    async def fetch() -> Any:
        return await queue.dequeue()

    await asyncio.create_task(fetch())
    with pytest.raises(UsageError, match=r"fetch.*use receive and ack"):
        await asyncio.create_task(fetch())
    assert len(queue.waiting) == 4


async def test_an_equal_result_is_no_escape(books: Books, queue: StandInQueue) -> None:
    """Results are compared by identity; a copy is the caller's own business."""

    async def copies() -> Any:
        return dict(await queue.dequeue())

    await asyncio.create_task(copies())
    await wait_until(lambda: books.all == ([], ["0"], []))


async def test_a_helper_that_returns_one_of_its_events_settles_the_others(books: Books, queue: StandInQueue) -> None:
    """Only what escaped stays leased."""

    async def takes_two() -> Any:
        taken = await asyncio.gather(queue.dequeue(), queue.dequeue())
        return taken[0]

    await asyncio.create_task(takes_two())
    await wait_until(lambda: books.all == ([], ["1"], []))


async def test_a_call_handed_to_another_task_belongs_to_that_task(books: Books, queue: StandInQueue) -> None:
    """When the caller is gone before its call returns, whoever runs the call settles."""

    async def leaves_early() -> Awaitable[Any]:
        return queue.dequeue()

    call = await asyncio.create_task(leaves_early())

    async def picks_up() -> None:
        await call

    await asyncio.create_task(picks_up())
    await wait_until(lambda: books.all == ([], ["0"], []))


def test_outside_a_task_dequeue_raises_and_names_receive(queue: StandInQueue) -> None:
    """There is nobody to settle for when no task is running."""
    with pytest.raises(UsageError, match="receive"):
        queue.dequeue()


async def test_in_a_callback_dequeue_raises_and_names_receive(queue: StandInQueue) -> None:
    """A callback of the loop is no task either."""
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def callback() -> None:
        with pytest.raises(UsageError, match="receive") as caught:
            queue.dequeue()
        raised.set_result(caught.value)

    asyncio.get_running_loop().call_soon(callback)
    assert isinstance(await raised, UsageError)


async def test_finishing_acknowledges_the_current_task_and_leaves_the_rest_to_be_given_back(
    books: Books, queue: StandInQueue
) -> None:
    """Leaving `async with` settles for the leaving task only; take_all returns what others hold, once."""
    took = asyncio.Event()

    async def other() -> None:
        await queue.dequeue()
        took.set()
        await asyncio.Event().wait()

    async def leaves() -> None:
        await took.wait()
        await queue.dequeue()
        queue.settler.finish_current_task()
        assert books.all == (["1"], [], [])
        assert _ids(queue.settler.take_all()) == ["0"]
        assert queue.settler.take_all() == []

    task = asyncio.create_task(other())
    await asyncio.create_task(leaves())
    task.cancel()
    await asyncio.wait({task})
    assert books.all == (["1"], [], [])


async def test_what_is_forgotten_is_never_settled(books: Books, queue: StandInQueue) -> None:
    """An event whose lease is lost is somebody else's now."""

    async def takes() -> None:
        delivery = queue.waiting[0]
        await asyncio.gather(queue.dequeue(), queue.dequeue())
        queue.settler.forget(delivery)
        await queue.dequeue()
        assert books.all == (["1"], [], [])

    await asyncio.create_task(takes())
    await wait_until(lambda: books.all == (["1"], ["2"], []))


async def test_a_task_that_holds_an_event_does_not_keep_the_queue_alive(books: Books) -> None:
    """A queue that was forgotten in the middle of a task goes at once, so that nothing renews its leases."""

    async def forgets() -> None:
        queue = StandInQueue(books, {"n": 0})
        gone = weakref.ref(queue)
        await queue.dequeue()
        del queue
        assert gone() is None

    await asyncio.create_task(forgets())
    await wait_until(lambda: books.all == ([], ["0"], []))


async def test_events_of_a_task_that_was_destroyed_without_ending_are_given_back(
    books: Books, queue: StandInQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A pending task that is garbage never calls back; the next dequeue gives its events back."""

    async def waits_for_what_nobody_keeps() -> None:
        await queue.dequeue()
        await asyncio.get_running_loop().create_future()

    task: asyncio.Task[None] | None = asyncio.create_task(waits_for_what_nobody_keeps())
    gone = weakref.ref(task)
    await wait_until(lambda: len(queue.waiting) == 4)
    task = None
    gc.collect()
    assert gone() is None
    assert "Task was destroyed but it is pending" in caplog.text
    assert await queue.dequeue() == {"n": 1}
    assert books.all == ([], [], ["0"])
