"""What a plug-in can watch: one small protocol, and a guard that keeps a broken plug-in from being felt."""
# ruff: noqa: ARG002, RET501 - bodies that do nothing; a type checker takes empty ones of a protocol for abstract

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from streams_queue.messages import Delivery

logger = logging.getLogger(__name__)


@runtime_checkable
class Observer(Protocol):
    """Is told what happens in a queue. Calls are synchronous and on the hot path: return quickly, never block.

    Derive from it and override what you need; every method does nothing by default. They may be called from the
    event loop's thread or, for leases, from the keeper's. One that raises is logged, never felt.
    """

    def accepted(self, count: int) -> None:
        """`count` events were accepted by the queue."""
        return None

    def rejected(self, count: int) -> None:
        """`count` events were refused because the queue was full."""
        return None

    def handed_out(self, delivery: Delivery) -> None:
        """An event was handed to a caller."""
        return None

    def settled(self, delivery: Delivery, outcome: str) -> None:
        """A delivery ended here; `outcome` is acked, retried, released or dead."""
        return None

    def dead(self, event_id: str, reason: str) -> None:
        """An event became a dead letter."""
        return None

    def lost(self, count: int, reason: str) -> None:
        """`count` events are known to be gone from the server although nobody settled them."""
        return None

    def state_lost(self, detail: str) -> None:
        """The server lost the queue's stream or group (restarted empty, FLUSHALL, eviction, failover)."""
        return None

    def lease_lost(self, delivery: Delivery) -> None:
        """A delivery in hand no longer belongs to this consumer."""
        return None

    def fallback_on(self, reason: str) -> None:
        """Events are held locally from now on, because the server cannot take them."""
        return None

    def fallback_off(self, drained: int) -> None:
        """The server takes over again, after `drained` locally held events were moved to it."""
        return None


class Observers(Observer):
    """Passes every call on to several observers and survives each of them."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)
        # Whether anybody watches: what is told of each single event need not be told to nobody.
        self.watch = bool(self._observers)

    def _tell(self, method: str, *args: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, method)(*args)
            except Exception:
                logger.exception("An observer failed in %s; the queue goes on", method)

    def accepted(self, count: int) -> None:  # noqa: D102 - as in Observer, here and below
        self._tell("accepted", count)

    def rejected(self, count: int) -> None:  # noqa: D102
        self._tell("rejected", count)

    def handed_out(self, delivery: Delivery) -> None:  # noqa: D102
        self._tell("handed_out", delivery)

    def settled(self, delivery: Delivery, outcome: str) -> None:  # noqa: D102
        self._tell("settled", delivery, outcome)

    def dead(self, event_id: str, reason: str) -> None:  # noqa: D102
        self._tell("dead", event_id, reason)

    def lost(self, count: int, reason: str) -> None:  # noqa: D102
        self._tell("lost", count, reason)

    def state_lost(self, detail: str) -> None:  # noqa: D102
        self._tell("state_lost", detail)

    def lease_lost(self, delivery: Delivery) -> None:  # noqa: D102
        self._tell("lease_lost", delivery)

    def fallback_on(self, reason: str) -> None:  # noqa: D102
        self._tell("fallback_on", reason)

    def fallback_off(self, drained: int) -> None:  # noqa: D102
        self._tell("fallback_off", drained)
