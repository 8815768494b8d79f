"""What a plug-in can watch: one small protocol, and a guard that keeps a broken plug-in from being felt."""
# ruff: noqa: ARG002, RET501 - bodies that do nothing; a type checker takes empty ones of a protocol for abstract

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from streams_queue.errors import BackendError
from streams_queue.messages import Delivery

logger = logging.getLogger(__name__)


@runtime_checkable
class Observer(Protocol):
    """Is told what happens in a queue. Calls are synchronous and on the hot path: return quickly, never block.

    Derive from it and override what you need; every method does nothing by default. They may be called from the
    event loop's thread or, for leases and operations, from the keeper's. One that raises is logged, never felt. What is
    not overridden is not called, and costs nothing.
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

    def settled_together(self, count: int, outcome: str, traced: Sequence[Delivery]) -> None:
        """The same as `settled`, for all that one reply of the server was about: for who counts, and pays per call.

        `traced` are those among them whose events carry headers.
        """
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

    def reclaimed(self, count: int) -> None:
        """`count` events of consumers that are gone were taken over, to be handed out here."""
        return None

    def operation(self, name: str, seconds: float | None, error: BackendError | None) -> None:
        """A round trip to the server is over, with `error` if it failed; `seconds` is None for one that waits."""
        return None

    def handling(self, delivery: Delivery) -> None:
        """A worker is about to run the handler of an event that carries headers, in this task and context."""
        return None

    def handled(self, delivery: Delivery, seconds: float, end: str, error: BaseException | None) -> None:
        """The handler of `handling` has run, in the same task; `end` is a field of WorkerCounts.

        Not called if the worker itself is cancelled meanwhile.
        """
        return None

    def handled_together(self, seconds: Sequence[float], end: str) -> None:
        """So long took several runs of a worker's handler that ended alike, of events with headers and without."""
        return None

    def fallback_on(self, reason: str) -> None:
        """Events are held locally from now on, because the server cannot take them."""
        return None

    def fallback_off(self, drained: int) -> None:
        """The server takes over again, after `drained` locally held events were moved to it."""
        return None


class Observers(Observer):
    """Passes every call on to those of several observers that listen to it, and survives each of them.

    Attributes:
        watch_handed_out: Whether anybody does so at `handed_out`: what nobody hears need not be told of each event.
        watch_settled: The same of `settled` and `settled_together`; either is told of what the other is called with.
        watch_each_settled: The same of `settled` alone, which is told of events without headers, too.
        watch_handlers: The same of `handling`, `handled` and `handled_together`.
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        told = tuple(observers)
        self._listening = {name: tuple(_listening(told, name)) for name in _CALLS}
        # Of each event, where a look into the table would be felt.
        self._handed_out, self._settled = self._listening["handed_out"], self._listening["settled"]
        self._settled_together = self._listening["settled_together"]
        self.watch_handed_out = bool(self._handed_out)
        self.watch_each_settled = bool(self._settled)
        self.watch_settled = bool(self._settled or self._settled_together)
        self.watch_handlers = any(self._listening[name] for name in ("handling", "handled", "handled_together"))

    def timing(self, name: str, *, waits: bool = False) -> AbstractContextManager[object]:
        """Tell of the round trip that is made inside as an `operation`; free of cost when nobody listens.

        Args:
            name: Of the operation.
            waits: It waits for events, so that only its failure says anything of the server.
        """
        return _Timing(self, name, waits) if self._listening["operation"] else _UNTIMED

    def telling(self, name: str, then: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return `then`, which is called with a reply, and before it tells of the `operation` that begins now."""
        if not self._listening["operation"]:
            return then
        began = time.perf_counter()

        def told(reply: Any) -> None:
            error = reply if isinstance(reply, BackendError) else None
            self._tell("operation", name, time.perf_counter() - began, error)
            then(reply)

        return told

    def _tell(self, method: str, *args: object) -> None:
        for call in self._listening[method]:
            try:
                call(*args)
            except Exception:  # noqa: BLE001 - logged there
                _failed(method)

    def accepted(self, count: int) -> None:  # noqa: D102 - as in Observer, here and below
        self._tell("accepted", count)

    def rejected(self, count: int) -> None:  # noqa: D102
        self._tell("rejected", count)

    def handed_out(self, delivery: Delivery) -> None:  # noqa: D102
        for call in self._handed_out:
            try:
                call(delivery)
            except Exception:  # noqa: BLE001 - logged there
                _failed("handed_out")

    def settled(self, delivery: Delivery, outcome: str) -> None:  # noqa: D102
        for call in self._settled:
            try:
                call(delivery, outcome)
            except Exception:  # noqa: BLE001 - logged there
                _failed("settled")
        if self._settled_together:
            self._tell("settled_together", 1, outcome, _traced((delivery,)))

    def settled_together(self, count: int, outcome: str, traced: Sequence[Delivery]) -> None:
        """Tell of `count` settlements; `traced` has all of them if somebody wants each, else those with headers."""
        for delivery in traced if self._settled else ():
            self._tell("settled", delivery, outcome)
        self._tell("settled_together", count, outcome, _traced(traced))

    def dead(self, event_id: str, reason: str) -> None:  # noqa: D102
        self._tell("dead", event_id, reason)

    def lost(self, count: int, reason: str) -> None:  # noqa: D102
        self._tell("lost", count, reason)

    def state_lost(self, detail: str) -> None:  # noqa: D102
        self._tell("state_lost", detail)

    def lease_lost(self, delivery: Delivery) -> None:  # noqa: D102
        self._tell("lease_lost", delivery)

    def reclaimed(self, count: int) -> None:  # noqa: D102
        self._tell("reclaimed", count)

    def operation(self, name: str, seconds: float | None, error: BackendError | None) -> None:  # noqa: D102
        self._tell("operation", name, seconds, error)

    def handling(self, delivery: Delivery) -> None:  # noqa: D102
        self._tell("handling", delivery)

    def handled(self, delivery: Delivery, seconds: float, end: str, error: BaseException | None) -> None:  # noqa: D102
        self._tell("handled", delivery, seconds, end, error)

    def handled_together(self, seconds: Sequence[float], end: str) -> None:  # noqa: D102
        self._tell("handled_together", seconds, end)

    def fallback_on(self, reason: str) -> None:  # noqa: D102
        self._tell("fallback_on", reason)

    def fallback_off(self, drained: int) -> None:  # noqa: D102
        self._tell("fallback_off", drained)


class _Timing:
    """Measures one round trip; what is cancelled, or fails for a reason of its own, is not told."""

    __slots__ = ("_began", "_name", "_observers", "_waits")

    def __init__(self, observers: Observers, name: str, waits: bool) -> None:
        self._observers, self._name, self._waits = observers, name, waits

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None or isinstance(exc, BackendError):
            seconds = None if self._waits else time.perf_counter() - self._began
            self._observers.operation(self._name, seconds, exc)


def _traced(deliveries: Sequence[Delivery]) -> list[Delivery]:
    return [delivery for delivery in deliveries if delivery.headers]


_UNTIMED = nullcontext()
_CALLS = tuple(name for name, value in vars(Observer).items() if name[0] != "_" and callable(value))


def _listening(observers: Iterable[Observer], name: str) -> Iterator[Callable[..., None]]:
    """Yield the methods of those observers that do something at a call."""
    for observer in observers:
        try:
            method = getattr(observer, name, None)
        except Exception:  # noqa: BLE001 - as with every call: it is told, and what it raises then is logged
            method = partial(_ask_again, observer, name)
        if method is not None and getattr(method, "__func__", None) is not getattr(Observer, name):
            yield method


def _ask_again(observer: Observer, name: str, *args: object) -> None:
    getattr(observer, name)(*args)


def _failed(method: str) -> None:
    logger.error(
        "An observer failed in %s; the queue goes on", method, exc_info=sys.exc_info(), extra={"method": method}
    )
