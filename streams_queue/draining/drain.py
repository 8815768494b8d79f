"""Emptying a queue: what waits, what is delayed, what the living give back and the dead have left, and dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streams_queue.draining.events import Event, State
from streams_queue.draining.stock import Stock
from streams_queue.redis_queue.commands import Figures

# Between two looks at a queue that is not empty, and gives nothing.
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a page.

    Attributes:
        events: Those that are out of the queue now.
        unfit: How many stay where they are, because they cannot go where the drain goes.
        changed: Not everything was there any more; nothing was done.
    """

    events: Sequence[Event] = ()
    unfit: int = 0
    changed: bool = False


class Sink(Protocol):
    """Where a drain goes to; it takes events over and takes them out of the queue, in the order that loses none."""

    async def begin(self) -> None:
        """Get ready."""
        ...

    async def take_over(self, page: Sequence[Event]) -> Moved:
        """Take a page over."""
        ...

    async def end(self) -> None:
        """Everything that was to go is there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a drain did, and what the queue holds after it, by the server's own counts.

    Attributes:
        waiting: Events taken that waited, were given back or were left by the dead.
        delayed: Delayed events taken, before they were due.
        dead: Dead letters taken.
        at_start: Events that the queue held before: waiting, in flight and delayed.
        came_in: Enqueued, redriven or imported meanwhile.
        settled: Acknowledged, buried, found missing or drained by others meanwhile.
        left_waiting: Wait now.
        left_in_flight: Are with workers now.
        left_delayed: Are delayed now.
        left_dead: Dead letters now.
        takes_dead: Whether dead letters were to be taken.
        paused: What is paused now.
    """

    waiting: int = 0
    delayed: int = 0
    dead: int = 0
    at_start: int = 0
    came_in: int = 0
    settled: int = 0
    left_waiting: int = 0
    left_in_flight: int = 0
    left_delayed: int = 0
    left_dead: int = 0
    takes_dead: bool = False
    paused: str = ""

    @property
    def left(self) -> int:
        """How many events the queue still holds, dead letters not counted."""
        return self.left_waiting + self.left_in_flight + self.left_delayed

    @property
    def adds_up(self) -> bool:
        """Whether every event that was there or came in has been taken, was settled, or is left."""
        return self.at_start + self.came_in == self.waiting + self.delayed + self.settled + self.left

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of what was to be taken."""
        return not self.left and not (self.takes_dead and self.left_dead)


@dataclass(slots=True)
class Drain:
    """One drain, from the first look to the report.

    It ends when the queue holds nothing, or `wait` seconds after there is nothing to take but what came in since it
    began: so long it waits for what workers have in hand, and for producers to end.

    Attributes:
        stock: The queue's events.
        sink: Where they go.
        wait: Seconds.
        dead: Whether to take dead letters as well, last.
        pause_intake: Refuse new events first, in all processes. They are still refused at the end.
        pause_delivery: Hand out nothing more, likewise.
        advance: Is told how many events have been taken, each time.
    """

    stock: Stock
    sink: Sink
    wait: float = 30.0
    dead: bool = False
    pause_intake: bool = False
    pause_delivery: bool = False
    advance: Callable[[int], None] = lambda _: None
    taken: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    _began_ms: int = 0
    _waiting_since: float | None = None

    async def run(self) -> Report:
        """Drain. Raises BackendError, and what the sink raises; what has left the queue then is where it should be."""
        if self.pause_intake or self.pause_delivery:
            paused = (await self.stock.figures()).totals.get("paused", "")
            await self.stock.pause(paused, intake=self.pause_intake, delivery=self.pause_delivery)
        before = await self.stock.figures()
        self._began_ms = before.now_ms
        await self.sink.begin()
        await self._empty()
        if self.dead:
            await self._take_dead()
        await self.sink.end()
        return self._report(before, await self.stock.figures())

    async def _empty(self) -> None:
        while True:
            await self.stock.reclaim()
            moved = await self._take_waiting() + await self._take_delayed()
            figures = await self.stock.figures()
            if figures.entries + figures.delayed == 0 or self._has_waited():
                return
            if not moved:
                await asyncio.sleep(_POLL)

    def _has_waited(self) -> bool:
        """Whether the time to wait is over; it begins when this is first asked."""
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since >= self.wait

    async def _take_waiting(self) -> int:
        total = 0
        while page := await self.stock.take():
            total += self._count(await self.sink.take_over(page))
            if page[0].added_ms > self._began_ms and self._has_waited():
                break
        return total

    async def _take_delayed(self) -> int:
        total, skip = 0, 0
        while page := await self.stock.delayed(skip):
            moved = await self.sink.take_over(page)
            if moved.changed:
                break
            total, skip = total + self._count(moved), skip + moved.unfit
        return total

    async def _take_dead(self) -> None:
        after = ""
        while page := await self.stock.dead(after):
            moved = await self.sink.take_over(page)
            self._count(moved)
            if not moved.changed:
                after = page[-1].entry_id

    def _count(self, moved: Moved) -> int:
        for event in moved.events:
            self.taken[event.state] += 1
        if moved.events:
            self.advance(len(moved.events))
        return len(moved.events)

    def _report(self, before: Figures, after: Figures) -> Report:
        def since(*names: str) -> int:
            return sum(_total(after, name) - _total(before, name) for name in names)

        return Report(
            waiting=self.taken[State.WAITING],
            delayed=self.taken[State.DELAYED],
            dead=self.taken[State.DEAD],
            at_start=before.entries + before.delayed,
            came_in=since("enqueued", "redriven"),
            settled=since("acked", "dead", "lost", "drained") - self.taken[State.WAITING] - self.taken[State.DELAYED],
            left_waiting=max(0, after.entries - after.pending),
            left_in_flight=min(after.entries, after.pending),
            left_delayed=after.delayed,
            left_dead=after.dead,
            takes_dead=self.dead,
            paused=after.totals.get("paused", ""),
        )


def _total(figures: Figures, name: str) -> int:
    written = figures.totals.get(name, "0")
    return int(written) if written.isdecimal() else 0
