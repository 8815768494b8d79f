"""The spool directory as one process sees it: a file of its own, and the files of dead processes that it has adopted.

Everything here blocks and belongs into the spool's thread.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tenacity

from streams_queue.errors import SpoolError
from streams_queue.messages import Receipt, ReceiptStatus
from streams_queue.redis_queue.producer import Batch, NewEvent
from streams_queue.resilient_queue.spool_file import (
    SUFFIX,
    InUseError,
    NotOursError,
    SpooledBatch,
    SpoolFile,
    is_corrupt,
    set_aside,
)

logger = logging.getLogger(__name__)

_NAMES_TO_TRY = 3

# Two processes that look for the same file at the same moment may both be turned away.
_after_a_race = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(InUseError),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_random(0.001, 0.01),
    reraise=True,
)


@dataclass(slots=True)
class Holdings:
    """What the spool's thread tells everybody else, who may read it at any time.

    Attributes:
        max_size: The most events that may be held; set by the queue.
        held: How many events are held, those of adopted files included.
        problems: What does not work at the moment, by what was tried.
    """

    max_size: int
    held: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Events that are to be held together, and the batch that they are if Redis may have them already."""

    events: Sequence[NewEvent]
    batch: Batch | None = None


class SpoolDirectory:
    """The files that this process has locked, oldest first.

    Args:
        path: The directory; made if it is missing.
        queue: Whose events these are: only files of the same queue are adopted.
        holdings: Is kept up to date.
    """

    def __init__(self, path: Path, queue: str, holdings: Holdings) -> None:
        self.path = path
        self._prefix = f"{queue}+"
        self._holdings = holdings
        self._files: list[SpoolFile] = []
        self._own: SpoolFile | None = None
        self._reported: set[Path] = set()

    @property
    def held(self) -> int:
        """How many events are held."""
        return sum(file.held for file in self._files)

    # --- events come in ---

    def write(self, arrivals: Sequence[Arrival]) -> list[list[Receipt] | SpoolError]:
        """Put all of them on the disk in one transaction; if that fails, each in one of its own."""
        try:
            with self._told("write"):
                return list(self._write_together(arrivals))
        except SpoolError as error:
            if len(arrivals) == 1:
                return [error]
            return [outcome for arrival in arrivals for outcome in self.write([arrival])]

    def _write_together(self, arrivals: Sequence[Arrival]) -> list[list[Receipt]]:
        own = self._own_file()
        try:
            with own.transaction():
                receipts = [self._write_one(own, arrival) for arrival in arrivals]
        except sqlite3.DatabaseError as error:
            self._give_up_if_corrupt(own, error)
            raise
        self._count()
        return receipts

    def _write_one(self, own: SpoolFile, arrival: Arrival) -> list[Receipt]:
        if arrival.batch is None:
            return [self._write_event(own, event) for event in arrival.events]
        if self._room() < len(arrival.events):
            return [Receipt(ReceiptStatus.FULL, event.event_id) for event in arrival.events]
        own.add_batch(arrival.batch)
        return [Receipt(ReceiptStatus.ACCEPTED, event.event_id) for event in arrival.events]

    def _write_event(self, own: SpoolFile, event: NewEvent) -> Receipt:
        if event.deduplicated and any(file.knows(event.event_id) for file in self._files if file.held):
            return Receipt(ReceiptStatus.DUPLICATE, event.event_id)
        if self._room() < 1:
            return Receipt(ReceiptStatus.FULL, event.event_id)
        own.add(event)
        return Receipt(ReceiptStatus.ACCEPTED, event.event_id)

    def _room(self) -> int:
        return self._holdings.max_size - self.held

    def _own_file(self) -> SpoolFile:
        if self._own is not None and not self._own.is_there():
            logger.error(
                "%s was deleted; the %d events in it die with this process",
                self._own.path,
                self._own.held,
                extra={"path": str(self._own.path), "events": self._own.held},
            )
            self._own = None
        if self._own is None:
            self._own = self._create()
            self._files.append(self._own)
        return self._own

    def _create(self) -> SpoolFile:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        newest = max((file.created for file in self._files), default=0)
        for tries_left in reversed(range(_NAMES_TO_TRY)):
            path = self.path / f"{self._prefix}{secrets.token_hex(8)}{SUFFIX}"
            try:
                return SpoolFile.create(path, after=newest)
            except (sqlite3.Error, OSError):
                # Somebody may have adopted it before it was ours; then it is gone by now, or nothing but a name.
                path.unlink(missing_ok=True)
                if not tries_left:
                    raise
        raise AssertionError  # the loop ends with a return or an error

    # --- events go out ---

    def next_batch(self) -> SpooledBatch | None:
        """Return what is to be sent now, of the oldest file that holds anything; None if nothing is held."""
        with self._told("move"):
            for file in list(self._files):
                if (batch := self._next_of(file)) is not None:
                    return batch
        return None

    def _next_of(self, file: SpoolFile) -> SpooledBatch | None:
        try:
            return file.next_batch()
        except sqlite3.DatabaseError as error:
            if not self._give_up_if_corrupt(file, error):
                raise
            return None

    def settle(self, batch: SpooledBatch, gone: Sequence[int]) -> None:
        """The reply to a batch came: `gone` are the rows that the server has. An adopted file that is empty goes."""
        with self._told("move"):
            file = self._file_of(batch)
            file.settle(batch, gone)
            self._count()
            if not file.held and file is not self._own:
                self._files.remove(file)
                file.discard()

    def forget(self, batch: SpooledBatch) -> None:
        """Nobody can tell the fate of a batch any more; its events are in line again."""
        with self._told("move"):
            self._file_of(batch).forget(batch)

    def _file_of(self, batch: SpooledBatch) -> SpoolFile:
        return next(file for file in self._files if file.path == batch.path)

    def tidy(self) -> None:
        """Do what can wait until nobody does."""
        with self._told("tidy"):
            for file in self._files:
                file.tidy()

    # --- files of dead processes ---

    def look(self, *, first: bool = False) -> None:
        """Adopt what dead processes left, and make sure that there is a file of our own.

        Args:
            first: Try harder: what is there has to go before anything new.
        """
        with self._told("look"):
            for path in self._left_files():
                self._adopt(path, first=first)
            self._own_file()

    def _left_files(self) -> Iterator[Path]:
        if self.path.is_dir():
            mine = {file.path for file in self._files}
            yield from sorted(set(self.path.glob(f"{self._prefix}*{SUFFIX}")) - mine)

    def _adopt(self, path: Path, *, first: bool) -> None:
        try:
            file = _after_a_race(SpoolFile.adopt, path) if first else SpoolFile.adopt(path)
        except InUseError:
            return
        except NotOursError:
            self._report(path, "a newer release made it; it is left alone")
        except (sqlite3.Error, OSError) as error:
            self._not_adopted(path, error)
        else:
            if file is not None:
                self._take_in(file)

    def _take_in(self, file: SpoolFile) -> None:
        if file.held:
            logger.warning(
                "Adopted %s of a process that has ended: %d events",
                file.path,
                file.held,
                extra={"path": str(file.path), "events": file.held},
            )
            self._files = sorted([*self._files, file], key=lambda each: each.created)
            self._count()
        else:
            file.discard()

    def _not_adopted(self, path: Path, error: Exception) -> None:
        if not path.exists():
            return
        if isinstance(error, sqlite3.Error) and is_corrupt(error):
            _report_corrupt(path, error, set_aside(path))
        else:
            self._report(path, str(error))

    def _report(self, path: Path, problem: str) -> None:
        """Say it once; whether it has been mended is tried with every look."""
        if path not in self._reported:
            self._reported.add(path)
            logger.error(
                "%s was left by a process that has ended, and cannot be adopted: %s",
                path,
                problem,
                extra={"path": str(path), "error": problem},
            )

    def _give_up_if_corrupt(self, file: SpoolFile, error: sqlite3.Error) -> bool:
        """Set a file aside that turned out to be corrupt; False if it did not."""
        if not is_corrupt(error):
            return False
        self._files.remove(file)
        if file is self._own:
            self._own = None
        _report_corrupt(file.path, error, file.set_aside())
        self._count()
        return True

    # --- the end ---

    def close(self) -> None:
        """Let go of all files; those that hold nothing are deleted."""
        while self._files:
            file = self._files.pop()
            try:
                file.close() if file.held else file.discard()
            except (sqlite3.Error, OSError) as error:
                logger.warning(
                    "%s was not closed in order (%s)",
                    file.path,
                    error,
                    extra={"path": str(file.path), "error": str(error)},
                )

    def _count(self) -> None:
        self._holdings.held = self.held

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what goes wrong into one clear error, and keep it for the health check until the same thing works."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            problem = f"the spool {self.path} cannot be used: {_reason(error)}"
            if problem not in self._holdings.problems.values():
                logger.error("%s", problem, extra={"path": str(self.path), "error": problem})  # noqa: TRY400 - the trace goes on to whoever asked
            self._holdings.problems[what] = problem
            raise SpoolError(problem) from error
        self._holdings.problems.pop(what, None)


def _report_corrupt(path: Path, error: Exception, kept: Path) -> None:
    logger.error(
        "%s cannot be read (%s); it is kept as %s",
        path,
        error,
        kept.name,
        extra={"path": str(path), "error": str(error), "kept": str(kept)},
    )


def _reason(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)
