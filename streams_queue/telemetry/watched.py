"""Queue classes that are measured and traced: subclasses, so that without telemetry nothing of this is in the way."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from streams_queue.messages import Delivery, Receipt
from streams_queue.queue import Queue
from streams_queue.telemetry.observer import Telemetry

if TYPE_CHECKING:
    # Any of the queue classes; a type checker needs one of them.
    from streams_queue.memory_queue import EventQueue as _AnyQueue
else:
    _AnyQueue = object

Q = TypeVar("Q", bound=Queue)


class _Watched(_AnyQueue):
    """Goes before a queue class: begins the telemetry with the first use of a verb and ends it with `cleanup`."""

    _telemetry: Telemetry
    # `super().enqueue`, without the search for it at every call.
    _enqueue_untraced: Callable[..., Coroutine[Any, Any, bool]]

    def _begin(self) -> None:
        if self._telemetry.loop is not asyncio.get_running_loop():
            self._telemetry.begin(self)

    def enqueue(
        self,
        payload: Any,
        *,
        event_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, bool]:
        """Put one event into the queue, in a span if it is traced; if not, without a coroutine more."""
        telemetry, asked = self._telemetry, None
        # Elsewhere, or with headers that have to be looked at, it shows only where the call runs.
        if not headers and telemetry.loop is not None and not telemetry.loop.is_closed():
            asked = telemetry.tracing is not None and telemetry.tracing.is_asked()
            if not asked:
                return self._enqueue_untraced(payload, event_id=event_id, delay=delay, headers=headers)
        return self._enqueue(payload, event_id, delay, headers, asked)

    async def _enqueue(
        self, payload: Any, event_id: str | None, delay: float, headers: Mapping[str, str] | None, asked: bool | None
    ) -> bool:
        if asked is None:
            self._begin()
        tracing = self._telemetry.tracing
        sending = None if tracing is None else tracing.sending(headers, (event_id,), 1, asked)
        if sending is None:
            return await super().enqueue(payload, event_id=event_id, delay=delay, headers=headers)
        with sending:
            held = await super().enqueue(payload, event_id=event_id, delay=delay, headers=sending.headers)
            sending.ended(int(held))
            return held

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        event_ids: Sequence[str | None] | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Put several events into the queue, in one span if they are traced."""
        self._begin()
        given = list(payloads)
        tracing = self._telemetry.tracing
        sending = None if tracing is None else tracing.sending(headers, event_ids, len(given))
        if sending is None:
            return await super().enqueue_many(given, event_ids=event_ids, delay=delay, headers=headers)
        with sending:
            receipts = await super().enqueue_many(given, event_ids=event_ids, delay=delay, headers=sending.headers)
            sending.ended(sum(receipt.held for receipt in receipts))
            return receipts

    def dequeue(self, timeout: float | None = None) -> Awaitable[Any | None]:
        """Take the next event; what its caller does with it is not seen here, so there is no span."""
        self._begin()
        return self._counted(super().dequeue(timeout))

    async def _counted(self, dequeued: Awaitable[Any | None]) -> Any | None:
        payload = await dequeued
        if payload is not None:
            self._telemetry.consumed(1)
        return payload

    async def receive(
        self, max_events: int = 1, timeout: float | None = None, *, max_bytes: float = math.inf
    ) -> list[Delivery]:
        """Take up to `max_events` deliveries, in a span that is linked to those that are traced."""
        self._begin()
        began_ns = time.time_ns()
        deliveries = await super().receive(max_events, timeout, max_bytes=max_bytes)
        self._telemetry.received(deliveries, began_ns)
        return deliveries

    async def cleanup(self) -> None:
        """Clean the queue up, and send what telemetry is left."""
        await self._telemetry.hand_over()
        await super().cleanup()
        await self._telemetry.end()


@cache
def _watched(queue_class: type[Any]) -> type[Any]:
    return type(
        queue_class.__name__,
        (_Watched, queue_class),
        {
            "__doc__": queue_class.__doc__,
            "__module__": queue_class.__module__,
            "_enqueue_untraced": queue_class.enqueue,
        },
    )


def watched(queue_class: type[Q], telemetry: Telemetry, *args: Any, observers: Iterable[Any] = (), **options: Any) -> Q:
    """Make a queue of this class that tells `telemetry`, beside other observers; the arguments are the class's own."""
    queue = _watched(queue_class)(*args, observers=(*observers, telemetry), **options)
    queue._telemetry = telemetry
    return queue  # type: ignore[no-any-return]
