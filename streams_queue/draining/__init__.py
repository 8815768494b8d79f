"""The way out of a queue and back into one: onto a list, into a file, through a handler; and from a file.

Nothing is in two places that count, nor in none: docs/decisions/0105-draining.md and 0106-exported-events.md.
"""

from __future__ import annotations

from streams_queue.draining.drain import Drain, Report, Sink
from streams_queue.draining.errors import ExportError
from streams_queue.draining.importing import Import, Imported
from streams_queue.draining.stock import Stock
from streams_queue.draining.to_file import ToFile
from streams_queue.draining.to_handler import WorkedOff, work_off
from streams_queue.draining.to_list import ToList

__all__ = [
    "Drain",
    "ExportError",
    "Import",
    "Imported",
    "Report",
    "Sink",
    "Stock",
    "ToFile",
    "ToList",
    "WorkedOff",
    "work_off",
]
