"""What a consumer holds: each step of a lease, and who is told when its hands are empty."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streams_queue.redis_queue.leases import Lease, Leases, Stage


def held(leases: Leases, entry_id: str, *, alone: bool = False) -> Lease:
    """Hold an entry and return its lease."""
    lease = Lease(session=None, entry_id=entry_id, count=1, alone=alone)
    leases.hold(lease)
    return lease


def in_hand(leases: Leases, entry_id: str, *, alone: bool = False) -> Lease:
    """Hold an entry and hand it out."""
    lease = held(leases, entry_id, alone=alone)
    leases.hand_out(lease, 0.0)
    return lease


class Watched(Leases):
    """Leases that note how many events are in hand whenever they say that there is room."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: list[int] = []
        self.on_room = lambda: self.rooms.append(self.in_hand)


@pytest.fixture
def leases() -> Watched:
    """Nothing is held yet."""
    return Watched()


def test_a_prefetched_entry_is_held_but_not_in_hand(leases: Watched) -> None:
    """The keeper renews it, and no caller has it."""
    lease = held(leases, "1-1")
    assert ("1-1" in leases, len(leases), leases.get("1-1")) == (True, 1, lease)
    assert (leases.ids(), leases.snapshot(), leases.in_hand) == (["1-1"], [lease], 0)
    assert lease.stage is Stage.BUFFERED


def test_a_life_from_buffer_to_settled(leases: Watched) -> None:
    """It counts as in hand until its settlement is on the way, and is held until that is confirmed."""
    lease = in_hand(leases, "1-1")
    assert (lease.stage, leases.in_hand) == (Stage.IN_HAND, 1)
    assert leases.settling(lease)
    assert (lease.stage, leases.in_hand, len(leases)) == (Stage.SETTLING, 0, 1)
    leases.settled(lease)
    assert (lease.stage, leases.in_hand, len(leases)) == (Stage.SETTLED, 0, 0)
    assert leases.get("1-1") is None
    assert leases.rooms == [0]


def test_an_event_is_settled_once(leases: Watched) -> None:
    """Whoever comes second is told that it is on its way, or gone."""
    lease = in_hand(leases, "1-1")
    assert [leases.settling(lease), leases.settling(lease)] == [True, False]
    leases.settled(lease)
    assert not leases.settling(lease)


@pytest.mark.parametrize("end", [Leases.lost, Leases.disown], ids=["lost", "disowned"])
def test_what_is_lost_cannot_be_settled(end: Callable[[Leases, Lease], bool], leases: Watched) -> None:
    """The first to notice is told so; later ones, and a settlement, are not."""
    lease = in_hand(leases, "1-1")
    assert [end(leases, lease), end(leases, lease)] == [True, False]
    assert (lease.stage, leases.in_hand, len(leases)) == (Stage.LOST, 0, 0)
    assert not leases.settling(lease)


def test_only_what_was_given_up_is_disowned(leases: Watched) -> None:
    """The server still counts it as ours until somebody, perhaps we, claims it."""
    lost, given_up = in_hand(leases, "1-1"), in_hand(leases, "2-1")
    leases.lost(lost)
    leases.disown(given_up)
    assert leases.disowned() == ["2-1"]
    held(leases, "2-1")
    assert leases.disowned() == []


def test_an_old_lease_does_not_touch_the_new_one_on_the_same_entry(leases: Watched) -> None:
    """An entry that was lost and claimed again belongs to its new lease alone."""
    old = in_hand(leases, "1-1")
    leases.lost(old)
    new = in_hand(leases, "1-1")
    assert not leases.settling(old)
    assert not leases.lost(old)
    assert not leases.disown(old)
    leases.settled(old)
    assert (leases.get("1-1"), leases.in_hand, leases.disowned()) == (new, 1, [])


def test_room_is_told_when_the_last_event_leaves(leases: Watched) -> None:
    """Not before, and not for what was only prefetched."""
    first, second, buffered = in_hand(leases, "1-1"), in_hand(leases, "2-1"), held(leases, "3-1")
    leases.settling(first)
    assert leases.rooms == []
    leases.settling(buffered)
    assert leases.rooms == []
    leases.lost(second)
    assert leases.rooms == [0]
    leases.settled(first)
    assert leases.rooms == [0]


def test_what_runs_alone_does_so_until_its_settlement_is_confirmed(leases: Watched) -> None:
    """Room is told when it goes, once, also if it never was handed out."""
    lease = in_hand(leases, "1-1", alone=True)
    assert leases.alone is lease
    held(leases, "2-1")
    assert leases.alone is lease
    leases.settling(lease)
    assert (leases.alone, leases.rooms) == (lease, [])
    leases.settled(lease)
    assert (leases.alone, leases.rooms) == (None, [0])
    leases.lost(held(leases, "3-1", alone=True))
    assert (leases.alone, leases.rooms) == (None, [0, 0])


def test_a_snapshot_stays_as_it_was_taken(leases: Watched) -> None:
    """The keeper's thread goes through it while the event loop goes on."""
    lease = held(leases, "1-1")
    snapshot = leases.snapshot()
    leases.lost(lease)
    assert snapshot == [lease]


class AnyHistory(RuleBasedStateMachine):
    """Whatever is done to leases in whatever order, the figures agree with their stages."""

    @initialize()
    def begin(self) -> None:
        self.leases, self.all = Leases(), list[Lease]()
        self.rooms = 0
        self.leases.on_room = self._room

    def _room(self) -> None:
        self.rooms += 1
        assert self.leases.alone is None or self.leases.in_hand == 0

    @rule(number=st.integers(0, 4), alone=st.booleans())
    def hold(self, number: int, alone: bool) -> None:
        """Take an entry that is not held."""
        if f"{number}-1" not in self.leases and not (alone and self.leases.alone):
            self.all.append(held(self.leases, f"{number}-1", alone=alone))

    @rule(index=st.integers(0, 30))
    def hand_out(self, index: int) -> None:
        """Hand out what is buffered."""
        if index < len(self.all) and self.all[index].stage is Stage.BUFFERED:
            self.leases.hand_out(self.all[index], 0.0)

    @rule(index=st.integers(0, 30), verb=st.sampled_from(["settling", "lost", "disown"]))
    def end(self, index: int, verb: str) -> None:
        """End any lease that there ever was."""
        if index < len(self.all):
            lease = self.all[index]
            current = self.leases.get(lease.entry_id) is lease
            expected = current and (verb != "settling" or lease.stage is not Stage.SETTLING)
            assert getattr(self.leases, verb)(lease) == expected

    @rule(index=st.integers(0, 30))
    def settled(self, index: int) -> None:
        """Confirm a settlement that is on the way."""
        if index < len(self.all) and self.all[index].stage is Stage.SETTLING:
            self.leases.settled(self.all[index])

    @invariant()
    def the_figures_agree(self) -> None:
        """Only what is held can be in hand, alone or settling."""
        if not hasattr(self, "leases"):
            return
        current = self.leases.snapshot()
        assert self.leases.in_hand == sum(lease.stage is Stage.IN_HAND for lease in current)
        assert all(lease.stage in (Stage.SETTLED, Stage.LOST) for lease in self.all if lease not in current)
        assert not set(self.leases.disowned()) & set(self.leases.ids())
        assert self.leases.alone is None or self.leases.alone in current


TestAnyHistory = AnyHistory.TestCase
