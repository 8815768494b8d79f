"""A queue's events on its server, for somebody who takes them all out or puts them all back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, TypeVar

from streams_queue.config import Settings
from streams_queue.draining.events import Event, State, dead, delayed, taken
from streams_queue.errors import BackendError
from streams_queue.observer import Observers
from streams_queue.redis_client import Argument, Command, script
from streams_queue.redis_queue.channel import Channel, backoff_cap, endpoint_of
from streams_queue.redis_queue.commands import Figures, StreamCommands
from streams_queue.redis_queue.maintenance import prune_after, sweep_interval
from streams_queue.redis_queue.reader import LEAVE_TO_NEWER

PAGE_EVENTS: Final = 500
PAGE_BYTES: Final = 4 * 1024 * 1024

Settled = Literal["done", "changed", "forgotten"]
T = TypeVar("T")

_KINDS = {State.WAITING: "w", State.DELAYED: "d", State.DEAD: "x"}


class Stock:
    """The events of one queue, page by page, over one connection.

    Waiting events are taken as a consumer of the group takes them, so that no worker has them too; if this process
    dies, they are handed out again when their lease is over. Every request may be repeated, and is, for
    `enqueue_timeout` seconds.

    Args:
        settings: Of the queue.
        consumer: The name under which events are taken. Under the same name a second run goes on with what the first
            one had taken and not settled, at once.
    """

    def __init__(self, settings: Settings, consumer: str) -> None:
        self.settings = settings
        self._commands = StreamCommands(settings, consumer, timeout=settings.enqueue_timeout)
        self.keys = self._commands.keys
        endpoint = endpoint_of(settings)
        self.address = endpoint.address
        self._channel = Channel(endpoint, self._commands, Observers(), backoff_cap=backoff_cap(settings.lease))

    # --- looking ---

    async def look(self) -> Figures:
        """Return the queue's figures and change nothing, not even where there is no queue yet. Redis: 1 round trip."""
        return await self._commands.figures(self._channel.requests)

    async def figures(self) -> Figures:
        """Return the queue's figures. Redis: 1 round trip."""
        return await self._retry(lambda: self._commands.figures(self._channel.requests))

    async def delayed(self, skip: int = 0) -> list[Event]:
        """Return delayed events in the order in which they are due, without the first `skip`. Redis: 1 round trip."""
        found = await self._page("delayed", skip)
        return [delayed(member, float(due)) for member, due in found]

    async def dead(self, after: str = "") -> list[Event]:
        """Return dead letters, oldest first, behind the one with the id `after`. Redis: 1 round trip."""
        found = await self._page("dead", after)
        return [dead(dead_id.decode(), fields) for dead_id, fields in found]

    async def _page(self, what: str, begin: Argument) -> Any:
        keys = (self.keys.delayed, self.keys.dead)
        return await self._run("drain_page", keys, (what, begin, PAGE_EVENTS, PAGE_BYTES))

    # --- taking out ---

    async def take(self) -> list[Event]:
        """Take the next waiting events, or those that this consumer holds already; [] if nothing waits.

        Redis: 1 round trip.
        Cancelled: What was taken, the next call returns; without one it is handed out after its lease.
        """
        args = (self.settings.group, self._commands.consumer, PAGE_EVENTS, PAGE_BYTES)
        entries, _ = await self._run("drain_take", (self.keys.stream, self.keys.stats), args)
        return [taken(entry_id.decode(), count, fields) for entry_id, count, fields in entries]

    async def settle(
        self, drain: str, before: int, page: Sequence[Event], *, to: str | None = None, payloads: Sequence[bytes] = ()
    ) -> Settled:
        """Take the events of a page out for good, all or none.

        Args:
            drain: Names this drain on the server.
            before: How many events it had taken out before.
            page: Of them, waiting ones taken by this consumer.
            to: The list onto which their payloads go, in the same step.
            payloads: For the list, one per event; empty ones are as they are stored.

        Redis: 1 round trip. Cancelled: The page is out, or it is not.
        """
        keys = (*self._own_keys(), self.keys.drains, *(() if to is None else (to,)))
        args: list[Argument] = [self.settings.group, self._commands.consumer, drain, before, before + len(page)]
        for index, event in enumerate(page):
            named = event.member if event.state is State.DELAYED else event.entry_id
            args += (_KINDS[event.state], named, event.count, payloads[index] if payloads else b"")
        answer: Settled = (await self._run("drain_settle", keys, args)).decode()
        return answer

    async def bury(self, event: Event, reason: str, error: str) -> None:
        """Move a waiting event that was taken to the dead letters, as a worker would that cannot read it."""
        await self._retry(
            lambda: self._commands.dead_letter(
                self._channel.requests, event.entry_id, event.count, reason=reason, error=error
            )
        )

    async def leave_to_others(self, event: Event) -> None:
        """Put a waiting event that was taken back for a while, uncounted."""
        await self._retry(
            lambda: self._commands.nack(
                self._channel.requests, event.entry_id, event.count, delay=LEAVE_TO_NEWER, counted=False
            )
        )

    async def reclaim(self) -> None:
        """Do a round of the fleet's housekeeping; what it claims from the dead, the next `take` returns."""
        lease = self.settings.lease
        await self._retry(
            lambda: self._commands.maintain(
                self._channel.requests,
                slots=PAGE_EVENTS,
                empty=True,
                go_on=False,
                interval=sweep_interval(lease),
                prune_after=prune_after(lease),
                look_anyway=False,
                disowned=(),
            )
        )

    async def end_delays(self) -> None:
        """Let delayed events that no handler has had be due now, in their order; retries keep their delays.

        Redis: 2 round trips per page. Harmless when repeated.
        """
        figures = await self.figures()
        now_ms, skip, ended = figures.now_ms, 0, 0
        while skip < figures.delayed and (page := await self.delayed(skip)):
            early = [event for event in page if event.due_ms > now_ms and not event.handed_out]
            if early:
                pairs = ((ended + place, event.member) for place, event in enumerate(early))
                await self._ask("ZADD", self.keys.delayed, "XX", *(part for pair in pairs for part in pair))
            skip, ended = skip + len(page), ended + len(early)

    # --- what drains know of themselves ---

    async def taken_out(self, drain: str) -> int | None:
        """Return how many events the server knows that a drain has taken out; None if it knows no such drain."""
        found = await self._ask("HGET", self.keys.drains, drain)
        return int(found) if found is not None and found.isdigit() else None

    async def note_taken_out(self, drain: str, count: int) -> None:
        """Let a drain begin, or go on, at so many events."""
        await self._run("drain_begin", (self.keys.drains,), (drain, count))

    async def forget(self, drain: str) -> None:
        """The drain has ended."""
        await self._ask("HDEL", self.keys.drains, drain)

    # --- putting back ---

    async def imported(self, export: str) -> str:
        """Return which events of an exported file are in; empty if none."""
        found = await self._ask("HGET", self.keys.imports, export)
        return found.decode("utf-8", "replace") if found is not None else ""

    async def put_back(
        self, export: str, before: str, after: str, events: Sequence[tuple[Event, bytes]]
    ) -> tuple[str, int, str]:
        """Put events of an exported file in, all or none; each comes with its fields as a member of the delayed set.

        Redis: 1 round trip. Cancelled: They are in, or they are not; `imported` tells.

        Returns:
            The status, the room and which events are in: see lua/import.lua.
        """
        args: list[Argument] = [
            *(self.settings.group, self.settings.max_size, self.settings.dead_letter.max_size),
            *(export, before, after),
        ]
        for event, member in events:
            args += (_KINDS[event.state], _due(event) if event.state is State.DELAYED else event.entry_id, member)
        status, room, known = await self._run("import", (*self._own_keys(), self.keys.imports), args)
        return status.decode(), room, known.decode("utf-8", "replace")

    # --- pausing and leaving ---

    async def pause(self, already: str, *, intake: bool, delivery: bool) -> str:
        """Pause the intake, the handing out or both, beside what is paused already; return what is paused then."""
        wanted = {"intake": intake or "intake" in already, "delivery": delivery or "delivery" in already}
        paused = ",".join(name for name, is_wanted in wanted.items() if is_wanted)
        await self._ask(*self._commands.set_paused(paused))
        return paused

    async def leave(self) -> None:
        """Leave the group if nothing is pending for this consumer, and close the connection."""
        try:
            if self._channel.is_open and self._channel.requests.is_open:
                await self._commands.leave(self._channel.requests, secrets.token_hex(8))
        except BackendError:
            pass  # The consumer is removed by the fleet's housekeeping; nothing is lost with this.
        finally:
            await self._channel.close()

    def _own_keys(self) -> tuple[str, str, str, str]:
        return (self.keys.stream, self.keys.delayed, self.keys.dead, self.keys.stats)

    async def _run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        timeout = self._commands.timeout
        return await self._retry(lambda: self._channel.requests.run(script(name), keys, args, timeout=timeout))

    async def _ask(self, *command: Any) -> Any:
        return await self._retry(lambda: self._call(command))

    async def _call(self, command: Command) -> Any:
        (reply,) = await self._channel.requests.call(command, timeout=self._commands.timeout)
        if isinstance(reply, BackendError):
            raise reply
        return reply

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        deadline = asyncio.get_running_loop().time() + self.settings.enqueue_timeout
        return await self._channel.retry(attempt, deadline=deadline)


def _due(event: Event) -> str:
    return str(int(event.due_ms)) if abs(event.due_ms) != float("inf") else str(event.due_ms)
