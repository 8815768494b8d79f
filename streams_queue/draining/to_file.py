"""Into a file of JSON lines, on the disk before the events leave the server."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from streams_queue.draining.drain import Moved
from streams_queue.draining.errors import ElsewhereError, ExportError
from streams_queue.draining.events import Event
from streams_queue.draining.file import ExportFile
from streams_queue.draining.stock import Stock

logger = logging.getLogger(__name__)


class ToFile:
    """Writes a page, waits for the disk, takes the page out of the queue; after a crash in between it goes on there.

    The server keeps how many events of the file are out of the queue. What the file has beyond that is still in the
    queue, and is taken back from the file first: docs/decisions/0105-draining.md.

    Args:
        stock: The queue's events.
        file: Where they go; it is closed at the end.
    """

    def __init__(self, stock: Stock, file: ExportFile) -> None:
        self._stock = stock
        self._file = file

    @staticmethod
    def consumer(file: ExportFile) -> str:
        """Return the consumer's name: who goes on with a file goes on with what was taken for it."""
        return f"drain-{file.export_id}"

    async def begin(self) -> None:
        """Bring the file into line with the server.

        Raises:
            ExportError: The file lacks events that are out of the queue: it is an older copy.
        """
        out, there = await self._stock.taken_out(self._file.export_id), self._file.events
        if out is not None and out > there:
            raise ExportError(f"{self._file.path} has {there} events, and {out} were taken out of the queue for it")
        if out is None:
            if there and not self._file.is_complete:
                logger.warning(
                    "The server has forgotten the drain into %s; all %d events that it has count",
                    self._file.path,
                    there,
                    extra={"path": str(self._file.path), "events": there},
                )
            await self._stock.note_taken_out(self._file.export_id, there)
        # After the server knows: a trailer that is there says that everything before it is out.
        self._file.keep(there if out is None or self._file.is_complete else out)

    async def take_over(self, page: Sequence[Event]) -> Moved:
        """Write the page, then take it out. Redis: 1 round trip.

        Raises:
            NotWrittenError: It cannot be written; nothing of it has left the queue.
            ElsewhereError: The server has gone back to an earlier state.
        """
        before = self._file.events
        self._file.append(page)
        answer = await self._stock.settle(self._file.export_id, before, page)
        if answer == "changed":
            self._file.keep(before)
            return Moved(changed=True)
        if answer == "forgotten" and await self._stock.taken_out(self._file.export_id) is not None:
            raise ElsewhereError("the server has gone back to an earlier state; run the command again")
        if answer == "forgotten":
            # It has lost everything; the page is in the file, and nowhere else.
            await self._stock.note_taken_out(self._file.export_id, before + len(page))
        return Moved(events=list(page))

    async def end(self) -> None:
        """Write the trailer; the server may forget the drain then."""
        self._file.finish()
        await self._stock.forget(self._file.export_id)
