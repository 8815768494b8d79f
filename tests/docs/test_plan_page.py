from __future__ import annotations

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT

PAGE = CHECKOUT / "docs" / "explanation" / "the-plan.md"
TEXT = PAGE.read_text(encoding="utf-8")
NODE_ID = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[[^`]*\])?`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
QUOTE = re.compile(r"^>.*$(?:\n>.*$)*", re.MULTILINE)
LINES_OF_THE_PLAN = 195
DIGEST_OF_THE_PLAN = "c103a1c5fc97c3e7cf54718862f6d40df6e0183482ab4dff12f3c958f5760f35"


def lines_of_the_plan(page: str) -> list[str]:
    """Return what the page repeats of the plan, its headings and quotes, without blank lines and marks of Markdown."""
    _, _, body = page.partition("\n>")  # what stands before the first quote introduces the page
    repeated = [line for line in (">" + body).splitlines() if line.startswith((">", "## ", "### "))]
    stripped = [re.sub(r"^(> ?|#+ )", "", line).rstrip() for line in repeated]
    return [line for line in stripped if line and not line.startswith("```")]


def answers(page: str) -> list[tuple[str, str]]:
    """Return each quote with what stands between it and the next quote or heading."""
    found = list(QUOTE.finditer(page))
    ends = [match.start() for match in found[1:]] + [len(page)]
    return [
        (match[0], re.split(r"^##", page[match.end() : end], flags=re.MULTILINE)[0])
        for match, end in zip(found, ends, strict=True)
    ]


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of all functions and methods that a file defines; none if there is no such file."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_page_quotes_every_line_of_the_plan() -> None:
    """Word by word and in order; the digest is of the plan's own lines."""
    lines = lines_of_the_plan(TEXT)
    assert len(lines) == LINES_OF_THE_PLAN
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == DIGEST_OF_THE_PLAN


def test_a_line_that_is_left_out_or_changed_is_noticed() -> None:
    """The check above can fail."""
    whole = lines_of_the_plan(TEXT)
    assert lines_of_the_plan(TEXT.replace("> - CPU: <10% average load\n", "")) != whole
    assert lines_of_the_plan(TEXT.replace("Queue operations: <5ms", "Queue operations: <50ms")) != whole


def test_every_quote_is_answered_by_a_test_a_page_or_a_decision() -> None:
    """No quote is followed by words alone."""
    unanswered = [
        quote for quote, answer in answers(TEXT) if not NODE_ID.search(answer) and not re.search(r"\]\([^)]+\)", answer)
    ]
    assert unanswered == []


@pytest.mark.parametrize("node_id", sorted({f"{path}::{name}" for path, name in NODE_ID.findall(TEXT)}))
def test_each_test_that_is_named_exists(node_id: str) -> None:
    """A test that was renamed or moved is named anew."""
    path, _, name = node_id.partition("::")
    assert name.startswith("test_")
    assert name in functions(CHECKOUT / path)


def test_each_page_that_is_named_exists() -> None:
    """Decisions, pages of the docs and their folders."""
    targets = {PAGE.parent / target for target in LINK.findall(TEXT)}
    assert len(targets) > 20
    assert [str(target) for target in targets if not target.exists()] == []


def test_nothing_is_named_in_a_way_that_these_tests_pass_over() -> None:
    """Everything in backquotes that looks like a test is a node id."""
    spans = re.findall(r"`([^`\n]*test_[^`\n]*)`", re.sub(r"^>.*$", "", TEXT, flags=re.MULTILINE))
    assert [span for span in spans if not NODE_ID.fullmatch(f"`{span}`")] == []
