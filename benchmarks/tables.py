"""JSON files as Markdown tables, for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.document import Document
from benchmarks.report import last_line, short


def markdown(documents: Iterable[Document]) -> str:
    """Return what was wanted and what there is, and then all figures, scenario by scenario."""
    found = list(documents)
    verdicts = [each for document in found for each in document["verdicts"]]
    rows = [each for document in found for each in document["rows"]]
    failures = [each for document in found for each in document["failures"]]
    parts = ["### What is wanted, and what there is", "\n".join(_verdicts(verdicts))] if verdicts else []
    for scenario in dict.fromkeys(each["scenario"] for each in rows + failures):
        of_it = [each for each in rows if each["scenario"] == scenario]
        failed = [each for each in failures if each["scenario"] == scenario]
        parts += [f"### {scenario}", "\n".join(_figures(of_it, failed))]
    return "\n\n".join(parts) + "\n"


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _row("scenario", "case", "what", "wanted", "median", "min – max", "")
    yield _row("---", "---", "---", "---:", "---:", "---:", "---")
    for each in verdicts:
        verdict = "met" if each["met"] else "**missed**" + (f" ({each['note']})" if each["note"] else "")
        named = (each["scenario"], each["case"], each["what"], each["wanted"])
        yield _row(*named, short(each["median"]), _spread(each), verdict)


def _figures(rows: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _row("case", "side", "metric", "median", "min – max", "unit")
    yield _row("---", "---", "---", "---:", "---:", "---")
    for row in rows:
        yield _row(row["case"], row["side"], row["metric"], short(row["median"]), _spread(row), row["unit"])
    for each in failures:
        yield _row(each["case"], each["side"], "not measured", "", "", last_line(each["reason"]))


def _spread(figure: Mapping[str, Any]) -> str:
    return f"{short(figure['min'])} – {short(figure['max'])}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
