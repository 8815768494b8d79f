"""Who is told how a migration goes, while it goes, and the report at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streams_queue.migration.judging import Unfit
from streams_queue.migration.record import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of all items, over all runs of one migration.

    Attributes:
        waiting: What became of the list.
        processing: What became of the processing list.
        unfit: How many items were no events, by reason; they are set aside.
        finished: Whether everything that was asked for is done; False if it was stopped, or gave up waiting for room.
        record_lost: Whether the record was gone on the way (the server lost it, or another migration of the list has
            ended): the figures begin after that.
        dry_run: Whether this is only what would be done.
    """

    waiting: Tally
    processing: Tally
    unfit: Mapping[str, int] = field(default_factory=dict)
    finished: bool = True
    record_lost: bool = False
    dry_run: bool = False

    @property
    def adds_up(self) -> bool:
        """Whether every item is accounted for."""
        return self.waiting.adds_up and self.processing.adds_up and not self.record_lost


class Audience:
    """Is told how a migration goes. This one does not listen."""

    def began(self, waiting: Tally, processing: Tally) -> None:
        """The migration begins, or goes on after an earlier run."""

    def advanced(self, moved: int, set_aside: int) -> None:
        """So many items have left the lists."""

    def unfit(self, unfit: Unfit) -> None:
        """An item was no event, and was set aside."""

    def waits(self, why: str) -> None:
        """The queue takes no more events for now: it is `full` or `paused`. Told once, until it takes some."""

    def follows(self) -> None:
        """Everything that was there is moved; from now on what comes is."""
