"""One file of the spool: an SQLite database that one process at a time has locked, and what is done in it.

Everything here blocks and belongs into the spool's thread. Why SQLite, and how its lock is used:
docs/decisions/0031-spool.md.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams_queue.redis_queue.producer import MAX_BATCH_EVENTS, Batch, NewEvent

SUFFIX = ".spool"

# Marks the database as ours for file(1), and says by which release's rules it is laid out.
_APPLICATION_ID = 0x53515350
_LAYOUT = 1
# Between two commits, when nobody waits, the log is copied into the database from this size on; far beyond it at once.
_QUIET_CHECKPOINT_BYTES = 4 * 1024 * 1024
_FORCED_CHECKPOINT_PAGES = 16_384
_PAGE_BYTES = 4096
# Smaller than what Redis would take: events that come in while everything moves back wait for each batch.
_BATCH_BYTES = 1024 * 1024

_TABLES = f"""
PRAGMA application_id = {_APPLICATION_ID};
BEGIN EXCLUSIVE;
CREATE TABLE about (producer_id TEXT NOT NULL, sequence INTEGER NOT NULL, created INTEGER NOT NULL);
CREATE TABLE events (
  n INTEGER PRIMARY KEY,
  event_id TEXT NOT NULL,
  deduplicated INTEGER NOT NULL,
  due REAL,
  meta BLOB NOT NULL,
  payload BLOB NOT NULL
);
CREATE INDEX ids ON events (event_id) WHERE deduplicated;
CREATE TABLE batches (
  batch INTEGER PRIMARY KEY,
  producer_id TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL
);
PRAGMA user_version = {_LAYOUT};
"""


class InUseError(Exception):
    """Another process, or another queue of this one, has the file."""


class NotOursError(Exception):
    """The file was laid out by a newer release; it is left to that."""


@dataclass(frozen=True, slots=True)
class SpooledBatch:
    """A batch that is recorded in a file: whoever has the file sends it under this id and sequence, until a reply came.

    Attributes:
        path: The file in which it lies.
        number: Names the record.
        rows: The rows of its events, in the order of the events.
    """

    path: Path
    number: int
    producer_id: str
    sequence: int
    rows: Sequence[int]
    events: list[NewEvent]


class SpoolFile:
    """A locked file. The lock ends with the process, however it ends, or with `close` or `discard`.

    Attributes:
        path: Where it is.
        held: How many events it holds.
        created: Puts the files of processes that followed each other into their order.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._db = database
        (self.created,) = database.execute("SELECT created FROM about").fetchone()
        (self.held,) = database.execute("SELECT count(*) FROM events").fetchone()
        # What a former process left in the log counts as well.
        self._logged_bytes = _QUIET_CHECKPOINT_BYTES

    @classmethod
    def create(cls, path: Path, *, after: int) -> SpoolFile:
        """Create a file, newer than `after`, that only this user can read. Raises sqlite3.Error or OSError."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        database = _connect(path)
        try:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise sqlite3.OperationalError(f"no write-ahead log is possible here (journal mode {mode})")
            database.executescript(_TABLES)
            created = max(time.time_ns(), after + 1)
            database.execute("INSERT INTO about VALUES (?, 0, ?)", (secrets.token_hex(8), created))
            database.execute("COMMIT")
            _check_name(path)
            return cls(path, database)
        except BaseException:
            database.close()
            raise

    @classmethod
    def adopt(cls, path: Path) -> SpoolFile | None:
        """Lock a file that somebody left; None if it was never begun, and is gone now.

        Raises:
            InUseError: Its process lives, or another one has adopted it.
            NotOursError: A newer release made it.
            sqlite3.Error: It cannot be read.
        """
        with _found_in_use():
            database = _connect(path)
        try:
            with _found_in_use():
                layout = _lock(database)
            _check_name(path)
            if layout > _LAYOUT:
                raise NotOursError
            if layout == 0:
                _remove(path, database)
                return None
            return cls(path, database)
        except BaseException:
            database.close()
            raise

    # --- events come in ---

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing; it is on the disk when this ends without an error."""
        held = self.held
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self.held = held
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def knows(self, event_id: str) -> bool:
        """Tell whether an event with this caller's id is here."""
        known = self._db.execute("SELECT 1 FROM events WHERE event_id = ? AND deduplicated LIMIT 1", (event_id,))
        return known.fetchone() is not None

    def add(self, event: NewEvent) -> None:
        """Put an event behind all others; inside a transaction."""
        due = time.time() + event.delay if event.delay else None
        row = (event.event_id, event.deduplicated, due, event.meta, event.payload)
        self._db.execute("INSERT INTO events (event_id, deduplicated, due, meta, payload) VALUES (?, ?, ?, ?, ?)", row)
        self.held += 1
        self._logged_bytes += len(event.payload) + _PAGE_BYTES

    def add_batch(self, batch: Batch) -> None:
        """Put a batch of unknown fate here as it is, to be sent under its own id and sequence; inside a transaction."""
        (before,) = self._db.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()
        for event in batch.events:
            self.add(event)
        (last,) = self._db.execute("SELECT max(n) FROM events").fetchone()
        self._record(batch.producer_id, batch.sequence, before + 1, last)

    def _record(self, producer_id: str, sequence: int, first: int, last: int) -> None:
        columns = "(producer_id, sequence, first, last)"
        self._db.execute(f"INSERT INTO batches {columns} VALUES (?, ?, ?, ?)", (producer_id, sequence, first, last))  # noqa: S608

    # --- events go out ---

    def next_batch(self) -> SpooledBatch | None:
        """Return what is to be sent now: a batch that is recorded already, else the oldest events, recorded first."""
        if not self.held:
            return None
        found = self._recorded()
        if found is None:
            with self.transaction():
                self._record_next()
            found = self._recorded()
        return found

    def _recorded(self) -> SpooledBatch | None:
        record = self._db.execute("SELECT * FROM batches ORDER BY batch LIMIT 1").fetchone()
        if record is None:
            return None
        number, producer_id, sequence, first, last = record
        now, rows, events = time.time(), [], []
        for n, event_id, deduplicated, due, meta, payload in self._db.execute(
            "SELECT * FROM events WHERE n BETWEEN ? AND ? ORDER BY n", (first, last)
        ):
            rows.append(n)
            delay = 0.0 if due is None else max(0.0, due - now)
            events.append(NewEvent(event_id, payload, meta, delay, bool(deduplicated)))
        return SpooledBatch(self.path, number, producer_id, sequence, rows, events)

    def _record_next(self) -> None:
        """Record a batch of the oldest events. No other is recorded, so that none of them is in two."""
        sizes = self._db.execute("SELECT n, length(payload) FROM events ORDER BY n LIMIT ?", (MAX_BATCH_EVENTS,))
        rows = _fitting(sizes.fetchall())
        self._db.execute("UPDATE about SET sequence = sequence + 1")
        producer_id, sequence = self._db.execute("SELECT producer_id, sequence FROM about").fetchone()
        self._record(producer_id, sequence, rows[0], rows[-1])

    def settle(self, batch: SpooledBatch, gone: Sequence[int]) -> None:
        """The reply came: these rows are the server's now, the others stay where they are, to be sent anew."""
        with self.transaction():
            self._db.executemany("DELETE FROM events WHERE n = ?", ((n,) for n in gone))
            self._db.execute("DELETE FROM batches WHERE batch = ?", (batch.number,))
            self.held -= len(gone)
            self._logged_bytes += _PAGE_BYTES * (len(gone) // 4 + 2)

    def forget(self, batch: SpooledBatch) -> None:
        """Nobody can tell the fate of a batch any more: its events are to be sent anew, by a producer of a new name."""
        with self.transaction():
            self._db.execute("DELETE FROM batches WHERE batch = ?", (batch.number,))
            self._db.execute("UPDATE about SET producer_id = ?, sequence = 0", (secrets.token_hex(8),))

    # --- the file itself ---

    def is_there(self) -> bool:
        """Tell whether the file is still under its name: what is written to a deleted one dies with the process."""
        return self.path.exists()

    def tidy(self) -> None:
        """Copy the log into the database if it has grown; give the room back when nothing is left."""
        if self.held and self._logged_bytes >= _QUIET_CHECKPOINT_BYTES:
            self._db.execute("PRAGMA wal_checkpoint(RESTART)")
            self._logged_bytes = 0
        elif self._logged_bytes and not self.held:
            # It frees one page a step, and `execute` takes but one.
            self._db.executescript("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._logged_bytes = 0

    def close(self) -> None:
        """Let go of the file; whoever comes next may adopt it."""
        self._db.close()

    def discard(self) -> None:
        """Delete the file, which holds nothing, before anybody else can lock it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _remove(self.path, self._db)

    def set_aside(self) -> Path:
        """Rename the file, which cannot be read, so that nobody tries it again; returns its new name."""
        return set_aside(self.path, self._db)


def set_aside(path: Path, database: sqlite3.Connection | None = None) -> Path:
    """Rename a file that cannot be read, together with its log, so that an operator can look at it."""
    aside = path.with_name(path.name + ".corrupt")

    def rename() -> None:
        for old, new in ((path, aside), (_log_of(path), _log_of(aside))):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)

    _end(database, rename)
    return aside


def is_corrupt(error: sqlite3.Error) -> bool:
    """Tell whether an error means that what is in the file makes no sense."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file that exists. It is locked with the first access and stays so."""
    # Nobody waits for a lock here, and each statement is its own transaction unless one is begun.
    database = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA fullfsync = 1")
        database.execute(f"PRAGMA wal_autocheckpoint = {_FORCED_CHECKPOINT_PAGES}")
    except BaseException:
        database.close()
        raise
    return database


def _lock(database: sqlite3.Connection) -> int:
    """Lock the file and return its layout."""
    database.execute("BEGIN EXCLUSIVE")
    (layout,) = database.execute("PRAGMA user_version").fetchone()
    database.execute("COMMIT")
    return int(layout)


@contextlib.contextmanager
def _found_in_use() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if _code(error) == sqlite3.SQLITE_BUSY:
            raise InUseError from None
        raise


def _check_name(path: Path) -> None:
    """Make sure that what was locked still has its name: the one before us may have deleted it or set it aside."""
    if not path.exists():
        raise FileNotFoundError(f"{path.name} was taken away")


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _remove(path: Path, database: sqlite3.Connection) -> None:
    """Delete a file that holds nothing, also in its database proper, so that the log may go first."""

    def unlink() -> None:
        _log_of(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    _end(database, unlink)


def _end(database: sqlite3.Connection | None, act: Any) -> None:
    """Take a file's name away while it is locked, and close it; Windows wants it the other way round."""
    if database is None:
        act()
    elif os.name == "nt":
        database.close()
        act()
    else:
        act()
        database.close()


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _fitting(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return as many of the first rows as one batch takes, at least one."""
    sums = itertools.accumulate(size for _, size in sizes)
    return [n for (n, _), total in zip(sizes, sums, strict=True) if total <= _BATCH_BYTES] or [sizes[0][0]]
