"""The JSON file: everything that a run of the suite gave, a line for each figure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.model import Result

LISTS = ("rows", "verdicts", "distributions", "ratios", "failures")
Document = dict[str, Any]


def as_document(results: Mapping[str, Result], *, quick: bool) -> Document:
    """Return what the JSON file holds."""
    head: Document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine() | {"load": [round(load, 2) for load in os.getloadavg()]},
    }
    return head | {name: list(_of_all(results.values(), name)) for name in LISTS}


def _of_all(results: Iterable[Result], name: str) -> Iterator[dict[str, Any]]:
    for result in results:
        for each in getattr(result, name):
            yield asdict(each)


def write(path: Path, document: Document) -> None:
    """Write a document: what is listed in it takes a line each, so that two files can be compared by eye."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f" {json.dumps(key)}: {_value(value)}" for key, value in document.items()]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def _value(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return _line(value)
    return "[\n" + ",\n".join(f"  {_line(each)}" for each in value) + "\n ]"


def _line(value: Any) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    """Keep six digits: more are noise, and make lines long."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


def read(path: Path) -> Document:
    """Read a document; lists that an older file has not got are empty."""
    found: Document = json.loads(path.read_text("utf-8"))
    return {name: [] for name in LISTS} | found
