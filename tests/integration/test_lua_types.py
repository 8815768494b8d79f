"""Redis does not roll back, so a script looks at all keys that can refuse a write before it writes to any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions

from tests.support.scripts_alone import DAY_MS, GROUP, ME, OTHER, SCRIPT_KEYS, ScriptsAlone

pytestmark = pytest.mark.integration

LIMITS = (100, "refuse")
# Arguments with which every script writes all that it can, for the state that `busy` makes.
ARGUMENTS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "ack": lambda held: (GROUP, held),
    "adopt": lambda held: (GROUP, ME, 10),
    "dead_ids": lambda held: (10,),
    "dead_letter": lambda held: (GROUP, ME, held, 1, "rejected", "no", *LIMITS, 1000),
    "enqueue": lambda held: (
        *(GROUP, "producer-1", 9, 8, 100, "reject", DAY_MS, DAY_MS, *LIMITS, "2,1000,;"),
        *("x", "{}", "{}", "y", "{}", "{}"),
    ),
    "extend": lambda held: (GROUP, ME, 1000, held, 1),
    "in_flight": lambda held: (GROUP, "-", 10, 1),
    "leave": lambda held: (GROUP, "idle"),
    "maintain": lambda held: (GROUP, ME, 1000, 10, 1, 0, 1, 4, *LIMITS, 1000, 0, 0),
    "nack": lambda held: (GROUP, ME, held, 1, 1000, 1),
    "open": lambda held: (GROUP, 1, "first", "second", 0),
    "peek": lambda held: (GROUP, 10),
    "purge": lambda held: (GROUP, 10, *LIMITS),
    "purge_dead": lambda held: (),
    "redrive": lambda held: (100, "5-5"),
    "release": lambda held: (GROUP, ME, held, 1),
    "report": lambda held: (ME, 1000),
    "stats": lambda held: (GROUP,),
}
# `leave` deletes its producer's record whatever it is.
INDIFFERENT = {("leave", "producer")}
READS_ONLY = {"dead_ids", "in_flight", "open", "peek", "stats"}
PLACES = [
    pytest.param(name, key, id=f"{name}-{key}")
    for name, keys in SCRIPT_KEYS.items()
    for key in keys
    if (name, key) not in INDIFFERENT
]


@pytest.fixture
def held(alone: ScriptsAlone) -> str:
    """Events in every state: the entry id of one that this consumer holds, beside one that another left behind."""
    alone.enqueue("a", "b", "c")
    (mine,), (left,) = alone.read(1), alone.read(1, OTHER)
    alone.claim(left, OTHER, idle_ms=60_000)
    alone.claim(mine, ME, idle_ms=30_000)
    alone.delay("due", 1)
    alone.delay("later", alone.now_ms() + 60_000)
    alone.bury("d", dead_id="5-5")
    alone.raw.xgroup_createconsumer(alone.keys.stream, GROUP, "idle")
    return mine


@pytest.mark.parametrize(("name", "key"), PLACES)
def test_a_key_of_another_type_stops_a_script_before_its_first_write(
    name: str, key: str, alone: ScriptsAlone, held: str
) -> None:
    """Whichever key it is that holds something else, the script fails and everything is as it was, leases included."""
    alone.raw.delete(alone.key(key))
    if key in ("producer", "reporter"):
        alone.raw.rpush(alone.key(key), "somebody else's")
    else:
        alone.raw.set(alone.key(key), "somebody else's")
    before = alone.dump()

    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        alone.run(name, *ARGUMENTS[name](held))

    assert alone.dump() == before
    assert key == "stream" or alone.pending()[held][2] >= 30_000


@pytest.mark.parametrize("name", [name for name in SCRIPT_KEYS if name not in READS_ONLY])
def test_the_same_arguments_write_when_all_types_are_right(name: str, alone: ScriptsAlone, held: str) -> None:
    """What the tests above call unchanged is not unchanged by chance."""
    before = alone.dump()

    alone.run(name, *ARGUMENTS[name](held))

    assert name == "adopt" or alone.dump() != before


def test_a_dedup_bucket_of_another_type_stops_enqueue_before_its_first_write(alone: ScriptsAlone) -> None:
    """Also the keys that only a batch with event ids has are looked at first."""
    alone.raw.set(alone.bucket("1"), "somebody else's")
    before = alone.dump()

    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        alone.enqueue("a", "b", specials="2,,digest;", buckets=["1", "0"])

    assert alone.dump() == before


def test_dead_letters_of_another_type_stop_drop_oldest_before_its_first_write(alone: ScriptsAlone) -> None:
    """A batch whose second event needs room is not half written when the dead letters cannot be used."""
    alone.enqueue("a")
    alone.raw.set(alone.keys.dead, "somebody else's")
    before = alone.dump()

    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        alone.enqueue("b", "c", max_size=2, overflow="drop_oldest")

    assert alone.dump() == before


def test_a_queue_that_is_gone_stops_a_settlement_before_its_first_write(alone: ScriptsAlone) -> None:
    """Without a group there is nothing to settle, and nothing is counted or written."""
    alone.raw.delete(alone.keys.stream)
    before = alone.dump()

    for name in ("adopt", "dead_letter", "extend", "maintain", "nack", "release"):
        with pytest.raises(redis.exceptions.ResponseError, match="NOGROUP"):
            alone.run(name, *ARGUMENTS[name]("1-1"))

    assert alone.dump() == before
