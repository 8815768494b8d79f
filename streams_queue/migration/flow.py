"""The migration from beginning to end: the processing list first, then the list, then what still comes.

See docs/decisions/0100-moving-in-chunks.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import random
import secrets
import time

from streams_queue.config import Settings
from streams_queue.errors import StateError, UsageError
from streams_queue.keys import QueueKeys
from streams_queue.migration.asked import Asked, ProcessingMode
from streams_queue.migration.audience import Audience, Report
from streams_queue.migration.commands import CHUNK_ITEMS, RecordLostError, SourceCommands, Step
from streams_queue.migration.exporting import Export
from streams_queue.migration.judging import Judge
from streams_queue.migration.moving import BetweenServers, Mover, WithinServer
from streams_queue.migration.persisting import (
    Persistent,
    Way,
    WayToLists,
    WayToQueue,
    endpoint_of_lists,
    sleep_unless,
)
from streams_queue.migration.record import Part, Record
from streams_queue.observer import Observers
from streams_queue.redis_client import Link, endpoint_from_url
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.commands import StreamCommands
from streams_queue.redis_queue.durability import level_of

logger = logging.getLogger(__name__)

# Larger than any number of events, and still a whole number in Lua.
_NO_LIMIT = 2**53 - 1
_POLL_FULL = (0.01, 0.1)
_LONGEST_WAIT = 2.0
# How long a migration that ends by itself waits for a server that was there before.
_PATIENCE = 60.0
# Seconds that one round trip may take: an item may have many megabytes, and the line between two servers be slow.
_ROUND_TRIP = 10.0


class Migration:
    """Moves the lists of GitBridge's plan into a queue.

    What is done is written down on the server that has the lists, in the same steps in which it is done: whenever the
    process dies, another one goes on where it was.

    Args:
        settings: Of the queue.
        asked: What to do.
        from_url: Of the server that has the lists; None: the queue's own.
        audience: Is told how it goes.

    Attributes:
        stop: To be set when it is to end after the chunk in hand.

    Raises:
        ConfigError: A URL cannot be used.
        UsageError: Two of the keys are the same, or one is the queue's.
    """

    def __init__(
        self, settings: Settings, asked: Asked, *, from_url: str | None = None, audience: Audience | None = None
    ) -> None:
        asked.check()
        asked.check_beside(QueueKeys(settings.namespace, settings.name).stream)
        self.stop = asyncio.Event()
        self._settings = settings
        self._asked = asked
        self._audience = audience or Audience()
        self._record_lost = False
        self._follows = False
        self._active_at = time.monotonic()
        self._connect(from_url)

    def _connect(self, from_url: str | None) -> None:
        settings = self._settings
        timeout = max(_ROUND_TRIP, settings.enqueue_timeout)
        endpoint = endpoint_from_url(settings.redis_url or "", connect_timeout=settings.enqueue_timeout)
        # What has no room waits in the list, whatever the queue does with other events.
        commands = StreamCommands(dataclasses.replace(settings, overflow="reject"), "migration", timeout=timeout)
        self._channel = Channel(endpoint, commands, Observers(), backoff_cap=0.25)
        to_queue = WayToQueue(self._channel)
        self._ways: list[Way] = [to_queue]
        self._queue_server = Persistent(to_queue, self.stop, patience=settings.enqueue_timeout)
        if from_url is None:
            self._waiting_link, link, self._source_server = Link(endpoint), self._channel.producer, self._queue_server
        else:
            elsewhere = endpoint_of_lists(from_url, connect_timeout=settings.enqueue_timeout)
            to_lists = WayToLists(elsewhere)
            self._ways.append(to_lists)
            self._waiting_link, link = Link(elsewhere), to_lists.link
            self._source_server = Persistent(to_lists, self.stop, patience=settings.enqueue_timeout)
        self._source = SourceCommands(link, self._asked, timeout=timeout)
        self._mover = self._within_server() if from_url is None else self._between_servers()

    def _within_server(self) -> Mover:
        return WithinServer(
            source=self._source,
            server=self._source_server,
            judge=Judge(self._settings),
            channel=self._channel,
            max_size=self._max_size,
            on_unfit=self._audience.unfit,
        )

    def _between_servers(self) -> Mover:
        return BetweenServers(
            source=self._source,
            source_server=self._source_server,
            queue_server=self._queue_server,
            judge=Judge(self._settings),
            channel=self._channel,
            level=level_of(self._settings),
            max_size=self._max_size,
            on_unfit=self._audience.unfit,
        )

    @property
    def _max_size(self) -> int:
        if self._asked.beyond_max_size:
            return _NO_LIMIT
        return max(0, self._settings.max_size - self._asked.leave_room)

    async def run(self) -> Report:
        """Migrate; return the report.

        Redis: 2 round trips for each 100 items or 128 KiB, 3 between two servers.
        Cancelled: Whatever was moved is moved; run it again to go on.

        Raises:
            BackendError: A server cannot be reached, or refuses; run it again to go on.
            StateError: The keys are not ours, or belong to another migration.
            UsageError: It was begun with another --processing or other lists, or the file to export to is there.
        """
        try:
            await self._queue_server.do(self._channel.open)
            record = await self._begin()
            patience = math.inf if self._asked.follow else _PATIENCE
            self._queue_server.patience = self._source_server.patience = patience
            finished = await self._all(record)
            return await self._report(finished=finished)
        finally:
            await self._waiting_link.close()
            for way in self._ways:
                await way.close()

    async def _begin(self) -> Record:
        file = self._asked.processing.file
        if file is not None and file.exists() and not await self._source_server.do(self._source.has_begun):
            raise UsageError(f"{file} is there already; name another file to export to")
        record = await self._look(secrets.token_hex(8))
        if record.queue != self._channel.commands.keys.stream:
            raise StateError(
                f"a migration of {self._asked.source} to the queue {record.queue} has begun and is not finished; "
                f"finish it, or delete the key {self._asked.record_key}"
            )
        if record.asked != str(self._asked.processing):
            raise UsageError(
                f"A migration of {self._asked.source} has begun with --processing={record.asked} and is not finished; "
                "go on with that"
            )
        self._check_lists(record)
        self._audience.began(record.waiting, record.processing)
        return record

    def _check_lists(self, record: Record) -> None:
        asked = (self._asked.processing_list, self._asked.set_aside_key, self._asked.processing_set_aside_key)
        if record.lists != asked:
            processing_list, set_aside, processing_set_aside = record.lists
            raise UsageError(
                f"A migration of {self._asked.source} has begun with --processing-list={processing_list} "
                f"--set-aside={set_aside} --processing-set-aside={processing_set_aside} and is not finished; "
                "go on with those"
            )

    async def _look(self, migration_id: str = "") -> Record:
        queue = self._channel.commands.keys.stream
        return await self._source_server.do(lambda: self._source.begin(migration_id, queue))

    async def _all(self, record: Record) -> bool:
        """Do everything that was asked for; whether it is done."""
        while True:
            try:
                return (
                    await self._drain("waiting", at_most=0)
                    and await self._migrate_processing(record)
                    and await self._migrate_waiting()
                )
            except RecordLostError:
                self._record_lost = True
                # What went wrong is said; a traceback has nothing to add.
                logger.error(  # noqa: TRY400
                    "The record of the migration of %s is gone: another migration of it has ended, or the server has "
                    "lost it, and perhaps events in the list; beginning anew",
                    self._asked.source,
                    extra={"list": self._asked.source},
                )
                record = await self._begin()

    # --- the processing list ---

    async def _migrate_processing(self, record: Record) -> bool:
        await self._export(record)
        left = record.aside_left
        while left and not self.stop.is_set():
            step = await self._source_server.do(self._source.set_aside)
            self._audience.advanced(0, step.aside)
            left = step.planned_left
        return not left and await self._drain("processing", planned=record.requeue_left)

    async def _export(self, record: Record) -> None:
        processing = self._asked.processing
        if processing.mode is not ProcessingMode.EXPORT or processing.file is None:
            return
        export = Export(processing.file, record.id)
        if not record.exported:
            await export.write(self._read_processing, record.aside_left)
            await self._source_server.do(self._source.note_exported)
        export.tidy_up()

    async def _read_processing(self, skip: int) -> list[bytes]:
        return await self._source_server.do(lambda: self._source.look("processing", skip=skip))

    # --- the list ---

    async def _migrate_waiting(self) -> bool:
        while await self._drain("waiting"):
            left = self._active_at + self._asked.until_idle - time.monotonic()
            if not self._asked.follow or left <= 0:
                return True
            if not self._follows:
                self._follows = True
                self._audience.follows()
            await self._wait_for_item(min(left, _LONGEST_WAIT))
        # Whoever stops a migration that follows has seen the list empty before.
        return self._follows and self.stop.is_set()

    async def _drain(self, part: Part, *, at_most: int = CHUNK_ITEMS, planned: int | None = None) -> bool:
        """Move items until there are none, or as many as were planned; False if it was stopped or gave up before.

        Args:
            part: Of the record: which list.
            at_most: So many in one chunk; 0 moves only what is on the way.
            planned: How many altogether; None moves all.
        """
        waits = _Room(self._asked.wait_for_room, self._audience)
        while not self.stop.is_set():
            step = None if planned == 0 else await self._mover.step(part, _smaller(at_most, planned))
            if step is None:
                return True
            self._audience.advanced(step.moved, step.aside)
            planned = None if planned is None else step.planned_left
            if step.moved or step.aside:
                self._active_at = time.monotonic()
            if not waits.goes_on(step):
                return False
            if waits.are_on:
                await sleep_unless(self.stop, random.uniform(*_POLL_FULL))
        return False

    async def _wait_for_item(self, seconds: float) -> None:
        """Wait until the list has an item, so long, or until this is to stop."""
        wait = self._source_server.do(lambda: self._source.wait(self._waiting_link, seconds))
        waiting, stopping = asyncio.ensure_future(wait), asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            for task in (waiting, stopping):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _report(self, *, finished: bool) -> Report:
        record = await self._look()
        finished = finished and not record.on_the_way
        if finished:
            # In this order: with the record, the producer id would be forgotten.
            await self._mover.forget(record.producer)
            await self._source_server.do(self._source.forget)
        return Report(
            waiting=record.waiting,
            processing=record.processing,
            unfit=record.unfit,
            finished=finished,
            record_lost=self._record_lost or not record.id,
        )


class _Room:
    """Whether a queue that takes nothing is still to be waited for."""

    def __init__(self, patience: float, audience: Audience) -> None:
        self._patience = patience
        self._audience = audience
        self._since = math.inf
        self.are_on = False

    def goes_on(self, step: Step) -> bool:
        """Note what a step did; False if the patience is at its end."""
        is_stuck = step.status in ("full", "paused")
        if step.moved or not is_stuck:
            self._since = math.inf
        if is_stuck and self._since == math.inf:
            self._since = time.monotonic()
        if is_stuck and not self.are_on:
            self._audience.waits(step.status)
        self.are_on = is_stuck
        return not is_stuck or time.monotonic() - self._since < self._patience


def _smaller(at_most: int, planned: int | None) -> int:
    return at_most if planned is None else min(at_most, planned)
