"""A script that finds nothing to do writes nothing, not even a count of 0: such a write may be refused for memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripts_alone import GROUP, ME, ScriptsAlone

pytestmark = pytest.mark.integration

GONE = "1-1"
CALLS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "ack": ((GROUP, GONE), 0),
    "adopt": ((GROUP, ME, 10), [[], 0, 0]),
    "dead_ids": ((10,), []),
    "dead_letter": ((GROUP, ME, GONE, 1, "rejected", "", 100, "refuse", 1000), b"gone"),
    "nack": ((GROUP, ME, GONE, 1, 1000, 1), b"gone"),
    "open": ((GROUP, 1, "first", "second", 0), [0, 0, 1, b"first", b""]),
    "purge": ((GROUP, 10, 100, "refuse"), [0, 0]),
    "purge_dead": ((), 0),
    "redrive": ((100, GONE), [0, 0]),
    "release": ((GROUP, ME, GONE, 1), [b"gone"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_on_an_empty_queue_a_script_changes_nothing(name: str, alone: ScriptsAlone) -> None:
    """Each verb on a queue that is open and holds no event."""
    args, expected = CALLS[name]
    before = alone.dump()

    assert alone.run(name, *args) == expected
    assert alone.dump() == before


def test_a_round_of_housekeeping_leaves_times_only(alone: ScriptsAlone) -> None:
    """When it swept, and that somebody is alive."""
    alone.run("maintain", GROUP, ME, 1000, 10, 1, 0, 0, 4, 100, "refuse", 1000, 10**15, 0)

    assert set(alone.raw.hgetall(alone.keys.stats)) == {b"schema", b"lifetime", b"alive_ms", b"swept_ms"}
    assert set(alone.dump()) == {alone.keys.stream, alone.keys.stats}


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ({"max_size": 0, "overflow": "block"}, set()),
        ({"max_size": 0}, {b"rejected"}),
        ({"specials": "1,,known;", "buckets": ["1"]}, {b"duplicates"}),
        ({}, {b"enqueued"}),
    ],
    ids=["waits", "refused", "duplicate", "accepted"],
)
def test_a_batch_counts_only_what_became_of_it(
    options: dict[str, Any], counted: set[bytes], alone: ScriptsAlone
) -> None:
    """One kind of outcome, one count."""
    alone.raw.sadd(alone.bucket("1"), "known")

    alone.enqueue("a", **options)

    assert set(alone.raw.hgetall(alone.keys.stats)) - {b"schema", b"lifetime"} == counted
