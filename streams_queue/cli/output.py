"""What the command prints: answers on standard output, everything else on standard error.

What comes out of a queue was written by strangers. It is never read as markup, and its control characters are shown
and not sent to the terminal.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Advance = Callable[[int], None]
"""Is told how much more of something is done."""

_SHOWN_CHARS = 100


def stderr() -> Console:
    """Return a console on standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a machine's answer: JSON in ASCII, so that no terminal can be talked to through it."""
    print(json.dumps(value, default=str))


def print_line(text: str) -> None:
    """Print a line of an answer."""
    print(printable(text))


def print_error(text: str) -> None:
    """Print a line about what went wrong."""
    print(f"streams-queue: {printable(text)}", file=sys.stderr)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; cells are taken literally."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    # A pipe has no width: nothing is cut for it.
    Console(highlight=False, width=None if sys.stdout.isatty() else 500).print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print_line(f"{name:<{width}}  {value}")


def shown(value: Any) -> str:
    """Return a yes or no, counts by name, or anything else as an operator reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in value.items())
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a bar, or a count where the total is unknown; only a terminal sees it."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn(what), BarColumn(40), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def printable(text: str) -> str:
    """Return the text with everything that a terminal might obey, or that hides itself, written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(value: Any) -> str:
    """Return a payload as the beginning of its JSON."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def moment(seconds: float | None) -> str:
    """Return a time as an operator reads it: UTC, to the second; `-` for none."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else "-"
