"""A dry run: what a migration would do, found out without changing anything."""

from __future__ import annotations

from collections import Counter

from streams_queue.config import Settings
from streams_queue.keys import QueueKeys
from streams_queue.migration.asked import ALL, Asked
from streams_queue.migration.audience import Audience, Report
from streams_queue.migration.commands import CHUNK_ITEMS, SourceCommands
from streams_queue.migration.judging import Judge
from streams_queue.migration.persisting import endpoint_of_lists
from streams_queue.migration.record import Part, Tally
from streams_queue.redis_client import Link, endpoint_from_url


async def preview(
    settings: Settings, asked: Asked, *, from_url: str | None = None, audience: Audience | None = None
) -> Report:
    """Return what a migration would report now. Changes nothing; what is pushed or taken meanwhile is not noticed.

    Redis: 1 round trip for each 100 items or 128 KiB.

    Raises:
        BackendError: The server cannot be reached, or refuses.
        ConfigError: A URL cannot be used.
        UsageError: Two of the keys are the same, or one is the queue's.
    """
    asked.check()
    asked.check_beside(QueueKeys(settings.namespace, settings.name).stream)
    timeout = settings.enqueue_timeout
    if from_url is None:
        endpoint = endpoint_from_url(settings.redis_url or "", connect_timeout=timeout)
    else:
        endpoint = endpoint_of_lists(from_url, connect_timeout=timeout)
    link = Link(endpoint)
    try:
        source = SourceCommands(link, asked, timeout=timeout)
        return await _Preview(source, Judge(settings), asked, audience or Audience()).report()
    finally:
        await link.close()


class _Preview:
    """One look at both lists."""

    def __init__(self, source: SourceCommands, judge: Judge, asked: Asked, audience: Audience) -> None:
        self._source = source
        self._judge = judge
        self._asked = asked
        self._audience = audience
        self._unfit: Counter[str] = Counter()

    async def report(self) -> Report:
        waiting, processing = await self._source.lengths()
        self._audience.began(Tally(found=waiting), Tally(found=processing))
        return Report(
            processing=await self._processing(processing),
            waiting=await self._judged("waiting", 0, waiting),
            unfit=dict(self._unfit),
            dry_run=True,
        )

    async def _processing(self, found: int) -> Tally:
        requeued = self._asked.processing.requeued
        requeued = found if requeued == ALL else min(requeued, found)
        if str(self._asked.processing) == "leave":
            return Tally(found=found, left=found)
        judged = await self._judged("processing", found - requeued, found)
        return Tally(found=found, moved=judged.moved, set_aside=found - judged.moved)

    async def _judged(self, part: Part, skip: int, found: int) -> Tally:
        """Judge the items of a list behind the first ones."""
        moved = aside = 0
        while skip < found and (
            items := await self._source.look(part, skip=skip, count=min(CHUNK_ITEMS, found - skip))
        ):
            unfit = [each for each in map(self._judge.unfit, items) if each is not None]
            for each in unfit:
                self._audience.unfit(each)
                self._unfit[each.reason] += 1
            moved, aside, skip = moved + len(items) - len(unfit), aside + len(unfit), skip + len(items)
            self._audience.advanced(len(items) - len(unfit), len(unfit))
        return Tally(found=found, others=moved + aside - found, moved=moved, set_aside=aside)
