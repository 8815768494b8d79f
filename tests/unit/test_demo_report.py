"""What the demo says at its end, and what an operator's commands are shown as."""

from __future__ import annotations

import json

import pytest

from streams_queue.cli.demo import as_json_object, print_report
from streams_queue.cli.output import printable, shortened
from streams_queue.demo.scenario import DemoResult
from streams_queue.demo.server_view import Look, readable


def result(*lost: str) -> DemoResult:
    """Return a result in which these events are lost."""
    looks = (Look("redis-cli XINFO GROUPS q", ("name processors · pending 3",)),)
    return DemoResult(
        enqueued=100,
        processed=100 - len(lost),
        repeated=0,
        redelivered=7,
        dead=0,
        lost=lost,
        seconds=2.0,
        held_by_killed=16,
        looks=looks,
    )


@pytest.mark.parametrize("lost", [(), ("id-1",)])
def test_the_last_line_is_the_gist(lost: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads one line only reads how many were lost and how many came again."""
    print_report(result(*lost))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"lost {len(lost)}, redelivered 7"
    assert any("id-1" in line for line in lines) == bool(lost)
    assert any(line.startswith("$ redis-cli XINFO GROUPS") for line in lines)


def test_the_machines_answer_has_counts_and_ids() -> None:
    """As JSON, lost is a number as in the table, and the ids are beside it."""
    answer = json.loads(json.dumps(as_json_object(result("id-1"))))
    assert (answer["lost"], answer["lost_ids"], answer["redelivered"]) == (1, ["id-1"], 7)
    assert answer["events_per_second"] == 50


def test_xinfo_is_shown_without_payloads() -> None:
    """An entry is shown by its id; groups and consumers by a line each."""
    entry = [b"1-0", [b"id", b"x", b"payload", b"y" * 10_000, b"meta", b"{}"]]
    assert list(readable([b"length", 2, b"first-entry", entry, b"last-entry", None])) == [
        "length 2 · first-entry 1-0 · last-entry (nil)"
    ]
    rows = [[b"name", b"a", b"pending", 1], [b"name", b"b", b"pending", 0]]
    assert list(readable(rows)) == ["name a · pending 1", "name b · pending 0"]
    assert list(readable([])) == []


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    """Escape sequences, bells, newlines and direction overrides are shown as escapes; letters of all scripts stay."""
    assert printable("\x1b]0;owned\x07\r\n\x9b31m\u202e") == "\\x1b]0;owned\\x07\\r\\n\\x9b31m\\u202e"
    assert printable("łódź 日本 ✅ [red]") == "łódź 日本 ✅ [red]"
    assert len(shortened({"long": "x" * 1_000})) == 100
