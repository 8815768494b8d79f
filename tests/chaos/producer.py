"""A producer process of the storm: notes what it is about to enqueue, and what the queue said."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from streams_queue import Queue, QueueFactory, Receipt
from streams_queue.errors import BackendRejected, BackendUnavailable, StreamsQueueError
from tests.chaos import journal as j
from tests.chaos.journal import Journal
from tests.chaos.parts import ProducerPart, event_id, payload, take_part

PATIENCE_AT_END = 15.0
PAUSE_AFTER_ERROR = 0.05
PAUSES_WHEN_FULL = (0.02, 0.3)
NOTHING_WRITTEN = (BackendUnavailable, BackendRejected)
AGAIN_EVERY = 50  # one call in so many is made a second time: nothing may come of it
DELAYED_EVERY = 67
DELAY = 0.7


@dataclass(slots=True)
class Load:
    """Some events, on their way."""

    prefix: str
    numbers: Sequence[int]
    flag: str = j.PLAIN

    @property
    def delay(self) -> float:
        """Seconds until they are due."""
        return DELAY if self.flag == j.LATER else 0.0


@dataclass(slots=True)
class Pace:
    """Lets so many events a second through, and makes up for no more than half a second that was missed."""

    rate: float
    at: float = field(default_factory=time.monotonic)

    async def wait(self, count: int) -> None:
        """Wait for the turn of `count` events."""
        now = time.monotonic()
        self.at = max(self.at, now - 0.5) + count / self.rate
        if self.at > now:
            await asyncio.sleep(self.at - now)


class Producer:
    """Enqueues until it is stopped."""

    def __init__(self, part: ProducerPart, queue: Queue, journal: Journal) -> None:
        self._part = part
        self._queue = queue
        self._journal = journal
        self._pace = Pace(part.rate)
        self._calls = 0
        self._loads = self._make_loads()
        self._stopping = False
        self._give_up_at = float("inf")

    def stop(self) -> None:
        """Finish what is under way, and no more."""
        self._stopping = True
        self._give_up_at = time.monotonic() + PATIENCE_AT_END

    async def run(self) -> None:
        """Send again what a predecessor left open, then go on with events of one's own."""
        for prefix, numbers, flag in self._part.resend:
            await self._deliver(Load(prefix, numbers, flag))
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._part.callers):
                callers.create_task(self._call_on())

    def _make_loads(self) -> Iterator[Load]:
        first, calls = 0, 0
        while True:
            calls += 1
            flag = j.LATER if calls % DELAYED_EVERY == 0 else j.PLAIN
            yield Load(self._part.name, range(first, first + self._part.batch), flag)
            first += self._part.batch

    async def _call_on(self) -> None:
        while not self._stopping:
            await self._pace.wait(self._part.batch)
            load = next(self._loads)
            await self._deliver(load)
            if self._part.named and load.numbers[0] // self._part.batch % AGAIN_EVERY == 3:
                # What becomes of it is in the journal; what counts is that nothing came of it.
                with contextlib.suppress(StreamsQueueError):
                    await self._call(Load(load.prefix, load.numbers, j.AGAIN))

    async def _deliver(self, load: Load) -> None:
        """Call until the queue has everything, or the outcome is unknown and no event id makes a second call safe."""
        pause = PAUSES_WHEN_FULL[0]
        while load.numbers and time.monotonic() < self._give_up_at:
            try:
                results = await self._call(load)
            except StreamsQueueError as error:
                if not (self._part.named or isinstance(error, NOTHING_WRITTEN)):
                    return
                await asyncio.sleep(PAUSE_AFTER_ERROR)
                continue
            refused = [n for n, word in zip(load.numbers, results, strict=True) if word in j.REFUSALS]
            load = Load(load.prefix, refused, load.flag)
            if refused:
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSES_WHEN_FULL[1])

    async def _call(self, load: Load) -> list[str]:
        """Make one call, with a line before and after; raises what the queue raises."""
        self._calls += 1
        call = self._calls
        self._journal.note(j.SENT, call, load.prefix, ",".join(map(str, load.numbers)), load.flag)
        try:
            results = await self._enqueue(load)
        except StreamsQueueError as error:
            self._journal.note(j.ERROR, call, type(error).__name__, getattr(error, "code", ""))
            raise
        self._journal.note(j.ACKED, call, ",".join(results))
        return results

    async def _enqueue(self, load: Load) -> list[str]:
        names = [event_id(load.prefix, number) for number in load.numbers]
        part = self._part
        payloads = [payload(load.prefix, number, part.poison_every, part.work) for number in load.numbers]
        if self._part.batch == 1:
            name = names[0] if self._part.named else None
            held = await self._queue.enqueue(payloads[0], event_id=name, delay=load.delay)
            return [j.HELD if held else j.FULL]
        ids = names if self._part.named else None
        return [
            word_for(receipt, delayed=load.delay > 0)
            for receipt in await self._queue.enqueue_many(payloads, event_ids=ids, delay=load.delay)
        ]


def word_for(receipt: Receipt, *, delayed: bool) -> str:
    """Write a receipt as one word; what a fallback holds itself, it may hold a second time until Redis has it."""
    if receipt.status == "accepted":
        return receipt.entry_id or (j.DELAYED if delayed else j.HELD)
    return j.DUPLICATE if receipt.held else j.FULL


async def until_drained(queue: Queue) -> None:
    """Wait until a resilient queue holds nothing itself any more."""
    deadline = time.monotonic() + PATIENCE_AT_END
    while (await queue.check_health()).get("held_locally") and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def produce(part: ProducerPart, journal: Journal) -> None:
    """Produce until SIGTERM."""
    async with QueueFactory.create_queue(part.config) as queue:
        producer = Producer(part, queue, journal)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, producer.stop)
        journal.note(j.READY)
        await producer.run()
        await until_drained(queue)
    journal.note(j.ENDED)


def main() -> NoReturn:
    """Run as a process of the storm."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    part = take_part(ProducerPart)
    asyncio.run(produce(part, Journal(Path(part.journal))))
    sys.exit(0)


if __name__ == "__main__":
    main()
