"""A worker process of the storm: notes what it is handed, begins and finishes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from streams_queue import Delivery, Observer, Queue, QueueFactory, Worker
from streams_queue.errors import LeaseLost, Reject, RetryLater, StreamsQueueError
from tests.chaos import journal as j
from tests.chaos.journal import Journal
from tests.chaos.parts import POISON, WorkerPart, take_part

logger = logging.getLogger(__name__)

SLEEPS = {"short": 0.003, "slow": 0.35, "slow_fail": 2.6}
RETRY_LATER = 0.3
# How many runs of such an event fail before one succeeds.
FAILURES = {"fail_once": 1, "slow_fail": 2}


def name_of(delivery: Delivery) -> str:
    """Return the event's name in the journals; the queue's own id is another where the producer gave none."""
    name: str = delivery.payload["id"]
    return name


class Notes(Observer):
    """Notes what the queue says, and remembers the latest delivery: `dequeue` shows the payload only."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.latest: Delivery | None = None

    def handed_out(self, delivery: Delivery) -> None:
        """Note it before the caller has it."""
        self.latest = delivery
        self._journal.note(j.HANDED, name_of(delivery), delivery.entry_id, delivery.deliveries)

    def lease_lost(self, delivery: Delivery) -> None:
        """Note it as the queue learns of it."""
        self._journal.note(j.LEASE_LOST, name_of(delivery), delivery.entry_id)

    def lost(self, count: int, reason: str) -> None:
        """Note what the queue itself reports."""
        self._journal.note(j.QUEUE_LOST, count, reason.replace(" ", "_"))


class FailureError(Exception):
    """What a handler of the storm raises."""


class Handling:
    """Runs events, with a line before and after each."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def run(self, delivery: Delivery) -> None:
        """Do what the event asks for."""
        what = self._begin(delivery)
        try:
            if what == "block":
                time.sleep(0.2)  # noqa: ASYNC251 - a handler that blocks its loop is meant
            elif what in SLEEPS:
                await asyncio.sleep(SLEEPS[what])
            self._outcome(what, delivery)
        except BaseException as error:
            self._gave_up(delivery, error)
            raise
        self.finish(delivery)

    def run_in_thread(self, delivery: Delivery) -> None:
        """Do the same where blocking is right."""
        what = self._begin(delivery)
        try:
            time.sleep(SLEEPS.get(what, 0.0))
            self._outcome(what, delivery)
        except BaseException as error:
            self._gave_up(delivery, error)
            raise
        self.finish(delivery)

    def _begin(self, delivery: Delivery) -> str:
        self._journal.note(j.STARTED, name_of(delivery), delivery.entry_id)
        what: str = delivery.payload["do"]
        if what == POISON:
            self._journal.note(j.DYING, name_of(delivery))
            os.kill(os.getpid(), signal.SIGKILL)
        return what

    def _outcome(self, what: str, delivery: Delivery) -> None:
        if what == "reject":
            raise Reject("refused by the storm")
        if what == "fail" or delivery.deliveries <= FAILURES.get(what, 0):
            raise FailureError(what)
        if what == "later" and delivery.deliveries == 1:
            raise RetryLater(RETRY_LATER)

    def finish(self, delivery: Delivery) -> None:
        """Note that an event is done; it is settled next."""
        self._journal.note(j.FINISHED, name_of(delivery), delivery.entry_id)

    def _gave_up(self, delivery: Delivery, error: BaseException) -> None:
        self._journal.note(j.GAVE_UP, name_of(delivery), delivery.entry_id, type(error).__name__)


async def with_worker(queue: Queue, handling: Handling, notes: Notes, part: WorkerPart, stop: asyncio.Event) -> None:
    """Work as most programs would."""
    await Worker(queue, handling.run, concurrency=part.concurrency, shutdown_timeout=1.0, name=part.name).run()


async def with_threads(queue: Queue, handling: Handling, notes: Notes, part: WorkerPart, stop: asyncio.Event) -> None:
    """Work with sync handlers."""
    await Worker(
        queue, handling.run_in_thread, concurrency=part.concurrency, shutdown_timeout=1.0, name=part.name
    ).run()


async def with_loop(queue: Queue, handling: Handling, notes: Notes, part: WorkerPart, stop: asyncio.Event) -> None:
    """Work in the plan's loop: what comes back from `dequeue` is settled by the next one, so a failure is final."""
    while not stop.is_set():
        if await queue.dequeue(1.0) is None or notes.latest is None:
            continue
        delivery = notes.latest
        try:
            await handling.run(delivery)
        except (FailureError, Reject, RetryLater):
            handling.finish(delivery)


async def with_batches(queue: Queue, handling: Handling, notes: Notes, part: WorkerPart, stop: asyncio.Event) -> None:
    """Work with explicit settling."""
    while not stop.is_set():
        deliveries = await queue.receive(part.concurrency, timeout=1.0)
        done = [delivery for delivery in deliveries if await _handled(queue, handling, delivery)]
        if done:
            await _settled(queue.ack(*done))


async def _handled(queue: Queue, handling: Handling, delivery: Delivery) -> bool:
    if delivery.lease_lost:
        return False
    try:
        await handling.run(delivery)
    except Reject as error:
        await _settled(queue.dead_letter(delivery, error.reason))
    except RetryLater as error:
        await _settled(queue.nack(delivery, delay=error.delay))
    except FailureError as error:
        await _settled(queue.nack(delivery, error=str(error)))
    else:
        return True
    return False


async def _settled(settling: Any) -> None:
    """Wait for a settlement; what cannot be settled now is handed out again when its lease is over."""
    try:
        await settling
    except LeaseLost:
        pass
    except StreamsQueueError as error:
        logger.warning("not settled: %s", error)


MODES: dict[str, Callable[..., Any]] = {
    "worker": with_worker,
    "threads": with_threads,
    "loop": with_loop,
    "batch": with_batches,
}


async def work(part: WorkerPart, journal: Journal) -> None:
    """Work until SIGTERM."""
    notes = Notes(journal)
    stop = asyncio.Event()
    if part.mode in ("loop", "batch"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with QueueFactory.create_queue(part.config, observers=[notes]) as queue:
        journal.note(j.READY)
        await MODES[part.mode](queue, Handling(journal), notes, part, stop)
    journal.note(j.ENDED)


def main() -> NoReturn:
    """Run as a process of the storm."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("streams_queue.worker").setLevel(logging.ERROR)  # that handlers fail is meant
    part = take_part(WorkerPart)
    asyncio.run(work(part, Journal(Path(part.journal))))
    sys.exit(0)


if __name__ == "__main__":
    main()
