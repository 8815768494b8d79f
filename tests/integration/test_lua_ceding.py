"""lua/cede and lua/take_back: an event id belongs to this queue or is left to another one, whoever asks when."""

from __future__ import annotations

from typing import Any

import pytest
import redis.exceptions

from tests.support.scripts_alone import DAY_MS, ScriptsAlone

pytestmark = pytest.mark.integration

NOW, BEFORE = "9", "8"


class Ids:
    """The two buckets that a call looks into, the current one first."""

    def __init__(self, alone: ScriptsAlone) -> None:
        self.alone = alone
        self.stats = alone.keys.stats
        self.dedup = [alone.bucket(NOW), alone.bucket(BEFORE)]
        self.ceded = [f"{alone.keys.stream}:ceded:{bucket}" for bucket in (NOW, BEFORE)]

    def cede(self, *digests: str, refused: int = 0) -> list[int]:
        """Run the script."""
        keys = [self.stats, *self.dedup, *self.ceded]
        return list(self.alone.run("cede", DAY_MS, refused, *digests, more_keys=keys))

    def take_back(self, *digests: str) -> int:
        """Run the other script."""
        return int(self.alone.run("take_back", *digests, more_keys=[*self.dedup, *self.ceded]))

    def enqueue(self, digest: str) -> Any:
        """Add an event with this id; D: it is a duplicate."""
        return self.alone.enqueue("e", specials=f"1,,{digest};", buckets=[NOW, BEFORE])[2]

    def duplicates(self) -> int:
        """Return how many were counted."""
        return int(self.alone.raw.hget(self.stats, "duplicates") or 0)


@pytest.fixture
def ids(alone: ScriptsAlone) -> Ids:
    """The buckets of this test's queue."""
    return Ids(alone)


def test_an_id_that_is_ceded_is_a_duplicate_here(ids: Ids) -> None:
    """And stays ceded, also when its bucket is no longer the current one."""
    assert ids.cede("a", "b") == [1, 1]
    assert ids.enqueue("a") == b"D"
    ids.dedup.reverse()
    ids.ceded.reverse()
    assert ids.cede("a") == [1]
    assert ids.alone.raw.exists(ids.ceded[0]) == 0
    assert 0 < ids.alone.raw.pttl(ids.ceded[1]) <= DAY_MS
    assert 0 < ids.alone.raw.pttl(ids.dedup[1]) <= DAY_MS


def test_an_id_that_came_in_here_is_not_ceded(ids: Ids) -> None:
    """It is counted as a duplicate, and nothing else is written; others of the same call are ceded."""
    ids.enqueue("a")
    assert ids.cede("a", "b") == [0, 1]
    assert ids.alone.raw.hgetall(ids.ceded[0]) == {b"b": b"1"}
    assert ids.duplicates() == 1


def test_what_was_refused_here_and_is_ceded_was_no_duplicate(ids: Ids) -> None:
    """The other queue judges it; one that is not ceded has been counted already."""
    ids.enqueue("a")
    ids.cede("b")
    assert (ids.enqueue("a"), ids.enqueue("b"), ids.duplicates()) == (b"D", b"D", 2)
    assert ids.cede("a", "b", refused=1) == [0, 1]
    assert ids.duplicates() == 1


def test_an_id_is_free_again_when_nobody_got_it_to_the_other_queue(ids: Ids) -> None:
    """Each attempt that failed is taken back; with the last one the id is as if it had never been ceded."""
    before = ids.alone.dump()
    ids.cede("a")
    ids.cede("a", "a")
    assert [ids.take_back("a") for _ in range(4)] == [0, 0, 1, 0]
    assert ids.alone.dump() == before
    assert ids.enqueue("a") != b"D"


def test_an_id_that_came_in_here_cannot_be_taken_back(ids: Ids) -> None:
    """That it was never ceded is no reason to forget it."""
    ids.enqueue("a")
    assert ids.take_back("a") == 0
    assert ids.enqueue("a") == b"D"


@pytest.mark.parametrize("place", ["stats", "dedup", "ceded"])
def test_a_key_of_another_type_stops_ceding_before_its_first_write(ids: Ids, place: str) -> None:
    """A script does not roll back."""
    key = {"stats": ids.stats, "dedup": ids.dedup[1], "ceded": ids.ceded[1]}[place]
    ids.alone.raw.delete(key)
    ids.alone.raw.set(key, "somebody else's")
    before = ids.alone.dump()
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        ids.cede("a", "b")
    assert ids.alone.dump() == before
