"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from benchmarks.check import Change, failed
from benchmarks.model import Result, Row, Verdict

# In a file, a line may be longer than in a terminal of unknown width.
_console = Console(width=None if sys.stdout.isatty() else 160)
_COLOURS = {
    "as before": "as before",
    "better": "[green]better[/green]",
    "worse": "[red]worse[/red]",
    "missing": "[red]not measured[/red]",
}


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show what is going on while it goes on; on a terminal only."""
    with _console.status("starting") as status:
        yield status.update


def show_list(questions: Mapping[str, str]) -> None:
    """Print each scenario's name and question."""
    table = Table("scenario", "question", box=None)
    for name, question in questions.items():
        table.add_row(name, question)
    _console.print(table)


def show(name: str, question: str, result: Result) -> None:
    """Print what a scenario gave."""
    _console.print(f"\n[bold]{name}[/bold]: {question}")
    _console.print(_figures(result))
    if result.verdicts:
        _console.print(_verdicts(result.verdicts))
    for sides, versions in _by_versions(result.rows).items():
        _console.print(f"[dim]{', '.join(sides)}: {versions}[/dim]")


def _figures(result: Result) -> Table:
    table = Table("case", "side", "metric", box=None)
    for column in ("median", "min", "max", "unit"):
        table.add_column(column, justify="left" if column == "unit" else "right")
    for row in result.rows:
        table.add_row(row.case, row.side, row.metric, *map(short, (row.median, row.min, row.max)), row.unit)
    for failure in result.failures:
        table.add_row(failure.case, failure.side, "[red]not measured[/red]", "", "", "", last_line(failure.reason))
    return table


def _by_versions(rows: Iterable[Row]) -> dict[tuple[str, ...], str]:
    """Say once for all sides that have them alike which versions were measured."""
    of_side = {row.side: ", ".join(f"{name} {version}" for name, version in row.versions.items()) for row in rows}
    alike: dict[str, list[str]] = {}
    for side, versions in of_side.items():
        alike.setdefault(versions, []).append(side)
    return {tuple(sides) if len(alike) > 1 else ("measured",): versions for versions, sides in alike.items()}


def _verdicts(verdicts: list[Verdict]) -> Table:
    table = Table("case", "what", "wanted", "median", "min", "max", "verdict", box=None)
    for each in verdicts:
        word = "[green]met[/green]" if each.met else "[red]missed[/red]" + (f" ({each.note})" if each.note else "")
        table.add_row(each.case, each.what, each.wanted, *map(short, (each.median, each.min, each.max)), word)
    return table


def short(value: float) -> str:
    """Return a figure with three digits that matter, thousands set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def last_line(text: str) -> str:
    """Return the last line of a traceback: what went wrong."""
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"


def show_changes(changes: list[Change]) -> None:
    """Print what is worse than it was, or better, and what a difference had to exceed to count."""
    table = Table("what", "before", "now", "margin", "", box=None)
    for change in changes:
        now = "" if change.now is None else short(change.now)
        table.add_row(change.what, short(change.before), now, short(change.margin), _COLOURS[change.verdict])
    _console.print(table)
    worse = failed(changes)
    _console.print(f"{len(worse)} of {len(changes)} got worse or were not measured", style="red" if worse else "green")
