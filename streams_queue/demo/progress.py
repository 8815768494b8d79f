"""How the demo tells what happens while it happens: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from streams_queue.demo.audience import Audience

_LINE_INTERVAL = 1.0


class Bars(Audience):
    """Two bars that move.

    Args:
        progress: Where the bars are; started and stopped by whoever made it.
        events: Where the bars end.
    """

    def __init__(self, progress: Progress, events: int) -> None:
        self._progress = progress
        self._enqueued = self._progress.add_task("enqueued", total=events)
        self._processed = self._progress.add_task("processed", total=events)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(Text(line))

    def update(self, enqueued: int, processed: int) -> None:
        """Move the bars."""
        self._progress.update(self._enqueued, completed=enqueued)
        self._progress.update(self._processed, completed=processed)


class Lines(Audience):
    """A line a second, for a log or a pipe.

    Args:
        console: Where the lines go.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(Text(line), soft_wrap=True)

    def update(self, enqueued: int, processed: int) -> None:
        """Print how far it is, if it is time to."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_INTERVAL
            self.say(f"enqueued {enqueued}, processed {processed}")


@contextlib.contextmanager
def audience_at(console: Console, events: int) -> Iterator[Audience]:
    """Show bars in a terminal, and lines everywhere else."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description:>9}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, events)
