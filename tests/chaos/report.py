"""The report: a table for people, one JSON for machines, a picture."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.checker import RECOVERY_MARGIN, Hits, Verdict, late, percentile, worst
from tests.chaos.story import Story
from tests.chaos.timeline import draw, zero_of

DUPLICATE_COLUMNS = ["event", "had by", "run again by", "at", "was then", "fault", "kind of fault"]


@dataclass(frozen=True)
class Targets:
    """What a run must reach: acknowledged events, faults that hit, kinds of them."""

    events: int = 0
    hits: int = 0
    kinds: int = 0


@dataclass(frozen=True)
class Part:
    """What happened in one arena, and what the checker says of it."""

    arena: str
    story: Story
    verdict: Verdict


@dataclass(frozen=True)
class Report:
    """One storm in all its arenas.

    Attributes:
        seed: From which it was drawn.
        settings: What it was like otherwise.
        parts: By arena.
        seconds: How long all of it took.
    """

    seed: str
    settings: dict[str, Any]
    parts: Sequence[Part]
    seconds: float

    @property
    def figures(self) -> Counter[str]:
        """The counts of all arenas together."""
        return sum((part.verdict.figures for part in self.parts), Counter())

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """Fired and hit, by kind, in all arenas together."""
        fired: Counter[str] = Counter()
        hit: Counter[str] = Counter()
        for part in self.parts:
            fired.update({kind: count for kind, (count, _) in part.verdict.kinds.items()})
            hit.update({kind: count for kind, (_, count) in part.verdict.kinds.items()})
        return {kind: (fired[kind], hit[kind]) for kind in sorted(fired)}

    @property
    def hits(self) -> int:
        """How many faults hit."""
        return sum(hit for _, hit in self.kinds.values())

    @property
    def kinds_hit(self) -> int:
        """How many kinds of faults hit at least once."""
        return sum(hit > 0 for _, hit in self.kinds.values())

    @property
    def recoveries(self) -> dict[str, float]:
        """How long the events of killed workers waited, by arena and fault."""
        return {
            f"{part.arena} fault {number}": wait
            for part in self.parts
            for number, wait in part.verdict.recoveries.kills.items()
        }

    @property
    def violations(self) -> dict[str, list[str]]:
        """All findings, by check."""
        found: dict[str, list[str]] = {}
        for part in self.parts:
            for check, findings in part.verdict.violations.items():
                found.setdefault(check, []).extend(f"{part.arena}: {finding}" for finding in findings)
        return {**found, "recovery": late(self.recoveries, self.parts[0].story.lease + RECOVERY_MARGIN)}

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.violations.values())


def shortfalls(report: Report, targets: Targets) -> list[str]:
    """Return which targets were missed, as sentences."""
    reached = (
        (report.figures["acknowledged"], targets.events, "acknowledged events"),
        (report.hits, targets.hits, "faults that hit"),
        (report.kinds_hit, targets.kinds, "kinds of faults that hit"),
    )
    return [f"{count} {what}, {least} were asked for" for count, least, what in reached if count < least]


def show(report: Report, targets: Targets) -> bool:
    """Print the report; returns whether nothing is wrong and all targets are met."""
    console = Console()
    render(report, console)
    missed = shortfalls(report, targets)
    for what in missed:
        console.print(f"[red]{what}[/]")
    return report.passed and not missed


def render(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(_faults(report))
    console.print(_figures(report))
    console.print(_checks(report))
    worst(report.violations, lambda line: console.print(line, style="red", markup=False, highlight=False))
    word = "[green]Nothing is wrong[/]" if report.passed else "[red]Something is wrong[/]"
    console.print(f"{word}: seed {report.seed}, {report.seconds:.0f} s in all")


def _faults(report: Report) -> Table:
    table = Table("fault", "fired", "hit", "duplicates", title="Faults")
    duplicates = Counter(each.kind for part in report.parts for each in part.verdict.duplicates)
    for kind, (fired, hit) in report.kinds.items():
        table.add_row(kind.replace("_", " "), f"{fired:,}", f"{hit:,}", f"{duplicates[kind]:,}")
    table.add_section()
    fired_in_all = sum(fired for fired, _ in report.kinds.values())
    table.add_row("all", f"{fired_in_all:,}", f"{report.hits:,}", f"{duplicates.total():,}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _figures(report: Report) -> Table:
    table = Table("", "", title="Events", show_header=False)
    for name, value in report.figures.items():
        table.add_row(name, f"{value:,}")
    for reason, count in _reasons(report).items():
        table.add_row(f"dead: {reason}", f"{count:,}")
    for part in report.parts:
        table.add_row(f"most held, of {part.story.max_size:,} ({part.arena})", f"{part.verdict.most_held:,}")
    table.add_section()
    for name, figure in recovery_figures(report).items():
        table.add_row(name, f"{figure:,.2f}" if isinstance(figure, float) else f"{figure:,}")
    table.columns[1].justify = "right"
    return table


def _reasons(report: Report) -> Counter[str]:
    return Counter(reason for part in report.parts for _, reason in part.story.dead)


def recovery_figures(report: Report) -> dict[str, float | int]:
    """Return how long the events of killed workers waited until all were handed out elsewhere, in seconds."""
    waits = report.recoveries.values()
    parts = [part.verdict.recoveries for part in report.parts]
    events = [wait for each in parts for wait in each.events]
    alone = [wait for each in parts for wait in each.alone]
    return {
        "kills measured": len(waits),
        "recovery p50": percentile(waits, 0.5),
        "recovery p99": percentile(waits, 0.99),
        "recovery max": max(waits, default=0.0),
        "events of them": len(events),
        "event recovery p50": percentile(events, 0.5),
        "event recovery p99": percentile(events, 0.99),
        "last runs, made alone": len(alone),
        "last run alone, max": max(alone, default=0.0),
        "kills not measured, server away": sum(each.server_away for each in parts),
        "events not measured": sum(each.unmeasured for each in parts),
    }


def _checks(report: Report) -> Table:
    table = Table("check", "findings", title="Checks")
    for name, findings in report.violations.items():
        table.add_row(name, f"[red]{len(findings):,}[/]" if findings else "0")
    table.columns[1].justify = "right"
    return table


# --- files


def as_json(report: Report) -> dict[str, Any]:
    """Return everything but the journals themselves."""
    return {
        "passed": report.passed,
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "settings": report.settings,
        "figures": report.figures,
        "faults_hit": report.hits,
        "kinds_hit": report.kinds_hit,
        "faults_by_kind": {kind: {"fired": fired, "hit": hit} for kind, (fired, hit) in report.kinds.items()},
        "dead_letters": _reasons(report),
        "recovery": recovery_figures(report),
        "violations": report.violations,
        "arenas": {part.arena: _arena(part) for part in report.parts},
    }


def _arena(part: Part) -> dict[str, Any]:
    zero = zero_of(part.story)
    return {
        "figures": part.verdict.figures,
        "most_held": part.verdict.most_held,
        "max_size": part.story.max_size,
        "recoveries": {number: round(wait, 3) for number, wait in part.verdict.recoveries.kills.items()},
        "faults": list(_faults_since(part.story, zero)),
        "columns_of_duplicates": DUPLICATE_COLUMNS,
        "duplicates": [
            [each.event, each.worker, each.again, round(each.at - zero, 3), each.was, each.fault, each.kind]
            for each in part.verdict.duplicates
        ],
    }


def _faults_since(story: Story, zero: float) -> Iterator[dict[str, Any]]:
    """Return the faults with times since the beginning, and with the number of entries that they hit, not their ids."""
    seen = Hits(story)
    for fault in story.faults:
        yield {
            "number": fault.number,
            "kind": fault.kind,
            "targets": fault.targets,
            "began": round(fault.began - zero, 3),
            "ended": None if fault.ended is None else round(fault.ended - zero, 3),
            "held": len(fault.held or []),
            "hit": seen.has_hit(fault),
            **fault.evidence,
        }


def write(report: Report, directory: Path) -> None:
    """Write report.json, report.txt, and timeline-….svg of each arena."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(to_text(as_json(report)), encoding="utf-8")
    text = io.StringIO()
    render(report, Console(file=text, width=120))
    (directory / "report.txt").write_text(text.getvalue(), encoding="utf-8")
    for part in report.parts:
        hits = sum(hit for _, hit in part.verdict.kinds.values())
        counts = f"{part.verdict.figures['acknowledged']:,} events, {hits:,} faults that hit"
        title = f"Arena {part.arena!r}: {counts}, seed {report.seed}"
        draw(part.story, directory / f"timeline-{part.arena}.svg", title=title)


def to_text(value: Any, indent: str = "") -> str:
    """Write JSON with one line for each leaf of a dictionary and each member of a list: short, and fit for a diff."""
    inner = indent + " "
    if isinstance(value, dict) and any(isinstance(each, dict | list) for each in value.values()):
        members = (f"{inner}{json.dumps(str(key))}: {to_text(each, inner)}" for key, each in value.items())
        return "{\n" + ",\n".join(members) + f"\n{indent}}}"
    if isinstance(value, list) and value and indent:
        return "[\n" + ",\n".join(f"{inner}{json.dumps(each)}" for each in value) + f"\n{indent}]"
    return json.dumps(value)
