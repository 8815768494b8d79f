"""Traffic that goes on through a fault, as callers of the queue would make it; and what it saw."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from streams_queue import RedisEventQueue
from streams_queue.errors import BackendError
from streams_queue.worker import Worker
from tests.support.builders import event
from tests.support.waiting import wait_until

PACE = 0.005


class Traffic:
    """A producer that tries each event until it is accepted, a worker, and a loop that dequeues, a session each.

    Attributes:
        queues: The three queues, by name.
        accepted: Numbers of the events that `enqueue` has taken.
        runs: How often each event was handed out.
        refusals: What `enqueue` raised.
        answers: What the queues said last of their health.
    """

    def __init__(self, make: Callable[[], RedisEventQueue]) -> None:
        self.queues = {name: make() for name in ("producer", "worker", "taker")}
        self.accepted: list[int] = []
        self.runs: Counter[int] = Counter()
        self.refusals: list[BackendError] = []
        self.answers: list[dict[str, Any]] = []
        self._by: Counter[str] = Counter()
        self._producing = True

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Let it flow around the block; at its start every part has done some work."""
        worker = Worker(self.queues["worker"], self._handle, concurrency=2)
        tasks = [asyncio.create_task(each) for each in (self._produce(), worker.run(), self._dequeue())]
        try:
            await self.goes_on()
            yield
        finally:
            worker.stop()
            self._producing = False
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def goes_on(self, timeout: float = 10.0) -> None:
        """Wait until more events were accepted, and handed out to both the worker and the loop."""
        accepted, handed = len(self.accepted), dict(self._handed())
        await wait_until(
            lambda: len(self.accepted) > accepted and all(count > handed[name] for name, count in self._handed()),
            timeout,
            what=lambda: f"accepted {accepted} → {len(self.accepted)}, handed out {handed} → {dict(self._handed())}",
        )

    async def ends_with_each_event_run_once(self) -> None:
        """Produce no more; every accepted event is run, none is run twice, and none is left or dead."""
        await self.ends_with_each_event_run()
        twice = {number: count for number, count in self.runs.items() if count > 1}
        assert not twice

    async def ends_with_each_event_run(self) -> None:
        """Produce no more; every accepted event is run, and none is left or dead."""
        await self.ends_settled()
        assert self.runs.keys() >= set(self.accepted), set(self.accepted) - self.runs.keys()

    async def ends_settled(self) -> None:
        """Produce no more; what the server holds is run, and nothing is left or dead."""
        self._producing = False
        await wait_until(self._is_empty, what="not everything was settled")
        assert await self.queues["producer"].dead_letters() == []

    async def health(self) -> list[dict[str, Any]]:
        """Return what each queue says of itself."""
        self.answers = await asyncio.gather(*(queue.check_health() for queue in self.queues.values()))
        return self.answers

    def _handed(self) -> list[tuple[str, int]]:
        return [(name, self._by[name]) for name in ("worker", "taker")]

    async def _is_empty(self) -> bool:
        stats = await self.queues["producer"].stats()
        return stats.waiting + stats.in_flight + stats.delayed == 0

    async def _produce(self) -> None:
        number = 0
        while self._producing:
            try:
                if await self.queues["producer"].enqueue(event(number), event_id=str(number)):
                    self.accepted.append(number)
                    number += 1
            except BackendError as error:
                self.refusals.append(error)
            await asyncio.sleep(PACE)

    async def _handle(self, payload: dict[str, Any]) -> None:
        self._seen("worker", payload)
        await asyncio.sleep(PACE)

    async def _dequeue(self) -> None:
        while True:
            payload = await self.queues["taker"].dequeue()
            if payload is not None:
                self._seen("taker", payload)
            await asyncio.sleep(PACE)

    def _seen(self, by: str, payload: dict[str, Any]) -> None:
        self._by[by] += 1
        self.runs[payload["n"]] += 1
