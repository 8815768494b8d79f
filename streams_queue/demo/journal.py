"""Journals: what a process did, one line a record, safe from its own sudden death.

A line goes out in one write to a file opened for appending. What the operating system has taken survives SIGKILL, so a
journal misses at most what had not happened yet; a last line without its end is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

READY = "ready"
ACCEPTED = "accepted"
BEGUN = "begun"
FINISHED = "finished"


class Record(NamedTuple):
    """One line of a journal.

    Attributes:
        verb: What happened: ready, accepted, begun, finished.
        event_id: To which event; empty if to none.
        deliveries: How often the event had been handed out; 0 where that does not apply.
    """

    verb: str
    event_id: str = ""
    deliveries: int = 0


class Journal:
    """The journal that a process writes.

    Args:
        path: The file; what it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *records: Record) -> None:
        """Add records; they are with the operating system when this returns."""
        rest = memoryview("".join(map(to_line, records)).encode())
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class JournalReader:
    """Reads a journal while it grows.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_records(self) -> list[Record]:
        """Return the complete lines that have been added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return list(parse(complete.decode().splitlines()))


def to_line(record: Record) -> str:
    """Write a record as its line: `accepted ID`, `begun ID DELIVERIES`, `finished ID`, `ready`."""
    verb, event_id, deliveries = record
    if deliveries:
        return f"{verb} {event_id} {deliveries}\n"
    return f"{verb} {event_id}\n" if event_id else f"{verb}\n"


def parse(lines: Iterable[str]) -> Iterable[Record]:
    """Read lines back as records."""
    for line in lines:
        verb, *rest = line.split(" ")
        yield Record(verb, rest[0] if rest else "", int(rest[1]) if len(rest) > 1 else 0)
