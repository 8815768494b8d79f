"""The processing list as JSON lines in a file, which is complete and on the disk before anything is set aside."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from streams_queue.disk import sync_directory
from streams_queue.errors import UsageError

Read = Callable[[int], Awaitable[list[bytes]]]
"""Returns the items behind so many, the oldest first; [] at the end."""


class Export:
    """One file.

    It is written under another name and gets its own when it is complete; a file that is there is never replaced.

    Args:
        file: Its name.
        migration_id: By which the unfinished file is known again after a crash.
    """

    def __init__(self, file: Path, migration_id: str) -> None:
        self._file = file
        self._unfinished = file.with_name(f"{file.name}.{migration_id}.unfinished")

    async def write(self, read: Read, count: int) -> None:
        """Write the oldest `count` items, the oldest first. Harmless to repeat, also after a crash in the middle.

        Raises:
            UsageError: There is such a file, or it cannot be written.
        """
        try:
            if self._is_complete():
                return
            if self._file.exists():
                raise UsageError(f"{self._file} is there already, and not from this migration; move it away")
            await self._write_unfinished(read, count)
            await asyncio.to_thread(self._complete)
        except OSError as error:
            raise UsageError(f"{self._file} cannot be written: {error.strerror}") from error

    def tidy_up(self) -> None:
        """Remove the other name; once nobody has to know any more whether the file is complete."""
        self._unfinished.unlink(missing_ok=True)

    def _is_complete(self) -> bool:
        """Whether it has got its own name, before a crash."""
        return self._unfinished.exists() and self._file.exists() and self._unfinished.samefile(self._file)

    async def _write_unfinished(self, read: Read, count: int) -> None:
        with self._unfinished.open("wb") as unfinished:
            done = 0
            while done < count and (items := (await read(done))[: count - done]):
                await asyncio.to_thread(unfinished.writelines, map(as_line, items))
                done += len(items)
            unfinished.flush()
            await asyncio.to_thread(os.fsync, unfinished.fileno())

    def _complete(self) -> None:
        # A link, since renaming would replace a file that somebody else has put there meanwhile.
        self._file.hardlink_to(self._unfinished)
        sync_directory(self._file.parent)


def as_line(item: bytes) -> bytes:
    """Return an item as one line of JSON: a JSON value as it is, anything else as a string.

    Between the tokens of JSON a line break is worth a space, and within them there is none. Bytes that are not UTF-8
    become lone surrogates, from which Python's `surrogateescape` gets them back.
    """
    try:
        msgspec.json.decode(item)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return json.dumps(item.decode("utf-8", "surrogateescape")).encode() + b"\n"
    return item.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"
