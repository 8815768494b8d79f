"""What the package logs: each line is in the reference, and has as fields what it says in words."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from tests.support.log_calls import LogCall, log_calls

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "logs.md"
CALLS = log_calls()
LOUD = [call for call in CALLS if call.level != "debug"]


def rows(columns: int) -> list[tuple[str, ...]]:
    """Return the rows of a table of the page, by its number of columns."""
    lines = (line.strip("|").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `"))
    return [tuple(cell.strip() for cell in line) for line in lines if len(line) == columns]


def test_every_line_is_in_the_reference() -> None:
    """With its logger, level and fields, what it means, and no line that is not there any more."""
    documented = [(row[0].strip("`"), row[1], row[2], tuple(re.findall(r"`(\w+)`", row[3]))) for row in rows(5)]
    assert sorted(documented) == sorted((call.logger, call.level, call.message, call.fields) for call in LOUD)
    assert all(row[4] for row in rows(5))


def test_every_debug_line_is_in_the_reference() -> None:
    """By logger and words."""
    documented = [(row[0].strip("`"), row[1]) for row in rows(2)]
    assert sorted(documented) == sorted((call.logger, call.message) for call in CALLS if call.level == "debug")


@pytest.mark.parametrize("call", LOUD, ids=lambda call: call.where)
def test_what_is_said_in_words_is_there_as_fields(call: LogCall) -> None:
    """A line with values has fields, under names that no record uses itself."""
    assert bool(call.values) == bool(call.fields)
    taken = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
    assert not taken & set(call.fields)
