"""The report: a table for people, one JSON for machines."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.arena import Settings
from tests.chaos.checker import Verdict, worst
from tests.chaos.faults import Fault
from tests.chaos.storm import Aftermath
from tests.chaos.story import Story
from tests.chaos.timeline import draw


@dataclass(frozen=True)
class Targets:
    """What a run must reach: acknowledged events, faults that hit, kinds of them."""

    events: int = 0
    hits: int = 0
    kinds: int = 0


@dataclass(frozen=True)
class Report:
    """One storm and what the checker says of it; `seconds` is how long all of it took."""

    settings: Settings
    aftermath: Aftermath
    story: Story
    verdict: Verdict
    seconds: float


def shortfalls(report: Report, targets: Targets) -> list[str]:
    """Return which targets were missed, as sentences."""
    figures = report.verdict.figures
    pairs = (
        ("acknowledged", targets.events, "acknowledged events"),
        ("faults_hit", targets.hits, "faults that hit"),
        ("kinds_hit", targets.kinds, "kinds of faults that hit"),
    )
    return [f"{figures[name]:g} {what}, {least} were asked for" for name, least, what in pairs if figures[name] < least]


def show(report: Report, targets: Targets) -> bool:
    """Print the report; returns whether nothing is wrong and all targets are met."""
    console = Console()
    render(report, console)
    missed = shortfalls(report, targets)
    for what in missed:
        console.print(f"[red]{what}[/]")
    return report.verdict.passed and not missed


def render(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(_faults(report))
    console.print(_figures(report))
    console.print(_checks(report))
    worst(report.verdict.violations, lambda line: console.print(line, style="red", markup=False, highlight=False))
    word = "[green]Nothing is wrong[/]" if report.verdict.passed else "[red]Something is wrong[/]"
    console.print(f"{word}: seed {report.settings.seed}, {report.seconds:.0f} s in all")


def _faults(report: Report) -> Table:
    table = Table("fault", "fired", "hit", "duplicates", title="Faults")
    duplicates = Counter(duplicate.kind for duplicate in report.verdict.duplicates)
    for kind, (fired, hit) in report.verdict.kinds.items():
        table.add_row(kind, str(fired), str(hit), str(duplicates[kind] or ""))
    figures = report.verdict.figures
    table.add_section()
    table.add_row("all", f"{figures['faults_fired']:g}", f"{figures['faults_hit']:g}", f"{figures['duplicates']:g}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _figures(report: Report) -> Table:
    table = Table("figure", "", title="Events")
    for name, value in report.verdict.figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    for reason, count in Counter(reason for _, reason in report.story.dead).items():
        table.add_row(f"dead: {reason}", str(count))
    table.columns[1].justify = "right"
    return table


def _checks(report: Report) -> Table:
    table = Table("check", "findings", title="Checks")
    for name, findings in report.verdict.violations.items():
        table.add_row(name, f"[red]{len(findings)}[/]" if findings else "0")
    table.columns[1].justify = "right"
    return table


def as_json(report: Report) -> dict[str, Any]:
    """Return everything but the journals themselves."""
    verdict = report.verdict
    return {
        "passed": verdict.passed,
        "seconds": round(report.seconds, 1),
        "settings": {key: _plain(value) for key, value in vars(report.settings).items() if key not in HIDDEN},
        "figures": verdict.figures,
        "faults_by_kind": {kind: {"fired": fired, "hit": hit} for kind, (fired, hit) in verdict.kinds.items()},
        "violations": verdict.violations,
        "recoveries": asdict(verdict.recoveries),
        "dead_letters": Counter(reason for _, reason in report.story.dead),
        "duplicates": [asdict(duplicate) for duplicate in verdict.duplicates],
        "faults": [_fault(fault) for fault in report.story.faults],
    }


def _fault(fault: Fault) -> dict[str, Any]:
    """Return a fault with the number of entries that it hit, not their ids."""
    return {**fault.as_dict(), "held": len(fault.held or []), "held_later": len(fault.held_later)}


HIDDEN = ("directory", "package")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def write(report: Report, directory: Path) -> None:
    """Write report.json, report.txt and timeline.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")
    text = io.StringIO()
    render(report, Console(file=text, width=120))
    (directory / "report.txt").write_text(text.getvalue(), encoding="utf-8")
    figures = report.verdict.figures
    title = (
        f"{figures['acknowledged']:,} events, {figures['faults_hit']:,} faults that hit, seed {report.settings.seed}"
    )
    draw(report.story, directory / "timeline.svg", title=title)
