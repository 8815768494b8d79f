"""How `dequeue` settles: which asyncio task took which event, and what follows when that task goes on, ends or fails.

`dequeue` hands out bare payloads, so nobody can acknowledge them by hand. The rule is: a task that comes back for more,
or ends normally, is done with what it took before; a task that fails or is cancelled is not. This module only keeps the
books. It does no I/O: the queue says what to do with deliveries that are to be acknowledged or given back.

A queue uses it in three steps, all synchronous and in this order:

    def dequeue(self, timeout=None):           # a plain def: the calling task is taken at the call, because
        claim = self._settler.claim()          # asyncio.wait_for runs its argument in another task on Python 3.11
        return self._dequeue(claim, timeout)

    async def _dequeue(self, claim, timeout):
        self._settler.begin(claim)             # what this task took before the call is done
        delivery = await self._next(timeout)
        if delivery is None:
            return None
        self._settler.returned(claim, delivery)    # no await between this line and the return
        return delivery.payload
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streams_queue.errors import UsageError
from streams_queue.messages import Delivery

logger = logging.getLogger(__name__)

Task = asyncio.Task[Any]
Settle = Callable[[Sequence[Delivery]], None]
# An insertion-ordered set: deliveries are acknowledged in the order in which they were taken.
_Deliveries = dict[Delivery, None]


@dataclass(eq=False, slots=True)
class _Taken:
    """What one task took and has not settled; `watch` saves it when the task is destroyed without ever ending."""

    deliveries: _Deliveries = field(default_factory=dict)
    watch: weakref.ref[Task] | None = None


class Claim(msgspec.Struct, frozen=True, eq=False):
    """One call of `dequeue`: who called, and what that task had in hand at the time of the call."""

    task: Task
    earlier: tuple[Delivery, ...]


class TaskSettler:
    """Keeps which task took which event with `dequeue`, for one queue.

    A task that holds events keeps this settler alive through its done callback, so that its last events are
    acknowledged even if the queue was a local variable of the task's own coroutine. The settler must not keep the queue
    alive in turn: bound methods given as `ack_soon` and `give_back` are held weakly. `ack_at_task_end` is held as it
    is: pass something that works without the queue, such as a method of the lease keeper.

    Args:
        ack_soon: Acknowledge these with the next read; called inside a running loop.
        ack_at_task_end: Acknowledge these although no further read may follow; called from a done callback, when the
            loop may be about to close and the queue may be gone.
        give_back: Put these back, deliveries not raised; called from a done callback or inside a running loop.
    """

    def __init__(self, *, ack_soon: Settle, ack_at_task_end: Settle, give_back: Settle) -> None:
        self._ack_soon = _weakly_bound(ack_soon)
        self._ack_at_task_end = ack_at_task_end
        self._give_back = _weakly_bound(give_back)
        self._taken: weakref.WeakKeyDictionary[Task, _Taken] = weakref.WeakKeyDictionary()
        self._escaped: _Deliveries = {}
        self._leaky_code: set[object] = set()
        self._orphans: list[Delivery] = []

    def claim(self) -> Claim:
        """Note who calls `dequeue`, and what is in that task's hands; settles and takes nothing yet.

        Raises:
            UsageError: There is no current task, or this task runs a helper that has already let an event escape.
        """
        task = _current_task()
        if task is None:
            raise UsageError("dequeue settles events per asyncio task and was called outside one; use receive and ack")
        if self._leaky_code and _code_of(task) in self._leaky_code:
            raise UsageError(
                f"{_name_of(task)} returned an event that it took with dequeue, out of the task that is to settle it; "
                "use receive and ack to hand events to other tasks"
            )
        taken = self._taken.get(task)
        return Claim(task, tuple(taken.deliveries) if taken is not None else ())

    def begin(self, claim: Claim) -> None:
        """Acknowledge what the calling task had taken before the call, unless it has been settled in the meantime."""
        self._give_back_orphans()
        if not claim.earlier:
            return
        held = self._held_by(claim.task)
        done = [delivery for delivery in claim.earlier if delivery in held]
        for delivery in done:
            del held[delivery]
        if done:
            self._ack_soon(done)

    def returned(self, claim: Claim, delivery: Delivery) -> None:
        """Note that the delivery is about to be returned to the claiming task; no await may come before the return."""
        task = claim.task
        if task.done():
            # The caller is gone and left the coroutine to somebody else: whoever runs it now is the one to settle.
            task = _current_task() or task
        taken = self._taken.get(task)
        if taken is None:
            taken = self._watch(task)
        taken.deliveries[delivery] = None

    def forget(self, *deliveries: Delivery) -> None:
        """Drop deliveries that were settled by other means, or whose lease is lost; unknown ones are passed over."""
        for held in (*(taken.deliveries for taken in self._taken.values()), self._escaped):
            for delivery in deliveries:
                held.pop(delivery, None)

    def finish_current_task(self) -> None:
        """Acknowledge all that the current task holds, as when it leaves `async with` normally."""
        task = _current_task()
        taken = self._taken.get(task) if task is not None else None
        if taken is not None and taken.deliveries:
            done = list(taken.deliveries)
            taken.deliveries.clear()
            self._ack_soon(done)

    def take_all(self) -> list[Delivery]:
        """Return everything that is not acknowledged, to be given back by the caller, and forget it.

        Returns:
            The deliveries of all tasks, and those that escaped from theirs; [] if there are none.
        """
        left = [*self._escaped, *self._orphans]
        for task, taken in list(self._taken.items()):
            left.extend(taken.deliveries)
            task.remove_done_callback(self._task_ended)
        self._taken.clear()
        self._escaped.clear()
        self._orphans.clear()
        return left

    def _held_by(self, task: Task) -> _Deliveries:
        taken = self._taken.get(task)
        return taken.deliveries if taken is not None else {}

    def _watch(self, task: Task) -> _Taken:
        taken = self._taken[task] = _Taken()
        orphans, deliveries = self._orphans, taken.deliveries
        # The collector may call this in any thread, so it only notes; the next dequeue gives them back.
        taken.watch = weakref.ref(task, lambda _: orphans.extend(deliveries))
        task.add_done_callback(self._task_ended)
        return taken

    def _task_ended(self, task: Task) -> None:
        taken = self._taken.pop(task, None)
        if taken is None or not taken.deliveries:
            return
        if _failed(task):
            self._give_back(list(taken.deliveries))
        else:
            self._settle_after(task, taken.deliveries)

    def _settle_after(self, task: Task, deliveries: _Deliveries) -> None:
        """Acknowledge what a task held when it ended normally, except what it passed on as its result."""
        result = task.result()
        escaped = [delivery for delivery in deliveries if _passes_on(result, delivery.payload)]
        if escaped:
            self._keep_escaped(task, escaped)
        done = [delivery for delivery in deliveries if delivery not in self._escaped]
        if done:
            self._ack_at_task_end(done)

    def _keep_escaped(self, task: Task, escaped: Iterable[Delivery]) -> None:
        self._escaped.update(dict.fromkeys(escaped))
        self._leaky_code.add(_code_of(task))
        logger.warning(
            "%s ended and returned an event that it took with dequeue; nobody can settle it now, so it stays leased. "
            "Use receive and ack to hand events to other tasks; the next dequeue of this helper raises",
            _name_of(task),
            extra={"task": _name_of(task)},
        )

    def _give_back_orphans(self) -> None:
        if self._orphans:
            orphans = self._orphans[:]
            del self._orphans[: len(orphans)]
            self._give_back(orphans)


def _weakly_bound(settle: Settle) -> Settle:
    """Return a stand-in for a bound method that does not keep its object alive, and does nothing once it is gone."""
    if not inspect.ismethod(settle):
        return settle
    method = weakref.WeakMethod(settle)

    def call_if_alive(deliveries: Sequence[Delivery]) -> None:
        bound = method()
        if bound is not None:
            bound(deliveries)

    return call_if_alive


def _current_task() -> Task | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _code_of(task: Task) -> object:
    """Return what stays the same over all tasks that run one helper: its code, or the name of what has no code."""
    coroutine = task.get_coro()
    return getattr(coroutine, "cr_code", None) or getattr(coroutine, "__qualname__", type(coroutine))


def _name_of(task: Task) -> str:
    return getattr(task.get_coro(), "__qualname__", None) or task.get_name()


def _failed(task: Task) -> bool:
    # task.exception() would mark the exception as seen and so silence "Task exception was never retrieved".
    return task.cancelled() or getattr(task, "_exception", None) is not None


def _passes_on(result: object, payload: object) -> bool:
    """Tell whether a result is the payload, or a container that directly holds it; by identity, never by equality."""
    if result is payload:
        return True
    if isinstance(result, dict):
        return any(value is payload for value in result.values())
    return isinstance(result, list | tuple | set | frozenset) and any(item is payload for item in result)
