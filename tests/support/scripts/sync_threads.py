"""A program without asyncio: threads that produce, take, and die with events, a fork, signals, an early end."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
import warnings
from types import FrameType
from typing import Any

from streams_queue import SyncQueue
from tests.support.builders import event
from tests.support.journal import arguments, say
from tests.support.waiting import wait_until_sync

# Python 3.12 and later warn of any fork beside a thread; that there are some is the point here.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


class Crew:
    """Threads of one process that enqueue numbered events and take events until somebody says that all are done."""

    def __init__(self, queue: SyncQueue, numbers: range, *, dies_every: int = 0) -> None:
        self.queue, self.dies_every = queue, dies_every
        self.numbers = iter(numbers)
        self.accepted: list[int] = []
        self.handled: list[int] = []
        self.deaths = self.producing = 0
        self.is_over = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, producers: int, consumers: int) -> None:
        """Start so many threads."""
        self.producing = producers
        for target, count in ((self.produce, producers), (self.consume, consumers)):
            for _ in range(count):
                self.start_one(target)

    def start_one(self, target: Any) -> None:
        """Start a thread."""
        self.threads.append(threading.Thread(target=target))
        self.threads[-1].start()

    def produce(self) -> None:
        """Enqueue what is left of the numbers."""
        for number in self.numbers:
            if self.queue.enqueue(event(number)):
                self.accepted.append(number)
        self.producing -= 1

    def consume(self) -> None:
        """Handle events; every so often the thread ends before it has, and another one takes its place."""
        while not self.is_over.is_set():
            payload = self.queue.dequeue(timeout=0.1)
            if payload is None:
                continue
            if self.dies_every and payload["n"] % self.dies_every == 0 and self.deaths < 50:
                self.deaths += 1
                self.start_one(self.consume)
                return
            self.handled.append(payload["n"])
        self.queue.task_done()

    def finish(self) -> None:
        """Wait until the producers are done and nothing is left in the queue, then end the threads."""
        while not self.is_settled():
            time.sleep(0.01)
        self.is_over.set()
        for thread in self.threads:
            thread.join()

    def is_settled(self) -> bool:
        """Whether the queue holds no more than what the last call of each consumer still settles."""
        if self.producing:
            return False
        stats = self.queue.stats()
        return stats.waiting + stats.in_flight + stats.delayed == 0


def work(config: dict[str, Any], events: int, threads: int, dies_every: int) -> None:
    """Produce and take in threads that die."""
    with SyncQueue(config) as queue:
        crew = Crew(queue, range(events), dies_every=dies_every)
        started = time.monotonic()
        crew.start(threads // 2, threads - threads // 2)
        crew.finish()
        say("seconds", time.monotonic() - started)
    say("did", crew.accepted, crew.handled, crew.deaths)
    wait_until_sync(lambda: threading.active_count() == 1, what=threading.enumerate)


def fork(config: dict[str, Any], events: int, threads: int) -> None:
    """Fork while all threads are in calls; both processes go on with threads of their own."""
    queue = SyncQueue(config)
    crew = Crew(queue, range(events))
    crew.start(threads // 2, threads - threads // 2)
    while len(crew.handled) < events // 10:
        time.sleep(0.001)
    held = queue.receive(timeout=10)
    mine = queue.dequeue(timeout=10)
    child = os.fork()
    if child == 0:
        in_child(queue, events, threads, mine)
    queue.ack(*held)
    crew.handled += [delivery.payload["n"] for delivery in held] + [mine["n"]]
    queue.task_done()
    crew.finish()
    _, status = os.waitpid(child, 0)
    queue.cleanup()
    say("child ended with", os.waitstatus_to_exitcode(status))
    say("did", crew.accepted, crew.handled, crew.deaths)


def in_child(queue: SyncQueue, events: int, threads: int, parents: dict[str, Any]) -> None:
    """Go on in the child, which must neither acknowledge nor give back what the forking thread had in hand."""
    crew = Crew(queue, range(events, 2 * events))
    queue.task_done()
    crew.start(threads // 2, threads - threads // 2)
    crew.finish()
    queue.cleanup()
    say("did", crew.accepted, crew.handled, crew.deaths)
    say("seen again", parents["n"] in crew.handled)
    os._exit(0)


def fork_in_a_hand_over(config: dict[str, Any]) -> None:
    """Fork while one thread holds an event and another is in the middle of handing a call over to the loop."""
    queue = SyncQueue(config)
    queue.enqueue(event(0))
    may_end, holds = threading.Event(), threading.Barrier(3)

    def hold_event() -> None:
        queue.dequeue()
        holds.wait()
        may_end.wait()
        queue.task_done()

    def hand_over() -> None:
        assert queue._runtime is not None
        with queue._runtime._turn, queue._turn:
            holds.wait()
            may_end.wait()

    threads = [threading.Thread(target=target) for target in (hold_event, hand_over)]
    for thread in threads:
        thread.start()
    holds.wait()
    child = os.fork()
    if child == 0:
        say("child", queue.enqueue(event(1)), queue.dequeue()["n"])
        queue.task_done()
        queue.cleanup()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    may_end.set()
    for thread in threads:
        thread.join()
    wait_until_sync(lambda: queue.stats().totals["acked"] == 2)
    say("parent", os.waitstatus_to_exitcode(status))
    queue.cleanup()


def interrupted(config: dict[str, Any], events: int) -> None:
    """Take events in the main thread under a storm of SIGINT, each of which raises wherever the queue's code is."""
    handled: list[int] = []
    interrupts = 0
    over = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(_: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename != __file__:
            raise KeyboardInterrupt

    def storm() -> None:
        while not over.wait(0.002):
            signal.pthread_kill(main, signal.SIGINT)

    queue = SyncQueue(config)
    queue.enqueue_many([event(number) for number in range(events)])
    signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=storm)
    thread.start()
    while len(handled) < events:
        try:
            payload = queue.dequeue(timeout=math.inf)
        except KeyboardInterrupt:
            interrupts += 1
            continue
        handled.append(payload["n"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    over.set()
    thread.join()
    queue.task_done()
    queue.cleanup()
    say("handled", handled)
    say("interrupts", interrupts)


def leave(config: dict[str, Any]) -> None:
    """End without cleanup, with an event in hand and other threads blocked."""
    queue = SyncQueue(config)
    payload = queue.dequeue(timeout=10)
    for _ in range(3):
        threading.Thread(target=lambda: queue.receive(timeout=math.inf), daemon=True).start()
    say("holds", payload["n"])
    sys.stdin.readline()


PARTS = {
    "work": work,
    "fork": fork,
    "fork in a hand-over": fork_in_a_hand_over,
    "interrupted": interrupted,
    "leave": leave,
}
given = arguments()
PARTS[given.pop("part")](**given)
