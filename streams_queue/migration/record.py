"""The record of a migration as it is on the server, and what it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["waiting", "processing"]


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of one list.

    Attributes:
        found: How many items it had at the beginning.
        others: How many items others have added to it since, less those that they took.
        moved: Into the queue.
        set_aside: Into the list for that.
        on_the_way: Taken for another server, whose answer is not known.
        left: In the list.
    """

    found: int = 0
    others: int = 0
    moved: int = 0
    set_aside: int = 0
    on_the_way: int = 0
    left: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether every item is accounted for."""
        return self.found + self.others == self.moved + self.set_aside + self.on_the_way + self.left


@dataclass(frozen=True, slots=True)
class Record:
    """How far a migration has got, over all its runs.

    Attributes:
        id: Of the migration.
        queue: The stream that it goes to.
        asked: What was asked for the processing list when it began.
        lists: The processing list, and where each of the two lists has what is set aside.
        producer: Under which another server knows the batches.
        waiting: What became of the list.
        processing: What became of the processing list.
        requeue_left: How many items of the processing list are still to be requeued.
        aside_left: How many are still to be set aside.
        exported: Whether the processing list has been written to its file.
        unfit: How many items were no events, by reason.
    """

    id: str
    queue: str
    asked: str
    lists: tuple[str, str, str]
    producer: str
    waiting: Tally
    processing: Tally
    requeue_left: int
    aside_left: int
    exported: bool
    unfit: Mapping[str, int] = field(default_factory=dict)

    @property
    def on_the_way(self) -> int:
        """How many items are on their way to another server."""
        return self.waiting.on_the_way + self.processing.on_the_way


def read_record(reply: Sequence[Any]) -> Record:
    """Return what lua/migrate_begin.lua tells."""
    flat, waiting, processing, staged = reply
    fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    on_the_way = {fields.get("staged", ""): staged}
    reasons = {name.removeprefix("unfit_"): int(count) for name, count in fields.items() if name.startswith("unfit_")}
    return Record(
        id=fields["id"],
        queue=fields["queue"],
        asked=fields["asked"],
        lists=(fields["processing_list"], fields["set_aside"], fields["processing_set_aside"]),
        producer=fields["producer"],
        waiting=_tally(fields, "waiting", waiting, on_the_way.get("waiting", 0)),
        processing=_tally(fields, "processing", processing, on_the_way.get("processing", 0)),
        requeue_left=int(fields["requeue_left"]),
        aside_left=int(fields["aside_left"]),
        exported="exported" in fields,
        unfit=dict(sorted(reasons.items())),
    )


def _tally(fields: Mapping[str, str], part: Part, length: int, on_the_way: int) -> Tally:
    def count(name: str) -> int:
        return int(fields.get(f"{part}_{name}", 0))

    return Tally(
        found=count("found"),
        # What happened since a script last looked at it was the doing of others.
        others=count("others") + length - count("length"),
        moved=count("moved"),
        set_aside=count("aside"),
        on_the_way=on_the_way,
        left=length,
    )
