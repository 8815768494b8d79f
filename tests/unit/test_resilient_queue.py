"""The resilient queue over a stand-in for Redis that fails on demand: where events go, and how they come back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from streams_queue.breaker import BreakerPolicy
from streams_queue.errors import (
    BackendError,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    EncodeError,
    LeaseLost,
    StateError,
)
from streams_queue.memory_queue import EventQueue
from streams_queue.messages import Delivery, QueueStats, Receipt
from streams_queue.observer import Observer
from streams_queue.queue import Queue
from streams_queue.redis_queue.producer import ForgottenBatchError
from streams_queue.resilient_queue import ResilientQueue
from tests.support.builders import event, events, queue_config
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until

OOM = BackendRejected("OOM command not allowed", code="OOM", passing=True)
NOPERM = BackendRejected("NOPERM", code="NOPERM")
PATIENT = BreakerPolicy(open_for=3600, max_open_for=3600)
EAGER = BreakerPolicy(open_for=0.01, max_open_for=0.02)


@dataclass
class Named:
    event_id: str


@dataclass(eq=False)
class Batch:
    """A batch of unknown fate, as the Redis queue hands it out."""

    events: list[Named]
    arguments: dict[str, Any]


class FlakyServer(EventQueue):
    """Takes the place of the Redis queue: `down` fails every call, `unknown` loses the reply of the next write."""

    def __init__(self, **section: Any) -> None:
        super().__init__(queue_config(**section))
        self.keep_unresolved = False
        self.down: BackendError | None = None
        self.unknown: str | None = None
        self.sent: list[Any] = []
        self.tries = 0
        self.up = asyncio.Event()

    def fail(self, error: BackendError) -> None:
        self.down = error

    def heal(self) -> None:
        self.down = None
        self.up.set()

    def _check(self) -> None:
        self.tries += 1
        if self.down is not None:
            raise self.down

    async def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        (receipt,) = await self.enqueue_many([payload], event_ids=[event_id], delay=delay, headers=headers)
        return receipt.held

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        given = list(payloads)
        for payload in given:
            self._codec.encode(payload)
        if self.unknown is not None:
            fate, self.unknown = self.unknown, None
            self.fail(BackendUnavailable())
            raise await self._lose(fate, given, event_ids, delay, headers)
        self._check()
        self.sent.append([payload["n"] for payload in given])
        return await super().enqueue_many(given, event_ids=event_ids, delay=delay, headers=headers)

    async def _lose(self, fate: str, payloads: list[Any], event_ids: Any, delay: float, headers: Any) -> BackendTimeout:
        ids = [given or f"made-{number}" for number, given in enumerate(event_ids or [None] * len(payloads))]
        arguments = {"payloads": payloads, "event_ids": ids, "delay": delay, "headers": headers}
        if fate == "applied":
            await super().enqueue_many(**arguments)
        error = BackendTimeout("no reply")
        error.unresolved = Batch([Named(name) for name in ids], arguments)
        error.positions = tuple(range(len(payloads)))
        return error

    async def resolve(self, batch: Batch) -> list[Receipt]:
        self._check()
        self.sent.append(("again", [payload["n"] for payload in batch.arguments["payloads"]]))
        return await super().enqueue_many(**batch.arguments)

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        while self.down is not None and (timeout is None or timeout > 0):
            self.up.clear()
            await self.up.wait()
        return [] if self.down is not None else await super().receive(max_events, timeout, max_bytes=max_bytes)

    async def get_queue_depth(self) -> int:
        self._check()
        return await super().get_queue_depth()

    async def stats(self) -> QueueStats:
        if self.down is not None:
            raise self.down
        return await super().stats()

    async def check_health(self) -> dict[str, Any]:
        if self.down is not None:
            return {"status": "unhealthy", "redis_connected": False, "error": str(self.down)}
        return {**await super().check_health(), "redis_connected": True}


class Watcher(Observer):
    """Remembers when the fallback began and ended."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def fallback_on(self, reason: str) -> None:
        self.told.append("on")

    def fallback_off(self, drained: int) -> None:
        self.told.append(drained)


Make = Callable[..., ResilientQueue]


@pytest.fixture
def server() -> FlakyServer:
    """The stand-in for Redis."""
    return FlakyServer()


@pytest.fixture
async def make(server: FlakyServer) -> AsyncIterator[Make]:
    """Make queues over the stand-in, `make(PATIENT, fallback={...})`, and clean them up."""
    made: list[ResilientQueue] = []

    def new(breaker: BreakerPolicy = EAGER, observers: Sequence[Observer] = (), **section: Any) -> ResilientQueue:
        config = queue_config(type="resilient", **section)
        made.append(ResilientQueue(config, redis_queue=server, observers=observers, breaker=breaker))  # type: ignore[arg-type]
        return made[-1]

    yield new
    server.heal()
    for queue in made:
        await queue.cleanup()


async def local_numbers(queue: ResilientQueue) -> list[int]:
    """Return the numbers of the events in the local line."""
    return [waiting.payload["n"] for waiting in await queue.async_queue.peek(100)]


async def restored(queue: ResilientQueue) -> None:
    """Wait until Redis takes events directly again."""
    await wait_until(lambda: queue.using_redis)


# --- which way an event goes ---------------------------------------------------------------------------------


async def test_a_working_server_gets_every_event(make: Make, server: FlakyServer) -> None:
    """Nothing is held locally, and nothing is logged or told."""
    watcher = Watcher()
    queue = make(observers=[watcher])
    assert isinstance(queue, Queue)
    assert await queue.enqueue(event(1))
    assert [receipt.held for receipt in await queue.enqueue_many(events(2, start=2))] == [True, True]
    assert (server.sent, await local_numbers(queue)) == ([[1], [2, 3]], [])
    assert queue.using_redis
    assert watcher.told == []
    assert queue.redis_queue is server
    assert server.keep_unresolved


@pytest.mark.parametrize("error", [BackendUnavailable(), BackendTimeout(), OOM])
async def test_what_passes_sends_events_to_the_local_queue(
    make: Make, server: FlakyServer, error: BackendError, caplog: pytest.LogCaptureFixture
) -> None:
    """The producer gets True; the warning comes once per outage, and the observers are told once."""
    watcher = Watcher()
    queue = make(PATIENT, observers=[watcher])
    server.fail(error)
    assert [await queue.enqueue(event(n)) for n in range(3)] == [True] * 3
    assert await local_numbers(queue) == [0, 1, 2]
    assert not queue.using_redis
    assert caplog.text.count("Falling back to asyncio queue") == 1
    assert watcher.told == ["on"]
    assert server.tries == 1


@pytest.mark.parametrize("error", [NOPERM, StateError()])
async def test_what_does_not_pass_is_raised(make: Make, server: FlakyServer, error: BackendError) -> None:
    """No permission, a wrong password, a foreign key: holding events would only hide it."""
    queue = make()
    server.fail(error)
    with pytest.raises(type(error)):
        await queue.enqueue(event(1))
    with pytest.raises(type(error)):
        await queue.enqueue_many(events(2))
    assert queue.using_redis
    assert await local_numbers(queue) == []


@pytest.mark.parametrize("down", [False, True])
async def test_bad_input_is_refused_on_either_side(make: Make, server: FlakyServer, down: bool) -> None:
    """Nothing of the call is kept, however long it is."""
    queue = make(PATIENT)
    if down:
        server.fail(BackendUnavailable())
        assert await queue.enqueue(event(0))
    for payloads in ([{"bad": float("nan")}], [*events(600), {"bad": float("nan")}]):
        with pytest.raises(EncodeError):
            await queue.enqueue_many(payloads)
    assert await local_numbers(queue) == ([0] if down else [])
    assert server.sent == []


async def test_a_full_server_is_full(make: Make) -> None:
    """Never does a full queue spill over into the local one."""
    queue = make(max_size=1)
    queue.max_size = 1
    assert await queue.enqueue(event(1))
    assert not await queue.enqueue(event(2))
    assert await local_numbers(queue) == []
    assert queue.using_redis


async def test_what_is_held_is_bounded(make: Make, server: FlakyServer) -> None:
    """Waiting, delayed and in flight count; beyond fallback.max_size the producer gets False."""
    queue = make(PATIENT, fallback={"max_size": 3})
    server.fail(BackendUnavailable())
    assert await queue.enqueue(event(1))
    assert len(await queue.receive(1, timeout=0)) == 1
    assert await queue.enqueue(event(2), delay=60)
    assert await queue.enqueue(event(3))
    assert not await queue.enqueue(event(4))
    assert [receipt.held for receipt in await queue.enqueue_many(events(2))] == [False, False]


# --- the way back --------------------------------------------------------------------------------------------


async def test_held_events_go_back_in_order_and_new_ones_behind_them(make: Make, server: FlakyServer) -> None:
    """As long as anything is held, a new event queues behind it although the server answers again."""
    watcher = Watcher()
    queue = make(BreakerPolicy(open_for=0.05, max_open_for=0.05), observers=[watcher])
    server.fail(BackendUnavailable())
    for n in range(3):
        await queue.enqueue(event(n))
    server.heal()
    await queue.enqueue(event(3))
    assert (server.sent, queue.using_redis) == ([], False)
    await restored(queue)
    await queue.enqueue(event(4))
    assert server.sent == [[0, 1, 2, 3], [4]]
    assert watcher.told == ["on", 4]
    assert await take_numbers(queue, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [BackendUnavailable(), OOM])
async def test_an_event_that_comes_while_the_last_batch_moves_waits_behind_it(
    make: Make, server: FlakyServer, error: BackendError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis takes over with the reply to the last batch, not before, although the one before went well."""
    monkeypatch.setattr("streams_queue.resilient_queue.memory._BATCH", 1)
    queue = make()
    moving, may_go = asyncio.Event(), asyncio.Event()
    enqueue_many = server.enqueue_many

    async def slowly(payloads: Any, **options: Any) -> list[Receipt]:
        if server.sent:
            moving.set()
            await may_go.wait()
        return await enqueue_many(payloads, **options)

    server.enqueue_many = slowly  # type: ignore[method-assign]
    server.fail(error)
    await queue.enqueue_many(events(2))
    server.heal()
    await moving.wait()
    asyncio.get_running_loop().call_later(0.05, may_go.set)
    assert await queue.enqueue(event(2))
    assert not may_go.is_set()
    await restored(queue)
    assert server.sent == [[0], [1], [2]]


async def test_delays_ids_and_headers_move_along(make: Make, server: FlakyServer) -> None:
    """Only the delay that is left is left."""
    queue = make(BreakerPolicy(open_for=0.05, max_open_for=0.05))
    server.fail(BackendUnavailable())
    await queue.enqueue(event(1), event_id="one", headers={"a": "1"})
    await queue.enqueue(event(2), event_id="two", headers={"a": "2"})
    await queue.enqueue(event(3), event_id="three", delay=60)
    server.heal()
    await restored(queue)
    assert server.sent == [[1], [2], [3]]
    first, second = await queue.receive(2, timeout=0)
    assert [(got.event_id, dict(got.headers)) for got in (first, second)] == [("one", {"a": "1"}), ("two", {"a": "2"})]
    (delayed,) = await server.peek(10)
    assert delayed.event_id == "three"
    assert delayed.due_at is not None
    assert 55 < delayed.due_at - server._clock.time() < 60


async def test_ids_are_known_on_both_sides(make: Make, server: FlakyServer) -> None:
    """A second event with the same id is not added, neither while it is held nor after it has moved."""
    queue = make()
    server.fail(BackendUnavailable())
    await queue.enqueue(event(1), event_id="one")
    assert await queue.enqueue(event(1), event_id="one")
    server.heal()
    await restored(queue)
    assert await queue.enqueue(event(1), event_id="one")
    assert await queue.get_queue_depth() == 1


async def test_the_server_is_tried_again_until_it_answers(make: Make, server: FlakyServer) -> None:
    """Failed tries leave the events in line, in order."""
    queue = make()
    server.fail(BackendUnavailable())
    for n in range(3):
        await queue.enqueue(event(n))
    await wait_until(lambda: server.tries > 3)
    assert server.sent == []
    server.heal()
    await restored(queue)
    assert server.sent == [[0, 1, 2]]


async def test_a_full_server_takes_the_rest_later(
    make: Make, server: FlakyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What found no room stays at the front."""
    monkeypatch.setattr("streams_queue.resilient_queue.recovery._FULL_WAIT", 0.01)
    queue = make()
    server.fail(BackendUnavailable())
    for n in range(4):
        await queue.enqueue(event(n))
    server.max_size = 2
    server.heal()
    await wait_until(lambda: server.get_queue_size() == 2)
    assert await local_numbers(queue) == [2, 3]
    assert not queue.using_redis
    server.max_size = 10
    await restored(queue)
    assert await take_numbers(queue, 4) == [0, 1, 2, 3]


async def test_a_refusal_for_good_while_moving_is_an_error_in_the_log(
    make: Make, server: FlakyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Once; the events stay, and go when an operator has mended it."""
    queue = make()
    server.fail(BackendUnavailable())
    await queue.enqueue(event(1))
    server.fail(NOPERM)
    tries = server.tries
    await wait_until(lambda: server.tries > tries + 3)
    assert caplog.text.count("The events that are held locally cannot be moved (NOPERM)") == 1
    server.heal()
    await restored(queue)
    assert server.sent == [[1]]


async def test_with_nothing_held_an_unreachable_server_is_asked_until_it_answers(
    make: Make, server: FlakyServer
) -> None:
    """Local consumers have taken everything; the queue returns to Redis without a new event."""
    queue = make()
    server.fail(BackendUnavailable())
    await queue.enqueue(event(1))
    assert await take_numbers(queue, 1) == [1]
    server.heal()
    await restored(queue)
    assert server.sent == []


async def test_a_server_that_had_refused_is_tried_with_the_next_event(make: Make, server: FlakyServer) -> None:
    """Reading from it would not show whether it takes writes; a refusal costs one round trip and the event is held."""
    queue = make()
    server.fail(OOM)
    for n in (1, 2):
        await queue.enqueue(event(n))
        assert await take_numbers(queue, 1) == [n]
        assert not queue.using_redis
    server.heal()
    await wait_until(lambda: _sent_directly(queue, server))
    assert queue.using_redis


async def _sent_directly(queue: ResilientQueue, server: FlakyServer) -> bool:
    await queue.enqueue(event(3))
    return bool(server.sent)


# --- batches of unknown fate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["applied", "lost"])
async def test_a_batch_of_unknown_fate_goes_first_and_verbatim(make: Make, server: FlakyServer, fate: str) -> None:
    """Whatever became of it, each of its events is there once, and in front of those that came later."""
    queue = make()
    server.unknown = fate
    receipts = await queue.enqueue_many(events(2), event_ids=["zero", None])
    assert [receipt.held for receipt in receipts] == [True, True]
    await queue.enqueue(event(2))
    assert await local_numbers(queue) == [2]
    assert (await queue.check_health())["held_locally"] == 3
    server.heal()
    await restored(queue)
    assert server.sent == [("again", [0, 1]), [2]]
    assert await take_numbers(queue, 3) == [0, 1, 2]
    assert await queue.get_queue_depth() == 0


async def test_events_of_unknown_fate_are_not_handed_to_local_consumers(make: Make, server: FlakyServer) -> None:
    """They may be on the server, and then would run twice."""
    queue = make(PATIENT)
    server.unknown = "applied"
    await queue.enqueue(event(1))
    assert await queue.receive(1, timeout=0) == []


async def test_an_event_of_unknown_fate_for_which_there_is_no_room_stays_at_the_front(
    make: Make, server: FlakyServer
) -> None:
    """The batch was not applied, and the server is full by now: its events wait here, before all others."""
    queue = make()
    server.unknown = "lost"
    await queue.enqueue_many(events(2))
    await queue.enqueue(event(2))
    server.max_size = 1
    server.heal()
    await wait_until(lambda: server.get_queue_size() == 1)

    async def wait_here() -> bool:
        # Not while the first of them is just being offered to the server again.
        return await local_numbers(queue) == [1, 2]

    await wait_until(wait_here)
    server.max_size = 10
    await restored(queue)
    assert await take_numbers(queue, 3) == [0, 1, 2]


async def test_without_room_the_unknown_fate_is_told_to_the_caller(make: Make, server: FlakyServer) -> None:
    """Neither True nor False would be honest."""
    queue = make(PATIENT, fallback={"max_size": 1})
    server.unknown = "lost"
    with pytest.raises(BackendTimeout):
        await queue.enqueue_many(events(2))
    assert (await queue.check_health())["held_locally"] == 0


async def test_events_of_unknown_fate_count_for_the_bound(make: Make, server: FlakyServer) -> None:
    """They are held, until it is known that they are not."""
    queue = make(PATIENT, fallback={"max_size": 2})
    server.unknown = "lost"
    assert await queue.enqueue(event(0))
    assert await queue.enqueue(event(1))
    assert not await queue.enqueue(event(2))


async def test_a_batch_that_the_server_can_no_longer_tell_is_sent_anew(
    make: Make, server: FlakyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failover that forgot the producer; ids keep what did arrive from being added again."""
    queue = make()
    server.unknown = "applied"
    await queue.enqueue(event(1), event_id="one")

    async def forgotten(batch: Any) -> list[Receipt]:
        raise ForgottenBatchError("stale")

    monkeypatch.setattr(server, "resolve", forgotten)
    server.heal()
    await restored(queue)
    assert "The fate of 1 events stays unknown (stale)" in caplog.text
    assert await take_numbers(queue, 1) == [1]
    assert await queue.get_queue_depth() == 0


async def test_a_moving_batch_whose_reply_is_lost_is_resolved_before_the_rest(make: Make, server: FlakyServer) -> None:
    """The same rule for what was held already."""
    queue = make(BreakerPolicy(open_for=0.05, max_open_for=0.05))
    server.fail(BackendUnavailable())
    await queue.enqueue(event(0))
    server.down, server.unknown = None, "applied"
    await wait_until(lambda: server.down is not None)
    await queue.enqueue(event(1))
    server.heal()
    await restored(queue)
    assert server.sent == [("again", [0]), [1]]
    assert await take_numbers(queue, 2) == [0, 1]


# --- consuming -----------------------------------------------------------------------------------------------


async def test_a_consumer_that_waits_on_redis_gets_the_event_that_is_held_locally(
    make: Make, server: FlakyServer
) -> None:
    """Its wait began before the outage; neither the outage nor the event needs a new call."""
    queue = make(PATIENT)
    waiting = [asyncio.create_task(queue.receive(1, timeout=10)) for _ in range(2)]
    await asyncio.sleep(0)
    server.fail(BackendUnavailable())
    await queue.enqueue(event(1))
    await queue.enqueue(event(2))
    received = [delivery.payload["n"] for got in await asyncio.gather(*waiting) for delivery in got]
    assert sorted(received) == [1, 2]


async def test_while_the_fallback_is_on_events_of_either_side_wake_a_consumer(make: Make, server: FlakyServer) -> None:
    """Another process may have put events on the server that this one cannot write to (out of memory)."""
    queue = make(PATIENT)
    server.fail(OOM)
    await queue.enqueue(event(1))
    assert await take_numbers(queue, 1) == [1]
    server.heal()
    waiting = asyncio.create_task(queue.receive(1, timeout=10))
    await asyncio.sleep(0)
    await server.enqueue(event(2))
    (delivery,) = await waiting
    assert delivery.payload["n"] == 2


async def test_cancelling_waiting_consumers_loses_no_event(make: Make, server: FlakyServer) -> None:
    """Events come in while the consumer is cancelled again and again, on either side."""
    queue = make(PATIENT)
    server.fail(OOM)
    await queue.enqueue(event(0))
    server.heal()
    got: list[int] = []
    for n in range(1, 400):
        waiting = asyncio.create_task(queue.receive(1, timeout=10))
        for _ in range(n % 5):
            await asyncio.sleep(0)
        await (queue.async_queue if n % 2 else server).enqueue(event(n))
        for _ in range(n % 3):
            await asyncio.sleep(0)
        waiting.cancel()
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(outcome, list):
            await queue.ack(*outcome)
            got += [delivery.payload["n"] for delivery in outcome]
    while left := await queue.receive(100, timeout=0.05):
        await queue.ack(*left)
        got += [delivery.payload["n"] for delivery in left]
    assert sorted(got) == list(range(400))


async def test_a_delivery_is_settled_where_it_came_from(make: Make, server: FlakyServer) -> None:
    """Whatever state the fallback is in by then."""
    queue = make(PATIENT)
    await queue.enqueue_many(events(5))
    remote = await queue.receive(5, timeout=0)
    server.fail(OOM)
    await queue.enqueue_many(events(5, start=5))
    local = await queue.receive(5, timeout=0)
    server.heal()
    assert [delivery.payload["n"] for delivery in (*remote, *local)] == list(range(10))
    await queue.ack(remote[0], local[0])
    queue.ack_soon(remote[1], local[1])
    await queue.nack(remote[2], delay=60)
    await queue.nack(local[2], delay=60)
    await queue.dead_letter(remote[3], "bad")
    await queue.dead_letter(local[3], "bad")
    await queue.extend(remote[4], local[4])
    for part in (await server.stats(), await queue.async_queue.stats()):
        assert (part.in_flight, part.delayed, part.dead, part.totals["acked"]) == (1, 1, 1, 2)
    whole = await queue.stats()
    assert (whole.in_flight, whole.delayed, whole.dead, whole.totals["acked"]) == (2, 2, 2, 4)
    await queue.release(remote[4], local[4])
    with pytest.raises(LeaseLost):
        await queue.extend(remote[4], local[4])


async def test_dequeue_settles_across_both_queues(make: Make, server: FlakyServer) -> None:
    """The next dequeue of a task acknowledges the event before, although it came from the other queue."""
    queue = make(PATIENT)
    await queue.enqueue(event(1))
    assert (await queue.dequeue())["n"] == 1
    server.fail(OOM)
    await queue.enqueue(event(2))
    assert (await queue.dequeue())["n"] == 2
    server.heal()
    assert (await server.stats()).totals["acked"] == 1
    assert await queue.dequeue(timeout=0) is None
    assert (await queue.async_queue.stats()).totals["acked"] == 1


async def test_a_task_that_fails_gives_its_local_event_back(make: Make, server: FlakyServer) -> None:
    """As with any other queue; one that ends normally acknowledges it."""
    queue = make(PATIENT)
    server.fail(BackendUnavailable())
    await queue.enqueue_many(events(2))

    async def take(fail: bool) -> None:
        await queue.dequeue()
        if fail:
            raise ValueError

    await asyncio.gather(asyncio.create_task(take(fail=True)), return_exceptions=True)
    await asyncio.create_task(take(fail=False))
    await wait_until(lambda: queue.async_queue.get_queue_size() == 1)
    assert await local_numbers(queue) == [0]
    await wait_until(lambda: _acked(queue.async_queue))


async def _acked(queue: EventQueue) -> bool:
    return (await queue.stats()).totals["acked"] == 1


async def test_a_local_event_that_fails_after_the_outage_is_retried_on_redis(make: Make, server: FlakyServer) -> None:
    """Its delay moves along; nothing is left behind in this process."""
    queue = make()
    server.fail(BackendUnavailable())
    await queue.enqueue(event(1))
    (delivery,) = await queue.receive(1, timeout=1)
    server.heal()
    await restored(queue)
    await queue.nack(delivery, delay=0.02)
    await wait_until(lambda: server.sent == [[1]])
    assert await take_numbers(queue, 1) == [1]
    assert await queue.async_queue.peek() == []
    assert queue.using_redis


# --- looking and operating -----------------------------------------------------------------------------------


async def test_health_says_what_is_held_and_that_it_dies_with_the_process(make: Make, server: FlakyServer) -> None:
    """Degraded while anything is held, unhealthy when there is no room for more, healthy afterwards."""
    queue = make(BreakerPolicy(open_for=0.02, max_open_for=0.02), fallback={"max_size": 2})
    assert (await queue.check_health())["status"] == "healthy"
    server.fail(BackendUnavailable("cannot connect"))
    await queue.enqueue(event(1))
    health = await queue.check_health()
    expected = {"status": "degraded", "queue_depth": 1, "held_locally": 1, "held_durable": False, "using_redis": False}
    assert health == health | expected | {"redis_connected": False, "error": "cannot connect", "running": True}
    assert health["warning"] == "1 events are held in this process only and die with it"
    await queue.enqueue(event(2))
    assert (await queue.check_health())["status"] == "unhealthy"
    server.heal()
    await restored(queue)
    health = await queue.check_health()
    assert (health["status"], health["held_locally"], health["queue_depth"]) == ("healthy", 0, 2)
    assert "warning" not in health


async def test_depth_is_the_last_known_one_of_the_server_and_what_is_held(make: Make, server: FlakyServer) -> None:
    """An unreachable server does not make it raise."""
    queue = make(PATIENT)
    await queue.enqueue_many(events(3))
    assert await queue.get_queue_depth() == 3
    server.fail(BackendUnavailable())
    assert await queue.get_queue_depth() == 3
    await queue.enqueue(event(4))
    assert await queue.get_queue_depth() == 4
    assert queue.get_queue_size() == 4


async def test_attributes_go_to_both_queues(make: Make, server: FlakyServer) -> None:
    """The local bound never grows beyond fallback.max_size."""
    queue = make(fallback={"max_size": 5})
    queue.timeout, queue.max_size = 7.0, 3
    assert (queue.timeout, server.timeout, queue.async_queue.timeout) == (7.0, 7.0, 7.0)
    assert (queue.max_size, server.max_size, queue.async_queue.max_size) == (3, 3, 3)
    queue.max_size = 100
    assert (server.max_size, queue.async_queue.max_size) == (100, 5)
    with pytest.raises(AttributeError):
        queue.using_redis = False  # type: ignore[misc]


async def test_dead_letters_of_both_queues_can_be_listed_redriven_and_purged(make: Make, server: FlakyServer) -> None:
    """Those of this process are named so, and go back where they died."""
    queue = make(PATIENT)
    await queue.enqueue_many(events(2))
    server.fail(OOM)
    await queue.enqueue_many(events(2, start=2))
    server.heal()
    assert await queue.purge() == 4
    letters = await queue.dead_letters()
    assert [(letter.payload["n"], letter.dead_id.startswith("local:")) for letter in letters] == [
        (2, True),
        (3, True),
        (0, False),
        (1, False),
    ]
    paged = [await queue.dead_letters(1, after=after) for after in (None, *(letter.dead_id for letter in letters))]
    assert [[letter.payload["n"] for letter in page] for page in paged] == [[2], [3], [0], [1], []]
    assert await queue.redrive(letters[0].dead_id, letters[2].dead_id) == 2
    assert await local_numbers(queue) == [2]
    assert await queue.purge_dead(letters[1].dead_id, who="a test") == 1
    assert await queue.redrive(count=5) == 1
    assert [waiting.payload["n"] for waiting in await queue.peek()] == [2, 0, 1]
    assert await queue.purge_dead(who="a test") == 0


async def test_a_pause_stops_both_queues(make: Make, server: FlakyServer) -> None:
    """And resume lets both go on."""
    queue = make(PATIENT)
    await queue.pause()
    assert not await queue.enqueue(event(1))
    server.fail(OOM)
    assert not await queue.enqueue(event(2))
    server.heal()
    await queue.resume()
    assert await queue.enqueue(event(3))


# --- the end -------------------------------------------------------------------------------------------------


async def test_cleanup_moves_what_is_held_and_in_hand(make: Make, server: FlakyServer) -> None:
    """The server is back, and the breaker's time is not up: cleanup does not wait for it."""
    queue = make(PATIENT)
    server.fail(BackendUnavailable())
    await queue.enqueue_many(events(3))
    await queue.receive(1, timeout=0)
    server.heal()
    await queue.cleanup()
    await queue.cleanup()
    assert sorted(n for batch in server.sent for n in batch) == [0, 1, 2]
    assert not queue.is_running()
    assert not server.is_running()
    assert not await queue.enqueue(event(9))
    assert await queue.dequeue() is None


async def test_cleanup_tries_more_than_once(make: Make, server: FlakyServer) -> None:
    """The server comes back while cleanup is under way: the first attempt, begun before that, fails."""
    queue = make(PATIENT)
    server.fail(BackendUnavailable())
    await queue.enqueue_many(events(3))
    tries = server.tries
    ending = asyncio.create_task(queue.cleanup())
    await wait_until(lambda: server.tries > tries)
    server.heal()
    await ending
    assert server.sent == [[0, 1, 2]]


async def test_cleanup_says_how_many_events_die(
    make: Make, server: FlakyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cannot be reached: an error, with the number."""
    monkeypatch.setattr("streams_queue.resilient_queue.queue._DRAIN_AT_CLEANUP", 0.05)
    queue = make(PATIENT)
    server.fail(BackendUnavailable())
    await queue.enqueue_many(events(3))
    await queue.cleanup()
    lost = [record for record in caplog.records if "die with it" in record.message and record.levelno == logging.ERROR]
    assert [record.message for record in lost] == ["3 events were held in this process only and die with it"]
    assert (await queue.check_health())["status"] == "unhealthy"


async def test_cleanup_does_not_wait_for_a_server_that_hangs(
    make: Make, server: FlakyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up within its time, and a waiting consumer gets an empty answer."""
    monkeypatch.setattr("streams_queue.resilient_queue.queue._DRAIN_AT_CLEANUP", 0.05)
    queue = make(PATIENT)
    server.fail(BackendUnavailable())
    await queue.enqueue_many(events(3))
    assert len(await queue.receive(3, timeout=0)) == 3
    waiting = asyncio.create_task(queue.receive(1, timeout=60))
    await asyncio.sleep(0)

    async def hang(*_: Any, **__: Any) -> list[Receipt]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(server, "enqueue_many", hang)
    await asyncio.wait_for(queue.cleanup(), 5)
    assert await waiting == []


async def test_leaving_the_context_acknowledges_local_events_too(make: Make, server: FlakyServer) -> None:
    """What the leaving task took is done."""
    server.fail(BackendUnavailable())
    async with make(PATIENT) as queue:
        await queue.enqueue(event(1))
        assert await queue.dequeue() == event(1)
    assert (await queue.async_queue.stats()).totals["acked"] == 1
