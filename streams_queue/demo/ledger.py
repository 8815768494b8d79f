"""The count: what was accepted, what was finished, and what therefore is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from streams_queue.demo.journal import ACCEPTED, BEGUN, FINISHED, READY, Record


class Ledger:
    """Adds up journals, in any order of their records.

    Attributes:
        ready: How many processes have reported for duty.
        accepted: Events whose enqueue was acknowledged.
        begun: How often each event was begun.
        finished: How often each event was finished.
        redelivered: Events begun more than once, or handed out more than once by the queue's own count.
    """

    def __init__(self) -> None:
        self.ready = 0
        self.accepted: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.redelivered: set[str] = set()

    def add(self, records: Iterable[Record]) -> None:
        """Enter records."""
        for record in records:
            if record.verb == ACCEPTED:
                self.accepted.add(record.event_id)
            elif record.verb == BEGUN:
                self._begin(record)
            elif record.verb == FINISHED:
                self.finished[record.event_id] += 1
            elif record.verb == READY:
                self.ready += 1

    def _begin(self, record: Record) -> None:
        self.begun[record.event_id] += 1
        if record.deliveries > 1 or self.begun[record.event_id] > 1:
            self.redelivered.add(record.event_id)

    @property
    def held(self) -> set[str]:
        """Events begun more often than finished: where their process died, it held them."""
        return {event_id for event_id, times in self.begun.items() if times > self.finished[event_id]}

    @property
    def repeated(self) -> int:
        """How many events were finished more than once, as at-least-once allows."""
        return sum(times > 1 for times in self.finished.values())

    def lost(self, dead: AbstractSet[str]) -> set[str]:
        """Return the events that were accepted, never finished, and are not among the dead letters."""
        return self.accepted - self.finished.keys() - dead
