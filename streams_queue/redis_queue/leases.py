"""What this consumer holds: one lease per pending entry, shared between the event loop and the keeper's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Any

import msgspec

from streams_queue.messages import Delivery


class Stage(Enum):
    """How far a held event has come."""

    BUFFERED = auto()
    IN_HAND = auto()
    SETTLING = auto()
    SETTLED = auto()
    LOST = auto()


class Lease(msgspec.Struct, eq=False):
    """One pending entry that this consumer owns, until a settlement is confirmed.

    Attributes:
        session: Who holds it: the consumer that the server knows as the owner.
        entry_id: Of the pending entry.
        count: Delivery count of the pending entry; with the consumer's name, the fence.
        fields: The entry as it is stored, until it is handed out; empty for one that never is.
        delivery: What a caller gets; None before that, for an entry that is never handed out, and when it is done.
        stage: Prefetched, handed out, or on its way out.
        alone: Whether nothing else may run in this consumer meanwhile.
        since: When it was taken, monotonic seconds.
    """

    session: Any
    entry_id: str
    count: int
    fields: Sequence[bytes] = ()
    delivery: Delivery | None = None
    stage: Stage = Stage.BUFFERED
    alone: bool = False
    since: float = msgspec.field(default_factory=time.monotonic)

    def __repr__(self) -> str:
        """Name the entry; what lies in it is nobody's business."""
        return f"Lease({self.entry_id!r}, count={self.count}, stage={self.stage.name})"


class Leases:
    """The leases by entry id. Changed by the event loop only; the keeper takes snapshots.

    Attributes:
        in_hand: How many events are handed out and not settled.
        alone: The lease that must run with nothing beside it, if there is one.
        on_room: Called when the last event in hand, or the one that ran alone, is settled.
    """

    def __init__(self) -> None:
        self._held: dict[str, Lease] = {}
        self._disowned: dict[str, None] = {}
        self.in_hand = 0
        self.alone: Lease | None = None
        self.on_room: Callable[[], None] = lambda: None

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def get(self, entry_id: str) -> Lease | None:
        """Return the lease on an entry, if this consumer holds it."""
        return self._held.get(entry_id)

    def snapshot(self) -> list[Lease]:
        """Return all leases; safe to call from the keeper's thread (copying a dict is one step of the interpreter)."""
        return list(self._held.copy().values())

    def ids(self) -> list[str]:
        """Return the ids of all entries that this consumer knows to hold."""
        return list(self._held)

    def disowned(self) -> list[str]:
        """Return the ids of entries that this consumer still owns on the server but will never settle."""
        return list(self._disowned)

    def forget_disowned(self, entry_ids: Iterable[str]) -> None:
        """Note that others have taken over, or finished, what this consumer had disowned."""
        for entry_id in entry_ids:
            self._disowned.pop(entry_id, None)

    def hold(self, *leases: Lease) -> None:
        """Note pending entries as ours."""
        held, disowned = self._held, self._disowned
        for lease in leases:
            held[lease.entry_id] = lease
            if disowned:
                disowned.pop(lease.entry_id, None)
            if lease.alone:
                self.alone = lease

    def hand_out(self, lease: Lease, now: float) -> None:
        """Note that a caller has it now, in monotonic seconds."""
        lease.stage, lease.since = Stage.IN_HAND, now
        self.in_hand += 1

    def settling(self, lease: Lease) -> bool:
        """Note that its settlement is on the way; False if it is not held (any more) or already on the way."""
        if self._held.get(lease.entry_id) is not lease or lease.stage is Stage.SETTLING:
            return False
        self._leave_hand(lease)
        lease.stage = Stage.SETTLING
        return True

    def settled(self, lease: Lease) -> None:
        """Forget it: the server has confirmed its settlement."""
        self._drop(lease, Stage.SETTLED)

    def lost(self, lease: Lease) -> bool:
        """Forget it: it is no longer ours. False if that was known."""
        return self._drop(lease, Stage.LOST)

    def disown(self, lease: Lease) -> bool:
        """Stop holding an entry without settling it: it is reclaimed when its lease runs out, by this consumer too."""
        if not self._drop(lease, Stage.LOST):
            return False
        self._disowned[lease.entry_id] = None
        return True

    def _drop(self, lease: Lease, stage: Stage) -> bool:
        held = self._held.get(lease.entry_id) is lease
        if held:
            del self._held[lease.entry_id]
            self._leave_hand(lease)
            self._end_alone(lease)
        lease.stage = stage
        return held

    def _leave_hand(self, lease: Lease) -> None:
        if lease.stage is Stage.IN_HAND:
            self.in_hand -= 1
            if self.in_hand == 0 and self.alone is not lease:
                self.on_room()

    def _end_alone(self, lease: Lease) -> None:
        # Not while its settlement is on the way: what runs next may kill this process, and bury it as well.
        if self.alone is lease:
            self.alone = None
            self.on_room()
