"""What can go wrong with a file of events, or with who else is at work on the same ones."""

from __future__ import annotations

from streams_queue.errors import StreamsQueueError


class ExportError(StreamsQueueError):
    """The file of events cannot be used."""


class NotWrittenError(StreamsQueueError):
    """The file of events cannot be written; what is not in it is still in the queue."""


class ElsewhereError(StreamsQueueError):
    """Somebody else works on the same events at the same time; run the command again when that has ended."""
