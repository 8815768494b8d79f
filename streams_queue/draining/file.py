"""The file into which events are exported: appended to, synced, and gone on with after a crash."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from streams_queue.disk import sync_directory
from streams_queue.draining.errors import ElsewhereError, ExportError, NotWrittenError
from streams_queue.draining.events import Event, State
from streams_queue.draining.lines import Header, Line, Trailer, event_line, header_line, read_line, trailer_line
from streams_queue.errors import MessageError

try:
    import fcntl
except ImportError:  # Windows has no flock: there nobody is kept from running two drains into one file.
    fcntl = None  # type: ignore[assignment]


class ExportFile:
    """A file of events, open for appending by this process alone.

    Attributes:
        export_id: Names its events, also on the server.
        counts: How many events of each state it has.
        is_complete: Whether it ended with a trailer when it was opened.
    """

    def __init__(self, path: Path, queue: str) -> None:
        """Open it, or make it.

        Raises:
            NotWrittenError: It cannot be opened or made.
            ExportError: It is something else, or of another queue.
            ElsewhereError: Another process has it open.
        """
        self.path = path
        self._queue = queue
        self.counts = dict.fromkeys((state.value for state in State), 0)
        self.is_complete = False
        self._next_number = 1
        # Where each event's line ends, and its state, so that the last ones may be taken back.
        self._ends: list[tuple[int, str]] = []
        self._begin = 0
        with self._errors():
            self._file = self._open()
        try:
            with self._errors():
                self.export_id = self._read() if self._size() else self._write_header()
        except BaseException:
            self.close()
            raise

    @property
    def events(self) -> int:
        """How many events it has."""
        return len(self._ends)

    def append(self, page: Sequence[Event]) -> None:
        """Write a page's events and wait until they are on the disk. Raises NotWrittenError."""
        with self._errors():
            for event in page:
                self._file.write(event_line(self._next_number, event))
                self._next_number += 1
                self._note(event.state.value, self._file.tell())
            self._sync()

    def keep(self, events: int) -> None:
        """Take back everything behind the first so many events; their numbers are not used again."""
        for _, state in self._ends[events:]:
            self.counts[state] -= 1
        del self._ends[events:]
        with self._errors():
            self._file.flush()
            self._file.truncate(self._ends[-1][0] if self._ends else self._begin)
            self._file.seek(0, os.SEEK_END)
            self._sync()

    def finish(self) -> None:
        """Write the trailer. Raises NotWrittenError."""
        with self._errors():
            self._file.write(trailer_line(self.counts))
            self._sync()

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _open(self) -> IO[bytes]:
        # Not "a": after a line was taken back, what is written goes where it was.
        file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600), "r+b")
        if fcntl is not None:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise ElsewhereError(f"{self.path} is being written by another drain") from None
        return file

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _write_header(self) -> str:
        export_id = secrets.token_hex(8)
        if self._size():
            self._file.truncate(0)
            self._file.seek(0)
        self._file.write(header_line(Header(export_id, self._queue)))
        self._begin = self._file.tell()
        self._sync()
        sync_directory(self.path.parent)
        return export_id

    def _read(self) -> str:
        """Read what an earlier drain has written; a line that was cut off by a crash does not count."""
        first = self._file.readline()
        if (
            not first.endswith(b"\n")
            and not self._file.read(1)
            and header_line(Header("0" * 16, "")).startswith(first[:24])
        ):
            return self._write_header()
        try:
            header = read_line(first)
        except MessageError:
            header = None
        if not isinstance(header, Header):
            raise ExportError(f"{self.path} is not empty, and no file of exported events; name another one")
        if header.queue != self._queue:
            raise ExportError(f"{self.path} has events of the queue {header.queue}, not of {self._queue}")
        self._begin = self._file.tell()
        for number, line in enumerate(self._whole_lines(), start=2):
            self._read_again(number, line)
        return header.export_id

    def _whole_lines(self) -> Iterator[bytes]:
        while (line := self._file.readline()).endswith(b"\n"):
            yield line

    def _read_again(self, number: int, text: bytes) -> None:
        try:
            line = read_line(text)
        except MessageError as error:
            raise ExportError(f"{self.path}, line {number}: {error}; mend it, or name another file") from None
        self.is_complete = isinstance(line, Trailer)
        if isinstance(line, Line):
            # One more, in case that a line was cut off: its number may have been seen by somebody.
            self._next_number = max(self._next_number, line.number + 2)
            self._note(line.event.state.value, self._file.tell())

    def _note(self, state: str, end: int) -> None:
        self.counts[state] += 1
        self._ends.append((end, state))

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NotWrittenError(f"{self.path} cannot be written: {error.strerror or error}") from error
