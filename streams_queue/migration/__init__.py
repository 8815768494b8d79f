"""From the lists of GitBridge's plan to a queue: nothing lost, nothing twice, whenever the process dies.

The plan's producers push JSON to a list, its consumers move it to a second list and never remove it from there. What
somebody asks for is in `asked`. `flow` does it, step by step, with `moving`, which has each item judged (`judging`) and
moves it by a script of `commands`. `record` is what the server knows of how far that has got. `previewing` only looks.
"""

from __future__ import annotations

from streams_queue.migration.asked import Asked, Processing, ProcessingMode, parse_processing
from streams_queue.migration.audience import Audience, Report
from streams_queue.migration.flow import Migration
from streams_queue.migration.judging import Unfit
from streams_queue.migration.previewing import preview
from streams_queue.migration.record import Part, Tally

__all__ = [
    "Asked",
    "Audience",
    "Migration",
    "Part",
    "Processing",
    "ProcessingMode",
    "Report",
    "Tally",
    "Unfit",
    "parse_processing",
    "preview",
]
