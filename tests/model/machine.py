"""A queue beside a plain-Python model of it; after each step both agree on where every event is, and in what order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams_queue.messages import Delivery, ReceiptStatus
from streams_queue.queue import Queue
from tests.support.builders import event
from tests.support.taking import receive_exactly
from tests.support.waiting import wait_until

MAX_SIZE, MAX_RETRIES = 8, 2
NOW, SOON, LATER = 0.0, 0.01, 5_000.0
JUMP = 7_200.0  # all that is delayed is due after it
FURTHEST = 5 * JUMP  # the server remembers a producer for a day by its own clock
SETTINGS = {
    "max_size": MAX_SIZE,
    "lease": 4.0,
    "max_lease": 1_000_000.0,
    "dedup_window": 1_000_000_000.0,
    "prefetch": 1,
    "retry_policy": {"max_retries": MAX_RETRIES, "base_delay": SOON, "jitter": 0.0},
}
# What is compared with the server's own counts.
COUNTED = (
    "enqueued",
    "duplicates",
    "rejected",
    "acked",
    "retried",
    "dead",
    "redriven",
    "purged",
    "dead_purged",
    "lost",
)

consumers = st.integers(0, 1)
picks = st.integers(0, 99)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text("aé\x00\u202e😀", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=3,
)
headers = st.dictionaries(st.sampled_from(["trace", "d"]), st.text('a"é', max_size=3), max_size=2)


class State(Enum):
    """Where an event is."""

    WAITING = "waiting"
    DELAYED = "delayed"
    HELD = "in flight, received"
    TAKEN = "in flight, dequeued: its task's next dequeue acknowledges it"
    ACKED = "acked"
    DEAD = "dead"
    DELETED = "was dead"


IN_FLIGHT = (State.HELD, State.TAKEN)


@dataclass(eq=False)
class Modelled:
    """What the model knows of one event."""

    event_id: str
    payload: dict[str, Any]
    headers: dict[str, str]
    state: State
    deliveries: int = 0
    delivery: Delivery | None = None
    consumer: int = -1
    due: tuple[float, int] = (0.0, 0)
    reason: str = ""


class DequeuingTask:
    """One task that dequeues whenever it is told to, and so settles what it had taken before."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._calls: asyncio.Queue[tuple[float, asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def dequeue(self, timeout: float) -> Any:
        """Return what the task's next dequeue returns."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        answer = asyncio.get_running_loop().create_future()
        self._calls.put_nowait((timeout, answer))
        return await answer

    async def _run(self) -> None:
        while True:
            timeout, answer = await self._calls.get()
            answer.set_result(await self._queue.dequeue(timeout))

    async def end(self) -> None:
        """Cancel the task: what it had taken goes back."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@dataclass
class Target:
    """The queue under test, as one or two consumers of it."""

    queues: list[Queue] = field(default_factory=list)
    can_crash: bool = False
    can_jump: bool = False
    drops_oldest: bool = False

    async def crash(self) -> str | None:
        """Let a consumer take one event and die; return its event id, or None if it found none."""
        return None

    def jump(self, seconds: float) -> float:
        """Set the clock by which events are delayed; return by how much that clock was moved."""
        return 0.0

    def let_time_pass(self) -> None:
        """See to it that a short delay comes to its end, where time does not go by by itself."""

    def restart(self, consumer: int) -> Queue | None:
        """Return a queue that takes the place of one that was cleaned up; None where its events would be gone."""
        return None

    def heard(self, delivery_paused: bool) -> bool:
        """Tell whether all consumers know that handing out is paused, or is not."""
        return True

    def is_reading(self) -> bool:
        """Tell whether a read that nobody waits for is still under way."""
        return False

    def close(self) -> None:
        """Undo what outlives the queues."""


class QueueMachine(RuleBasedStateMachine):
    """Random calls on a queue, each mirrored in the model."""

    def __init__(self, make: Callable[[], Awaitable[Target]]) -> None:
        super().__init__()
        self._make = make
        self._runner = asyncio.Runner()
        self._events: dict[str, Modelled] = {}
        self._line: list[Modelled] = []
        self._dead: list[Modelled] = []
        self._counts: Counter[str] = Counter()
        self._numbers = 0
        self._max_size = MAX_SIZE
        self._clock = 0.0
        self._no_intake = self._no_delivery = False

    @initialize()
    def start(self) -> None:
        """Make a fresh queue, whose consumers do their housekeeping."""

        async def make() -> Target:
            target = await self._make()
            for queue in target.queues:
                assert await queue.receive(timeout=0) == []
            return target

        self._target = self._runner.run(make())
        self._tasks = [DequeuingTask(queue) for queue in self._target.queues]

    # --- producing ---

    @rule(
        consumer=consumers,
        names=st.lists(st.none() | st.sampled_from("abcdef"), min_size=1, max_size=4),
        delay=st.sampled_from([NOW, NOW, NOW, SOON, LATER]),
        headers=headers,
        value=values,
    )
    def enqueue(
        self, consumer: int, names: list[str | None], delay: float, headers: dict[str, str], value: object
    ) -> None:
        """A few events: a known id is a duplicate, even when the queue is full; otherwise max_size decides."""
        payloads = [event(self._numbers + position, value=value) for position in range(len(names))]
        self._numbers += len(names)

        receipts = self._run(
            self._queue(consumer).enqueue_many(payloads, event_ids=names, delay=delay, headers=headers)
        )

        soon: list[Modelled] = []
        for name, payload, receipt in zip(names, payloads, receipts, strict=True):
            assert receipt.status is self._expected(name)
            assert name in (None, receipt.event_id)
            if receipt.status is ReceiptStatus.ACCEPTED:
                added = Modelled(receipt.event_id, payload, headers, State.WAITING)
                self._events[receipt.event_id] = added
                if delay == SOON:
                    # Not in the line yet: it does not make room for the others of this call.
                    soon.append(added)
                else:
                    self._put(added, delay)
                self._counts["enqueued"] += 1
            self._counts["duplicates"] += receipt.status is ReceiptStatus.DUPLICATE
            self._counts["rejected"] += receipt.status is ReceiptStatus.FULL
        self._line += soon
        self._wait_for_promotion()

    @precondition(lambda self: not self._no_intake)
    @rule(consumer=consumers, value=values)
    def enqueue_one(self, consumer: int, value: object) -> None:
        """The plain verb: True if the queue holds the event now."""
        payload = event(self._numbers, value=value)
        self._numbers += 1
        name = f"one-{self._numbers}"
        expected = self._expected(name) is ReceiptStatus.ACCEPTED

        assert self._run(self._queue(consumer).enqueue(payload, event_id=name)) is expected

        if expected:
            self._events[name] = Modelled(name, payload, {}, State.WAITING)
            self._put(self._events[name], NOW)
        self._counts["enqueued" if expected else "rejected"] += 1

    def _expected(self, name: str | None) -> ReceiptStatus:
        if name in self._events:
            return ReceiptStatus.DUPLICATE
        if self._no_intake:
            return ReceiptStatus.PAUSED
        while self._unsettled() >= self._max_size:
            if not (self._target.drops_oldest and self._max_size and self._line):
                return ReceiptStatus.FULL
            self._bury(self._line.pop(0), "overflow")
        return ReceiptStatus.ACCEPTED

    @rule(max_size=st.sampled_from([0, 1, 3, MAX_SIZE, MAX_SIZE, 20]))
    def change_max_size(self, max_size: int) -> None:
        """It may be set at any time; nothing that is held leaves for it."""
        self._max_size = max_size
        for queue in self._target.queues:
            queue.max_size = max_size

    # --- consuming ---

    @rule(consumer=consumers, count=st.integers(1, 4))
    def receive(self, consumer: int, count: int) -> None:
        """The first in line come, in order; nothing does when the line is empty or handing out is paused."""
        wanted = 0 if self._no_delivery else min(count, len(self._line))
        if wanted:
            self._receive(consumer % len(self._target.queues), wanted)
        else:
            assert self._run(self._queue(consumer).receive(count, timeout=0)) == []

    @rule(consumer=consumers)
    def dequeue(self, consumer: int) -> None:
        """The first in line comes, and what the same task had taken before is done."""
        consumer %= len(self._target.queues)
        comes = bool(self._line) and not self._no_delivery
        payload = self._run(self._tasks[consumer].dequeue(5.0 if comes else 0.0))
        for before in self._in(State.TAKEN):
            if before.consumer == consumer:
                self._settled(before, State.ACKED, "acked")
        self._take(payload, consumer, comes=comes)

    @precondition(lambda self: self._line and not self._no_delivery)
    @rule(consumer=consumers, fails=st.booleans())
    def run_a_task(self, consumer: int, fails: bool) -> None:
        """A task that ends is done with what it took; one that fails gives it back."""
        consumer %= len(self._target.queues)

        async def task() -> None:
            self._take(await self._queue(consumer).dequeue(5.0), consumer, comes=True)
            if fails:
                raise ArithmeticError

        async def run() -> None:
            with suppress(ArithmeticError):
                await asyncio.create_task(task())

        taken = self._line[0]
        self._run(run())
        if fails:
            self._released(taken)
        else:
            self._settled(taken, State.ACKED, "acked")

    @precondition(lambda self: self._in(State.HELD))
    @rule(pick=picks, count=st.integers(1, 3))
    def ack(self, pick: int, count: int) -> None:
        """Done: the events are nowhere any more, and a second ack changes nothing."""
        chosen = self._pick_held(pick, count)
        deliveries = [held.delivery for held in chosen]
        self._run(self._queue(chosen[0].consumer).ack(*deliveries))
        self._run(self._queue(chosen[0].consumer).ack(*deliveries))
        for held in chosen:
            self._settled(held, State.ACKED, "acked")

    @precondition(lambda self: self._in(State.HELD))
    @rule(pick=picks, delay=st.sampled_from([None, NOW, SOON, LATER]))
    def nack(self, pick: int, delay: float | None) -> None:
        """Failed: delayed or at the end of the line, or dead past the limit."""
        (held,) = self._pick_held(pick, 1)
        self._run(self._queue(held.consumer).nack(held.delivery, delay=delay, error="no luck"))
        if held.deliveries > MAX_RETRIES:
            self._bury(held, "max_retries")
        else:
            self._counts["retried"] += 1
            self._put(held, SOON if delay is None else delay)
        self._wait_for_promotion()

    @precondition(lambda self: self._in(State.HELD))
    @rule(pick=picks, count=st.integers(1, 3))
    def release(self, pick: int, count: int) -> None:
        """Given back: at the end of the line, as if they had not been handed out."""
        chosen = self._pick_held(pick, count)
        self._run(self._queue(chosen[0].consumer).release(*(held.delivery for held in chosen)))
        for held in chosen:
            self._released(held)

    @precondition(lambda self: self._in(State.HELD))
    @rule(pick=picks)
    def dead_letter(self, pick: int) -> None:
        """Buried by the handler's own wish."""
        (held,) = self._pick_held(pick, 1)
        self._run(self._queue(held.consumer).dead_letter(held.delivery, "rejected"))
        self._bury(held, "rejected")

    @precondition(lambda self: self._in(State.HELD))
    @rule(pick=picks, count=st.integers(1, 3))
    def extend(self, pick: int, count: int) -> None:
        """Renewed: nothing changes place."""
        chosen = self._pick_held(pick, count)
        self._run(self._queue(chosen[0].consumer).extend(*(held.delivery for held in chosen)))

    # --- what goes wrong ---

    @precondition(lambda self: self._target.can_crash and not self._in(*IN_FLIGHT))
    @precondition(lambda self: self._line and not self._no_delivery and not self._clock)
    @rule(pick=picks)
    def crash(self, pick: int) -> None:
        """A consumer dies with the first event in hand; another one gets it, with the crash counted."""
        crashed = self._line[0]
        assert self._run(self._target.crash()) == crashed.event_id
        crashed.deliveries += 1
        consumer = pick % len(self._target.queues)
        if crashed.deliveries >= MAX_RETRIES:
            self._finish_up_to(crashed, consumer)
        self._receive(consumer, len(self._line), anywhere=crashed)
        self._run(wait_until(lambda: not self._target.is_reading(), what="a read goes on for nobody"))

    @precondition(lambda self: self._target.can_jump)
    @rule(seconds=st.sampled_from([-JUMP, -3.0, 3.0, JUMP]))
    def jump(self, seconds: float) -> None:
        """The clock is set: what is due then comes, in the order in which it is due; all else stays where it is."""
        if abs(self._clock + seconds) <= FURTHEST:
            self._clock += self._target.jump(seconds)
            for due in sorted(self._in(State.DELAYED), key=lambda each: each.due):
                if due.due[0] <= self._clock:
                    self._to_the_end(due)
            self._wait_for_promotion()

    @rule(consumer=consumers)
    def restart(self, consumer: int) -> None:
        """A consumer closes its queue and a new one begins: what it held is at the end of the line."""
        consumer %= len(self._target.queues)
        successor = self._target.restart(consumer)
        if successor is None:
            return
        self._run(self._target.queues[consumer].cleanup())
        self._run(self._tasks[consumer].end())
        self._target.queues[consumer], self._tasks[consumer] = successor, DequeuingTask(successor)
        successor.max_size = self._max_size
        held = [each for each in self._in(*IN_FLIGHT) if each.consumer == consumer]
        for each in held:
            self._released(each)
        self._adopt_order(len(held))
        self._run(self._start_consuming(successor))

    # --- operating ---

    @rule(count=st.integers(1, 9))
    def peek(self, count: int) -> None:
        """The next in line, then those that are due next; looking changes nothing."""
        line = [(each.event_id, each.payload, "waiting", each.deliveries) for each in self._line]
        delayed = [(each.event_id, each.payload, "delayed", each.deliveries) for each in self._delayed()]
        seen = self._run(self._queue(0).peek(count))
        found = [(each.event_id, each.payload, each.state, each.deliveries) for each in seen]
        assert found == (line + delayed)[:count]

    @rule(consumer=consumers)
    def look_at_the_depth(self, consumer: int) -> None:
        """What waits, by a question to the server, and then without one."""
        queue = self._queue(consumer)
        assert self._run(queue.get_queue_depth()) == len(self._line)
        assert queue.get_queue_size() == len(self._line)
        assert self._run(queue.check_health())["status"] == "healthy"

    @precondition(lambda self: self._dead)
    @rule(some=st.lists(picks, min_size=1, max_size=3), ghost=st.booleans())
    def redrive(self, some: list[int], ghost: bool) -> None:
        """Named dead letters go back in the order given, with a fresh count, as far as there is room."""
        chosen = list(dict.fromkeys(self._dead[pick % len(self._dead)] for pick in some))
        ids = self._dead_ids()
        wanted = [ids[each.event_id] for each in chosen]
        moved = self._run(self._queue(0).redrive(*(["1-1"] if ghost else []), *wanted, wanted[0]))
        self._redriven(chosen, moved)

    @rule(count=st.none() | st.integers(1, 3))
    def redrive_the_oldest(self, count: int | None) -> None:
        """All of them, or so many, oldest first."""
        moved = self._run(self._queue(0).redrive(count=count))
        self._redriven(self._dead[:count], moved)

    def _redriven(self, chosen: list[Modelled], moved: int) -> None:
        room = max(0, self._max_size - self._unsettled())
        assert moved == min(room, len(chosen))
        for back in chosen[:moved]:
            self._dead.remove(back)
            back.deliveries = 0
            self._to_the_end(back)
        self._counts["redriven"] += moved

    @rule()
    def purge(self) -> None:
        """What waits and what is delayed is dead, in this order; what is in flight is left alone."""
        gone = [*self._line, *self._delayed()]
        assert self._run(self._queue(0).purge()) == len(gone)
        self._line.clear()
        for each in gone:
            self._bury(each, "purged")
        self._counts["purged"] += len(gone)

    @precondition(lambda self: self._dead)
    @rule(some=st.lists(picks, max_size=2))
    def purge_dead(self, some: list[int]) -> None:
        """Deleted for good: those that are named, or all."""
        chosen = list(dict.fromkeys(self._dead[pick % len(self._dead)] for pick in some)) or list(self._dead)
        ids = self._dead_ids()
        named = [ids[each.event_id] for each in chosen] if some else []
        assert self._run(self._queue(0).purge_dead(*named, who="model")) == len(chosen)
        for each in chosen:
            self._dead.remove(each)
            each.state = State.DELETED
        self._counts["dead_purged"] += len(chosen)

    @rule(intake=st.booleans(), delivery=st.booleans())
    def pause(self, intake: bool, delivery: bool) -> None:
        """Nothing comes in, or nothing is handed out, or both, or neither."""
        self._paused(intake, delivery, self._queue(0).pause(intake=intake, delivery=delivery))

    @precondition(lambda self: self._no_intake or self._no_delivery)
    @rule()
    def resume(self) -> None:
        """Everything goes on."""
        self._paused(False, False, self._queue(0).resume())

    def _paused(self, intake: bool, delivery: bool, call: Awaitable[None]) -> None:
        self._no_intake, self._no_delivery = intake, delivery
        self._run(call)
        self._run(wait_until(self._everybody_heard, what="a consumer did not hear of the pause or of its end"))

    async def _everybody_heard(self) -> bool:
        await self._nudge()
        return self._target.heard(self._no_delivery)

    # --- what must always hold ---

    @invariant()
    def every_event_is_in_exactly_one_place(self) -> None:
        """The queue's figures, its line and its dead letters are the model's, in the same order."""
        self._run(wait_until(self._agrees, timeout=5.0, what=lambda: f"{self._looked}\nis not\n{self._model()}"))

    async def _agrees(self) -> bool:
        queue = self._queue(0)
        stats, line, dead = await queue.stats(), await queue.peek(100), await self._dead_letters()
        self._looked = (
            (stats.waiting, stats.in_flight, stats.delayed, stats.dead, stats.paused, stats.max_size),
            {name: stats.totals.get(name, 0) for name in COUNTED},
            [each.event_id for each in line],
            [(each.event_id, each.reason, each.deliveries) for each in dead],
        )
        assert [each.payload for each in dead] == [self._events[each.event_id].payload for each in dead]
        return self._looked == self._model()

    def _model(self) -> tuple[object, ...]:
        line, delayed, paused = self._line, self._delayed(), self._no_intake or self._no_delivery
        return (
            (len(line), len(self._in(*IN_FLIGHT)), len(delayed), len(self._dead), paused, self._max_size),
            {name: self._counts[name] for name in COUNTED},
            [each.event_id for each in [*line, *delayed]],
            [(each.event_id, each.reason, each.deliveries) for each in self._dead],
        )

    def teardown(self) -> None:
        """In the end everything that is not delayed for ever comes out, in order; then nothing is left in the line."""
        try:
            if self._no_intake or self._no_delivery:
                self.resume()
            for held in self._in(State.HELD):
                self._run(self._queue(held.consumer).release(held.delivery))
                self._released(held)
            for taken in self._in(State.TAKEN):
                self._run(self._tasks[taken.consumer].end())
                self._released(taken)
            self.every_event_is_in_exactly_one_place()
            while self._line:
                self._receive(0, min(3, len(self._line)))
                for held in self._in(State.HELD):
                    self._run(self._queue(0).ack(held.delivery))
                    self._settled(held, State.ACKED, "acked")
            self.every_event_is_in_exactly_one_place()
        finally:
            self._run(self._clean_up())
            self._target.close()
            self._runner.close()

    # --- steps ---

    async def _clean_up(self) -> None:
        for task, queue in zip(self._tasks, self._target.queues, strict=True):
            await task.end()
            await queue.cleanup()

    async def _start_consuming(self, queue: Queue) -> None:
        """Let a consumer do its housekeeping, without taking anything away from the line's order."""
        for delivery in await queue.receive(timeout=0):
            self._note(delivery, self._target.queues.index(queue))

    def _receive(self, consumer: int, count: int, *, anywhere: Modelled | None = None) -> None:
        expected = [each for each in self._line[:count] if each is not anywhere]

        async def receive() -> list[Delivery]:
            return await receive_exactly(self._queue(consumer), count)

        deliveries = self._run(receive())
        came = [self._events[delivery.event_id] for delivery in deliveries]
        assert [each.event_id for each in came if each is not anywhere] == [each.event_id for each in expected]
        for delivery in deliveries:
            self._note(delivery, consumer)

    def _finish_up_to(self, last: Modelled, consumer: int) -> None:
        # The last run of what crashed is made alone: it comes to empty hands only, and nothing comes beside it.
        while last.state is State.WAITING:
            self._receive(consumer, 1, anywhere=last) if len(self._line) == 1 else self._receive_one(consumer, last)
            for held in self._in(State.HELD):
                self._run(self._queue(held.consumer).ack(held.delivery))
                self._settled(held, State.ACKED, "acked")

    def _receive_one(self, consumer: int, crashed: Modelled) -> None:
        (delivery,) = self._run(receive_exactly(self._queue(consumer), 1))
        first = next(each for each in self._line if each is not crashed)
        assert delivery.event_id in (crashed.event_id, first.event_id)
        self._note(delivery, consumer)

    def _note(self, delivery: Delivery, consumer: int) -> None:
        found = self._events[delivery.event_id]
        assert found.state is State.WAITING
        self._line.remove(found)
        found.state, found.delivery, found.consumer = State.HELD, delivery, consumer
        found.deliveries += 1
        assert (delivery.payload, delivery.headers) == (found.payload, found.headers)
        assert delivery.deliveries == found.deliveries

    def _take(self, payload: Any, consumer: int, *, comes: bool) -> None:
        if not comes:
            assert payload is None
            return
        taken = self._line.pop(0)
        assert payload == taken.payload
        taken.state, taken.consumer = State.TAKEN, consumer
        taken.deliveries += 1

    def _put(self, added: Modelled, delay: float) -> None:
        if delay == LATER:
            added.state, added.due = State.DELAYED, (self._clock + delay, self._numbers)
            self._numbers += 1
            # No two that are put in by different calls are due in the same millisecond.
            time.sleep(0.002)
        else:
            self._to_the_end(added)

    def _to_the_end(self, added: Modelled) -> None:
        added.state = State.WAITING
        self._line.append(added)

    def _released(self, held: Modelled) -> None:
        held.deliveries -= 1
        self._to_the_end(held)

    def _bury(self, dead: Modelled, reason: str) -> None:
        dead.state, dead.reason = State.DEAD, reason
        self._dead.append(dead)
        self._counts["dead"] += 1

    def _settled(self, held: Modelled, state: State, count: str) -> None:
        held.state = state
        self._counts[count] += 1

    def _wait_for_promotion(self) -> None:
        """Wait until all that is due is in the line, so that what comes next comes behind it."""
        self._run(wait_until(self._is_promoted, what="what is due was not promoted"))

    async def _is_promoted(self) -> bool:
        if (await self._queue(0).stats()).delayed == len(self._in(State.DELAYED)):
            return True
        await self._nudge()
        return False

    async def _nudge(self) -> None:
        """Have every consumer do its housekeeping now: a call that changes nothing, and is followed by a round."""
        self._target.let_time_pass()
        for queue in self._target.queues:
            await queue.pause(intake=self._no_intake, delivery=self._no_delivery)

    def _adopt_order(self, count: int) -> None:
        """What was given back in one go is at the end of the line, in an order that nobody promises."""
        if count:
            seen = self._run(self._queue(0).peek(100))[len(self._line) - count : len(self._line)]
            given_back = {each.event_id: each for each in self._line[-count:]}
            self._line[-count:] = [given_back.pop(each.event_id) for each in seen]

    async def _dead_letters(self) -> list[Any]:
        letters, page = [], await self._queue(0).dead_letters(3)
        while page:
            letters += page
            page = await self._queue(0).dead_letters(3, after=page[-1].dead_id)
        return letters

    def _dead_ids(self) -> dict[str, str]:
        return {letter.event_id: letter.dead_id for letter in self._run(self._dead_letters())}

    def _queue(self, consumer: int) -> Any:
        return self._target.queues[consumer % len(self._target.queues)]

    def _in(self, *states: State) -> list[Modelled]:
        return [each for each in self._events.values() if each.state in states]

    def _delayed(self) -> list[Modelled]:
        return sorted(self._in(State.DELAYED), key=lambda each: each.due)

    def _pick_held(self, pick: int, count: int) -> list[Modelled]:
        """Return up to `count` events that one consumer has received."""
        held = self._in(State.HELD)
        first = held[pick % len(held)]
        return [first, *(each for each in held if each is not first and each.consumer == first.consumer)][:count]

    def _unsettled(self) -> int:
        return len(self._in(State.WAITING, State.DELAYED, *IN_FLIGHT))

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await awaitable

        coroutine: Coroutine[Any, Any, Any] = run()
        return self._runner.run(coroutine)
