"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Result
from benchmarks.model import Row, Verdict

_console = Console()


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
    _console.print(_figures(result.rows))
    if result.verdicts:
        _console.print(_verdicts(result.verdicts))


def _figures(rows: list[Row]) -> Table:
    table = Table("case", "side", "metric", box=None)
    for column in ("median", "min", "max", "unit"):
        table.add_column(column, justify="left" if column == "unit" else "right")
    for row in rows:
        table.add_row(row.case, row.side, row.metric, *map(short, (row.median, row.min, row.max)), row.unit)
    return table


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


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return what the JSON file holds of a verdict."""
    return asdict(verdict)
