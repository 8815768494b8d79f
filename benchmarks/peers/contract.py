"""What a peer's module has to offer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Event = dict[str, Any]
Handler = Callable[[Event], Awaitable[None]]


class Producer(Protocol):
    """Puts events into the queue; it is connected when its context has been entered."""

    async def enqueue(self, event: Event) -> object:
        """Put one event into the queue; the server has it afterwards."""
        ...

    async def stage(self, events: Sequence[Event]) -> None:
        """Put many events into the queue, in the fastest way there is; the server has all of them afterwards."""
        ...


class Peer(Protocol):
    """A queue; modules are peers."""

    def produce(self, url: str) -> AbstractAsyncContextManager[Producer]:
        """Connect a producer for as long as the context lasts."""
        ...

    def work(self, url: str, handle: Handler, concurrency: int) -> AbstractAsyncContextManager[object]:
        """Run a worker for as long as the context lasts."""
        ...

    async def left(self, client: Any) -> int:
        """Return how many events the server holds that are not done, by the queue's own records."""
        ...


async def in_tasks(enqueue: Callable[[Event], Awaitable[object]], events: Sequence[Event], tasks: int = 100) -> None:
    """Enqueue from so many tasks at once, each event after event: what is left to do without a batch."""
    remaining = iter(events)

    async def one_after_the_other() -> None:
        for event in remaining:
            await enqueue(event)

    await asyncio.gather(*(one_after_the_other() for _ in range(tasks)))


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a worker that knows no other way to end, and wait until it has."""
    task.cancel()
    await asyncio.wait([task])


async def unacknowledged(client: Any, stream: str, group: str) -> int:
    """Count what a group has not got or not acknowledged yet, where acknowledged entries stay in the stream."""
    found = await _group(client, stream, group)
    return int(await client.xlen(stream)) if found is None else int(found["pending"]) + int(found["lag"])


async def undeleted(client: Any, stream: str, group: str) -> int:
    """Count what is in a stream or pending, where acknowledged entries are deleted."""
    found = await _group(client, stream, group)
    return max(int(await client.xlen(stream)), 0 if found is None else int(found["pending"]))


async def _group(client: Any, stream: str, group: str) -> Any:
    groups = await client.xinfo_groups(stream) if await client.exists(stream) else []
    return next((each for each in groups if each["name"] in (group, group.encode())), None)
