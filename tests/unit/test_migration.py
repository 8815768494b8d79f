"""The pure parts of the migration: what is asked, what an item is, what the record says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.config import load_config
from streams_queue.errors import UsageError
from streams_queue.keys import PLAN_LIST, PLAN_PROCESSING_LIST
from streams_queue.migration import Asked, Processing, ProcessingMode, Tally, parse_processing
from streams_queue.migration.asked import ALL
from streams_queue.migration.exporting import as_line
from streams_queue.migration.judging import Judge, Unfit
from streams_queue.migration.record import read_record
from tests.support.builders import memory_config


@pytest.mark.parametrize(
    ("text", "processing"),
    [
        ("aside", Processing()),
        ("leave", Processing(ProcessingMode.LEAVE)),
        ("requeue", Processing(ProcessingMode.REQUEUE, ALL)),
        ("newest:0", Processing(ProcessingMode.NEWEST, 0)),
        ("newest:25", Processing(ProcessingMode.NEWEST, 25)),
        ("export", Processing(ProcessingMode.EXPORT, file=Path("gitbridge-processing.jsonl"))),
        ("export:a:b.jsonl", Processing(ProcessingMode.EXPORT, file=Path("a:b.jsonl"))),
    ],
)
def test_what_is_asked_for_the_processing_list(text: str, processing: Processing) -> None:
    """Read, and written as it is in the record."""
    assert parse_processing(text, PLAN_PROCESSING_LIST) == processing
    assert parse_processing(str(processing), PLAN_PROCESSING_LIST) == processing


@pytest.mark.parametrize(
    "text", ["", "all", "newest", "newest:", "newest:-1", "newest:x", "aside:1", "export:", "requeue:"]
)
def test_anything_else_is_an_error_that_says_what_there_is(text: str) -> None:
    """And what was given."""
    with pytest.raises(UsageError, match=r"aside, requeue, newest:N, export\[:FILE\] or leave"):
        parse_processing(text, PLAN_PROCESSING_LIST)


def test_the_lists_are_the_plans_unless_told() -> None:
    """And what is set aside is beside them."""
    asked = Asked()
    assert (asked.source, asked.processing_list) == (PLAN_LIST, PLAN_PROCESSING_LIST)
    assert (asked.set_aside_key, asked.processing_set_aside_key) == (
        f"{PLAN_LIST}:set-aside",
        f"{PLAN_PROCESSING_LIST}:set-aside",
    )


@pytest.mark.parametrize(
    "options",
    [
        {"source": ""},
        {"source": "a", "processing_list": "a"},
        {"source": "a", "set_aside": "a"},
        {"source": "a", "set_aside": "a:migration"},
        {"source": "a", "processing_list": "a:on-the-way"},
        {"processing_list": "b", "processing_set_aside": "b"},
    ],
)
def test_one_key_is_one_thing(options: dict[str, Any]) -> None:
    """Else a migration would move in circles."""
    with pytest.raises(UsageError):
        Asked(**options).check()


def test_what_is_set_aside_may_be_in_one_place() -> None:
    """Of both lists."""
    Asked(set_aside="aside", processing_set_aside="aside").check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_whatever_the_plans_producers_push_is_an_event(payload: dict[str, Any]) -> None:
    """As json.dumps writes it, and the bytes stay as they are."""
    item = json.dumps(payload).encode()
    (event,) = judge().judge([item], "id")
    assert not isinstance(event, Unfit)
    assert (event.event_id, event.payload, event.meta) == ("id-0", item, b'{"v":1}')


def judge(**queue: Any) -> Judge:
    """Return a judge for a queue."""
    return Judge(load_config(memory_config(**queue), require=("max_size", "timeout")))


def test_an_items_own_size_counts() -> None:
    """Not that of the same written shorter or longer."""
    item = b'{"a": 1e5}'
    (fits,) = judge(max_event_bytes=len(item)).judge([item], "id")
    (does_not,) = judge(max_event_bytes=len(item) - 1).judge([item], "id")
    assert not isinstance(fits, Unfit)
    assert does_not == Unfit("too_large", "it is 10 bytes; max_event_bytes is 9")


@given(st.binary(max_size=30))
def test_nothing_of_an_item_is_in_what_is_wrong_with_it(content: bytes) -> None:
    """It may be a secret."""
    (unfit,) = judge().judge([b"\xff hunter2 " + content], "id")
    assert isinstance(unfit, Unfit)
    assert "hunter2" not in unfit.error


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value, indent=1).encode()))
def test_an_exported_item_is_one_line_from_which_it_can_be_had(item: bytes) -> None:
    """JSON as it is, but for line breaks; anything else as a string."""
    line = as_line(item)
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    try:
        assert json.loads(line) == json.loads(item)
    except (ValueError, UnicodeDecodeError):
        assert json.loads(line).encode("utf-8", "surrogateescape") == item


def test_the_record_tells_what_others_did_since_a_script_looked() -> None:
    """Each list by itself, and what is on the way belongs to the list that it is from."""
    fields = {
        "id": "x",
        "queue": "q",
        "asked": "newest:3",
        "producer": "p",
        "sequence": "4",
        "staged": "processing",
        "processing_list": "l",
        "set_aside": "a",
        "processing_set_aside": "b",
        "requeue_left": "1",
        "aside_left": "2",
        "unfit_placeholder": "5",
        "unfit_too_large": "1",
        "waiting_found": "10",
        "waiting_length": "7",
        "waiting_others": "2",
        "waiting_moved": "5",
        "processing_found": "9",
        "processing_length": "3",
        "processing_aside": "4",
    }
    record = read_record([[part.encode() for pair in fields.items() for part in pair], 6, 3, 2])
    assert record.waiting == Tally(found=10, others=1, moved=5, left=6)
    assert record.waiting.adds_up
    assert record.processing == Tally(found=9, set_aside=4, on_the_way=2, left=3)
    assert (record.requeue_left, record.aside_left, record.on_the_way, record.exported) == (1, 2, 2, False)
    assert dict(record.unfit) == {"placeholder": 5, "too_large": 1}
    assert record.lists == ("l", "a", "b")


def test_a_tally_that_does_not_add_up_says_so() -> None:
    """One item is missing."""
    assert not Tally(found=10, moved=5, set_aside=1, on_the_way=1, left=2).adds_up
