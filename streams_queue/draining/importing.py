"""Putting exported events back: each once, however often and from wherever the import is begun again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from streams_queue.draining.errors import ElsewhereError, ExportError
from streams_queue.draining.events import State
from streams_queue.draining.lines import Header, Line, Trailer, member_of, read_line
from streams_queue.draining.progress import Progress
from streams_queue.draining.stock import PAGE_BYTES, PAGE_EVENTS, Stock
from streams_queue.errors import MessageError

_POLL_FULL = 0.1
_HEADER_BEGINS = b'{"streams_queue_events"'
_FULL = {"full": "the queue is full", "dead_full": "the dead letters are full"}


@dataclass(slots=True)
class Imported:
    """What became of a file's lines.

    Attributes:
        waiting: Put into the queue.
        delayed: Put into the queue, to be due when they were to be.
        dead: Put among the dead letters.
        already: Were in before, by an earlier import of the same file.
        bad: Could not be read.
        not_accepted: There was no room for them within the time to wait.
        full: What was full, then.
    """

    waiting: int = 0
    delayed: int = 0
    dead: int = 0
    already: int = 0
    bad: int = 0
    not_accepted: int = 0
    full: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every event of the file is in, or has been."""
        return not self.bad and not self.not_accepted


@dataclass(slots=True)
class Import:
    """One import of one file.

    Attributes:
        stock: The queue that gets the events.
        path: The file.
        wait: Seconds to wait for room.
        incomplete: Take a file that ends without its trailer, or lacks lines.
        report: Is told the number of a line that could not be read, and why.
        advance: Is told how many bytes of the file are done, each time.
    """

    stock: Stock
    path: Path
    wait: float = 30.0
    incomplete: bool = False
    report: Callable[[int, str], None] = lambda *_: None
    advance: Callable[[int], None] = lambda _: None
    done: Imported = field(default_factory=Imported)
    _export_id: str = ""
    _known: str = ""
    _progress: Progress = field(default_factory=Progress)

    async def run(self) -> Imported:
        """Import what is not in yet; the lines that can be read go in, whatever the others are like.

        Raises:
            ExportError: The file is none of exported events, or is not complete; nothing was put in.
            ElsewhereError: Another import of the same file is running.
            BackendError: The server; what `done` counts is in. Run it again.
        """
        with _opened(self.path) as file:
            self._export_id = _check(self.path, file, incomplete=self.incomplete)
            self._known = await self.stock.imported(self._export_id)
            self._progress = Progress.read(self._known)
            lines = self._lines(file)
            for page in _pages(lines):
                if left := await self._put_back(page):
                    self.done.not_accepted = left + sum(1 for _ in lines)
        return self.done

    def _lines(self, file: Iterable[bytes]) -> Iterator[tuple[Line, int]]:
        """Yield events that are not in yet, each with the length of its line."""
        highest = 0
        for number, text in enumerate(file, start=2):
            self.advance(len(text))
            try:
                line = None if text.isspace() else self._read(text, highest)
            except MessageError as error:
                self.done.bad += 1
                self.report(number, str(error))
                continue
            if line is None:
                continue
            highest = line.number
            if self._progress.has(line.number):
                self.done.already += 1
            else:
                yield line, len(text)

    def _read(self, text: bytes, highest: int) -> Line | None:
        line = read_line(text)
        if not isinstance(line, Line):
            return None
        if line.number <= highest:
            raise MessageError("n must go up from line to line")
        most, payload = self.stock.settings.max_event_bytes, line.event.payload or b""
        if line.event.state is not State.DEAD and len(payload) > most:
            raise MessageError(f"the payload is {len(payload)} bytes; max_event_bytes is {most}")
        return line

    async def _put_back(self, page: Sequence[Line]) -> int:
        """Put a page in, in pieces, as there is room; return how many there was none for in time."""
        left, loop = list(page), asyncio.get_running_loop()
        deadline = loop.time() + self.wait
        while left:
            done, status = await self._put_first(left)
            del left[:done]
            if done:
                deadline = loop.time() + self.wait
            elif loop.time() >= deadline:
                self.done.full = _FULL[status]
                break
            else:
                await asyncio.sleep(_POLL_FULL)
        return len(left)

    async def _put_first(self, lines: Sequence[Line]) -> tuple[int, str]:
        """Put the first ones in: those that are bound for the same place, as many as there is room for."""
        is_dead = lines[0].event.state is State.DEAD
        piece = list(itertools.takewhile(lambda line: (line.event.state is State.DEAD) is is_dead, lines))
        status, room = await self._put(piece)
        if status in _FULL and room:
            piece = piece[:room]
            status, room = await self._put(piece)
        if status == "done":
            for line in piece:
                name = line.event.state.value
                setattr(self.done, name, getattr(self.done, name) + 1)
        return (len(piece) if status == "done" else 0), status

    async def _put(self, piece: Sequence[Line]) -> tuple[str, int]:
        after = self._progress.adding(line.number for line in piece)
        events = [(line.event, member_of(self._export_id, line)) for line in piece]
        status, room, _ = await self.stock.put_back(self._export_id, self._known, str(after), events)
        if status == "elsewhere":
            raise ElsewhereError("another import of the same file is running")
        if status == "done":
            self._progress, self._known = after, str(after)
        return status, room


def _pages(lines: Iterator[tuple[Line, int]]) -> Iterator[list[Line]]:
    page: list[Line] = []
    size = 0
    for line, length in lines:
        page.append(line)
        size += length
        if len(page) == PAGE_EVENTS or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error


def _check(path: Path, file: IO[bytes], *, incomplete: bool) -> str:
    """Return the export's id, and leave the file behind its header. Raises ExportError if it is no complete export."""
    first = file.readline()
    header = _read_or_none(first)
    if not isinstance(header, Header):
        raise ExportError(
            f"{path}, line 1: not the header of exported events; plain JSON lines go in with `streams-queue enqueue`"
        )
    begin, count, last = file.tell(), 0, b""
    for number, text in enumerate(file, start=2):
        if text.startswith(_HEADER_BEGINS):
            raise ExportError(f"{path}, line {number}: a second header; import the files one by one")
        if not text.isspace():
            count, last = count + 1, text
    trailer = _read_or_none(last)
    if not incomplete:
        _check_trailer(path, trailer, count - 1)
    file.seek(begin)
    return header.export_id


def _check_trailer(path: Path, trailer: object, count: int) -> None:
    if not isinstance(trailer, Trailer):
        raise ExportError(
            f"{path} ends without its trailer: it was cut off, or its drain was. Run that drain again to complete it, "
            "or import it with --incomplete"
        )
    if trailer.events != count:
        raise ExportError(
            f"{path} has {count} lines of events, and its trailer says {trailer.events}; --incomplete imports those "
            "that are there"
        )


def _read_or_none(text: bytes) -> Header | Trailer | Line | None:
    try:
        return read_line(text)
    except MessageError:
        return None
