"""A queue beside a plain-Python model of it; after each step both must agree on where every event is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams_queue.messages import Delivery, ReceiptStatus
from streams_queue.queue import Queue
from tests.support.builders import event
from tests.support.taking import receive_exactly
from tests.support.waiting import wait_until

MAX_SIZE, MAX_RETRIES = 8, 2
NOW, SOON, NEVER = 0.0, 0.02, 10_000.0
SETTINGS = {
    "max_size": MAX_SIZE,
    "lease": 30.0,
    "prefetch": 1,
    "retry_policy": {"max_retries": MAX_RETRIES, "base_delay": SOON, "jitter": 0.0},
}

consumers = st.integers(0, 1)
picks = st.integers(0, 99)


class State(Enum):
    """Where an event is; `SOON` is delayed or waiting, depending on the clock."""

    WAITING = "waiting"
    SOON = "delayed, due at any moment"
    DELAYED = "delayed"
    IN_FLIGHT = "in flight"
    ACKED = "acked"
    DEAD = "dead"


@dataclass(eq=False)
class Modelled:
    """What the model knows of one event."""

    event_id: str
    payload: dict[str, Any]
    state: State
    deliveries: int = 0
    delivery: Delivery | None = None
    consumer: int = -1


class Target(Protocol):
    """The queue under test, as one or two consumers of it."""

    queues: list[Queue]
    can_crash: bool

    async def crash(self) -> str | None:
        """Let a consumer take one event and die; return its event id, or None if it found none."""
        ...


@dataclass
class WithoutCrashes:
    """A target whose consumers live and die with the process."""

    queues: list[Queue] = field(default_factory=list)
    can_crash: bool = False

    async def crash(self) -> str | None:
        """Do nothing."""
        return None


class QueueMachine(RuleBasedStateMachine):
    """Random calls on a queue, each mirrored in the model."""

    def __init__(self, make: Callable[[], Awaitable[Target]]) -> None:
        super().__init__()
        self._make = make
        self._runner = asyncio.Runner()
        self._events: dict[str, Modelled] = {}
        self._numbers = 0

    @initialize()
    def start(self) -> None:
        """Make a fresh queue."""

        async def make() -> Target:
            return await self._make()

        self._target = self._runner.run(make())

    # --- producing ---

    @rule(
        consumer=consumers,
        names=st.lists(st.none() | st.sampled_from("abcdef"), min_size=1, max_size=4),
        delay=st.sampled_from([NOW, NOW, SOON, NEVER]),
    )
    def enqueue(self, consumer: int, names: list[str | None], delay: float) -> None:
        """A few events: a known id is a duplicate, even when the queue is full; otherwise max_size decides."""
        payloads = [event(self._numbers + position) for position in range(len(names))]
        self._numbers += len(names)

        receipts = self._run(self._queue(consumer).enqueue_many(payloads, event_ids=names, delay=delay))

        state = {NOW: State.WAITING, SOON: State.SOON, NEVER: State.DELAYED}[delay]
        for name, payload, receipt in zip(names, payloads, receipts, strict=True):
            assert receipt.status is self._expected(name)
            assert name in (None, receipt.event_id)
            if receipt.status is ReceiptStatus.ACCEPTED:
                self._events[receipt.event_id] = Modelled(receipt.event_id, payload, state)

    def _expected(self, name: str | None) -> ReceiptStatus:
        if name in self._events:
            return ReceiptStatus.DUPLICATE
        return ReceiptStatus.ACCEPTED if self._unsettled() < MAX_SIZE else ReceiptStatus.FULL

    # --- consuming ---

    @precondition(lambda self: self._in(State.WAITING, State.SOON))
    @rule(consumer=consumers, count=st.integers(1, 4))
    def receive(self, consumer: int, count: int) -> None:
        """Whatever comes was waiting, is handed out once, and counts its deliveries rightly."""
        # All of them if the clock decides which ones are there: Hypothesis needs a history that it can repeat.
        available = len(self._in(State.WAITING, State.SOON))
        wanted = available if self._in(State.SOON) else min(count, available)
        self._receive(consumer % len(self._target.queues), wanted)

    @precondition(lambda self: self._in(State.IN_FLIGHT))
    @rule(pick=picks)
    def ack(self, pick: int) -> None:
        """Done: the event is nowhere any more."""
        self._ack(self._pick(State.IN_FLIGHT, pick))

    @precondition(lambda self: self._in(State.IN_FLIGHT))
    @rule(pick=picks, delay=st.sampled_from([None, SOON, NEVER]))
    def nack(self, pick: int, delay: float | None) -> None:
        """Failed: delayed again, or dead past the limit."""
        held = self._pick(State.IN_FLIGHT, pick)
        self._run(self._queue(held.consumer).nack(held.delivery, delay=delay))
        if held.deliveries > MAX_RETRIES:
            held.state = State.DEAD
        else:
            held.state = State.DELAYED if delay == NEVER else State.SOON

    @precondition(lambda self: self._in(State.IN_FLIGHT))
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        """Given back: waiting, as if it had not been handed out."""
        self._release(self._pick(State.IN_FLIGHT, pick))

    @precondition(lambda self: self._in(State.IN_FLIGHT))
    @rule(pick=picks)
    def dead_letter(self, pick: int) -> None:
        """Buried by the handler's own wish."""
        held = self._pick(State.IN_FLIGHT, pick)
        self._run(self._queue(held.consumer).dead_letter(held.delivery, "rejected"))
        held.state = State.DEAD

    @precondition(lambda self: self._in(State.IN_FLIGHT))
    @rule(pick=picks)
    def extend(self, pick: int) -> None:
        """Renewed: nothing changes place."""
        held = self._pick(State.IN_FLIGHT, pick)
        self._run(self._queue(held.consumer).extend(held.delivery))

    @precondition(lambda self: self._target.can_crash and not self._in(State.IN_FLIGHT, State.SOON))
    @precondition(lambda self: self._in(State.WAITING))
    @rule(pick=picks)
    def crash(self, pick: int) -> None:
        """A consumer dies with an event in hand; another one gets it, with the crash counted."""
        event_id = self._run(self._target.crash())
        if event_id is not None:
            crashed = self._events[event_id]
            assert crashed.state is State.WAITING
            crashed.deliveries += 1
            consumer = pick % len(self._target.queues)
            if crashed.deliveries >= MAX_RETRIES:
                self._finish_up_to(crashed, consumer)
            self._receive(consumer, len(self._in(State.WAITING)))

    # --- operating ---

    @precondition(lambda self: self._in(State.DEAD))
    @rule(pick=picks)
    def redrive(self, pick: int) -> None:
        """Back into the line with a fresh count, if there is room."""
        letters = self._run(self._queue(0).dead_letters())
        letter = letters[pick % len(letters)]
        room = self._unsettled() < MAX_SIZE

        assert self._run(self._queue(0).redrive(letter.dead_id)) == int(room)

        if room:
            back = self._events[letter.event_id]
            back.state, back.deliveries = State.WAITING, 0

    # --- what must always hold ---

    @invariant()
    def every_event_is_in_exactly_one_place(self) -> None:
        """The queue's figures are the model's."""
        stats = self._run(self._queue(0).stats())
        dead = self._run(self._queue(0).dead_letters())
        assert stats.waiting + stats.in_flight + stats.delayed == self._unsettled()
        assert len(self._in(State.DELAYED)) <= stats.delayed
        assert stats.delayed <= len(self._in(State.DELAYED)) + len(self._in(State.SOON))
        assert stats.in_flight >= len(self._in(State.IN_FLIGHT))
        assert stats.totals.get("acked", 0) == len(self._in(State.ACKED))
        assert sorted(letter.event_id for letter in dead) == sorted(each.event_id for each in self._in(State.DEAD))
        for letter in dead:
            assert letter.payload == self._events[letter.event_id].payload
            assert letter.deliveries == self._events[letter.event_id].deliveries

    def teardown(self) -> None:
        """In the end everything that is not delayed for ever comes out; then nothing is left."""
        try:
            for held in self._in(State.IN_FLIGHT):
                self._release(held)
            self._drain()
            self.every_event_is_in_exactly_one_place()
        finally:
            self._run(self._clean_up())
            self._runner.close()

    # --- steps ---

    def _drain(self) -> None:
        def left() -> bool:
            return bool(self._in(State.WAITING) + self._in(State.SOON))

        async def drain() -> bool:
            for consumer, queue in enumerate(self._target.queues):
                deliveries = await queue.receive(10, timeout=0.02)
                for delivery in deliveries:
                    self._note(delivery, consumer)
                    self._events[delivery.event_id].state = State.ACKED
                await queue.ack(*deliveries)
            return not left()

        self._run(wait_until(drain, timeout=10.0, what=lambda: f"never came: {self._in(State.WAITING, State.SOON)}"))

    async def _clean_up(self) -> None:
        for queue in self._target.queues:
            await queue.cleanup()

    def _receive(self, consumer: int, count: int) -> None:
        async def receive() -> None:
            for delivery in await receive_exactly(self._queue(consumer), count):
                self._note(delivery, consumer)

        self._run(receive())

    def _finish_up_to(self, last: Modelled, consumer: int) -> None:
        # The last run of what crashed is made alone: it comes to empty hands only, and nothing comes beside it.
        while last.state is State.WAITING:
            self._receive(consumer, 1)
            for held in self._in(State.IN_FLIGHT):
                self._ack(held)

    def _note(self, delivery: Delivery, consumer: int) -> None:
        found = self._events[delivery.event_id]
        assert found.state in (State.WAITING, State.SOON)
        found.state, found.delivery, found.consumer = State.IN_FLIGHT, delivery, consumer
        found.deliveries += 1
        assert (delivery.payload, delivery.deliveries) == (found.payload, found.deliveries)

    def _ack(self, held: Modelled) -> None:
        self._run(self._queue(held.consumer).ack(held.delivery))
        held.state = State.ACKED

    def _release(self, held: Modelled) -> None:
        self._run(self._queue(held.consumer).release(held.delivery))
        held.state = State.WAITING
        held.deliveries -= 1

    def _queue(self, consumer: int) -> Any:
        return self._target.queues[consumer % len(self._target.queues)]

    def _in(self, *states: State) -> list[Modelled]:
        return [each for each in self._events.values() if each.state in states]

    def _pick(self, state: State, pick: int) -> Modelled:
        found = self._in(state)
        return found[pick % len(found)]

    def _unsettled(self) -> int:
        return len(self._in(State.WAITING, State.SOON, State.DELAYED, State.IN_FLIGHT))

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await awaitable

        return self._runner.run(run())
