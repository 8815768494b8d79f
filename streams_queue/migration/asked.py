"""What somebody asks of a migration: which lists, what becomes of the processing list, and when it ends. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from streams_queue.errors import UsageError
from streams_queue.keys import PLAN_LIST, PLAN_PROCESSING_LIST

ALL = -1

_NEWEST = re.compile(r"newest:([0-9]{1,9})")


class ProcessingMode(StrEnum):
    """What becomes of the processing list, which cannot tell what is stranded from what is done."""

    ASIDE = "aside"
    REQUEUE = "requeue"
    NEWEST = "newest"
    EXPORT = "export"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Processing:
    """What is asked for the processing list.

    Attributes:
        mode: Set it all aside, requeue it all, requeue its newest items, export it and set it aside, or leave it alone.
        requeued: How many of its newest items are requeued; ALL is all of them.
        file: Where to export it.
    """

    mode: ProcessingMode = ProcessingMode.ASIDE
    requeued: int = 0
    file: Path | None = None

    def __str__(self) -> str:
        match self.mode:
            case ProcessingMode.NEWEST:
                return f"newest:{self.requeued}"
            case ProcessingMode.EXPORT:
                return f"export:{self.file}"
        return str(self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A migration as it was asked for.

    Attributes:
        source: The list that holds what waits, the oldest at its right end.
        processing_list: The list to which the old consumers move what they take.
        set_aside: Where what is no event goes; None: beside the list, under `<list>:set-aside`.
        processing_set_aside: The same for the processing list.
        processing: What becomes of the processing list.
        follow: Whether to go on when the list is empty, until told to stop.
        until_idle: Seconds without a new item after which a migration that follows ends.
        beyond_max_size: Whether the queue may get more than its `max_size`.
        leave_room: So many places of `max_size` are left to others.
        wait_for_room: Seconds to wait for a full queue to have room, before giving up.
    """

    source: str = PLAN_LIST
    processing_list: str = PLAN_PROCESSING_LIST
    set_aside: str | None = None
    processing_set_aside: str | None = None
    processing: Processing = Processing()
    follow: bool = False
    until_idle: float = math.inf
    beyond_max_size: bool = False
    leave_room: int = 0
    wait_for_room: float = math.inf

    @property
    def set_aside_key(self) -> str:
        """Where what is no event goes."""
        return self.set_aside or f"{self.source}:set-aside"

    @property
    def processing_set_aside_key(self) -> str:
        """Where what is set aside of the processing list goes."""
        return self.processing_set_aside or f"{self.processing_list}:set-aside"

    @property
    def record_key(self) -> str:
        """Hash: how far the migration has got."""
        return f"{self.source}:migration"

    @property
    def staging_key(self) -> str:
        """List: what is on its way to another server."""
        return f"{self.source}:on-the-way"

    def check(self) -> None:
        """Raise UsageError if two of the keys are the same."""
        named = (self.source, self.processing_list, self.set_aside_key, self.processing_set_aside_key)
        keys = (*named, self.record_key, self.staging_key)
        for key in named:
            if not key:
                raise UsageError("The name of a list must not be empty")
            # Both lists may have what is set aside in one place.
            both = key == self.set_aside_key == self.processing_set_aside_key
            if keys.count(key) > (2 if both else 1):
                raise UsageError(f"The key {key} cannot be two things at once in a migration")

    def check_beside(self, stream: str) -> None:
        """Raise UsageError if one of the keys is among those of the queue with this stream, or like one of them."""
        for key in (self.source, self.processing_list, self.set_aside_key, self.processing_set_aside_key):
            if key == stream or key.startswith(f"{stream}:"):
                raise UsageError(f"{key} is a key of the queue itself; name another one for the list")


def parse_processing(text: str, processing_list: str) -> Processing:
    """Read `aside`, `requeue`, `newest:N`, `export[:FILE]` or `leave`. Raises UsageError for anything else.

    Args:
        text: As it was given.
        processing_list: After which a file is named that has no name.
    """
    mode, colon, rest = text.partition(":")
    if found := _NEWEST.fullmatch(text):
        return Processing(ProcessingMode.NEWEST, int(found[1]))
    if mode == ProcessingMode.EXPORT and (rest or not colon):
        file = rest or re.sub(r"[^A-Za-z0-9._-]", "-", processing_list) + ".jsonl"
        return Processing(ProcessingMode.EXPORT, file=Path(file))
    if text in (ProcessingMode.ASIDE, ProcessingMode.REQUEUE, ProcessingMode.LEAVE):
        return Processing(ProcessingMode(text), ALL if text == ProcessingMode.REQUEUE else 0)
    raise UsageError(f"--processing takes aside, requeue, newest:N, export[:FILE] or leave, not {text!r}")
