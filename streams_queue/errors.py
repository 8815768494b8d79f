"""What can go wrong, and whether trying again can help.

Every error of this package is a `StreamsQueueError`. The first paragraph of a class's docstring is its default message,
so that raising the bare class already reads as a sentence. No message carries a password, a token or a payload.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar


def _first_paragraph(documented: type) -> str:
    return inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0]


class StreamsQueueError(Exception):
    """Something went wrong in the queue.

    When: never by itself; it is the family of all the others.

    What to do: catch it where any error of the queue is handled alike.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else _first_paragraph(type(self)))


# --- what the caller handed in -------------------------------------------------------------------------------


class ConfigError(StreamsQueueError, ValueError):
    """The configuration cannot be used.

    When: a queue is made, or its configuration loaded.

    What to do: mend what `problems` lists, all of it with its path.
    """

    def __init__(self, problems: str | Iterable[str] | None = None) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems or ())
        super().__init__("; ".join(self.problems) or None)


class MissingExtraError(StreamsQueueError, ImportError):
    """An optional dependency is not installed.

    When: a feature is used, or a module imported, whose extra is missing.

    What to do: install the extra that `extra` names.
    """

    def __init__(self, feature: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{feature} needs the extra {extra!r}: pip install 'streams-queue[{extra}]'")


class UsageError(StreamsQueueError, RuntimeError):
    """The queue was called in a way that would lose track of an event.

    When: a call that cannot be meant so: `dequeue` outside a task, a queue on two event loops, `SyncQueue` inside a
    running loop, a handler that cannot be called.

    What to do: change the program; the message says what to use instead.
    """


class MessageError(StreamsQueueError, ValueError):
    """A message cannot travel through the queue.

    When: never by itself; it is the family of the next three.

    What to do: catch it where bad input is answered, with 400 for instance.
    """


class EncodeError(MessageError):
    """A payload holds something that would not come back as it went in.

    When: `enqueue` of a value that JSON would change or refuse, or with a bad event_id, header or delay; also
    `nack` with a bad delay.

    What to do: convert the value at `path`; nothing was sent.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: {problem}")


class DecodeError(MessageError):
    """An entry of the stream cannot be turned back into an event.

    When: inside the queue, of an entry that somebody else wrote or that does not fit payload_type; callers do not see
    it: the entry becomes a dead letter, reason `undecodable`.

    What to do: look at the dead letter's `error` and `raw`.
    """


class MessageTooLarge(MessageError):
    """An event is larger than max_event_bytes.

    When: `enqueue`.

    What to do: store the large part elsewhere and send a reference, or raise the limit; nothing was sent.
    """


# --- the state of a queue or of a delivery -------------------------------------------------------------------


class QueueClosed(StreamsQueueError):
    """The queue was cleaned up and takes no more calls.

    When: a verb that needs the server, after or during `cleanup`. `enqueue` then returns False and `dequeue` None.

    What to do: stop what still uses the queue before its cleanup.
    """


class LeaseLost(StreamsQueueError):
    """The delivery is no longer held by this consumer; its event may be running elsewhere.

    When: `nack`, `extend` or `dead_letter` of a delivery whose lease ran out, that is settled, or that another
    session or process took.

    What to do: stop working on it and undo nothing: whoever holds it now settles it.
    """


# --- the server ----------------------------------------------------------------------------------------------


class BackendError(StreamsQueueError):
    """The server could not do what was asked.

    When: never by itself; it is the family of the next six.

    What to do: catch it where an outage is answered, with 503 for instance.

    Attributes:
        receipts: Of a call with several events: those of the first ones, where it is known what became of them before.
    """

    receipts: tuple[Any, ...] = ()


class BackendUnavailable(BackendError):
    """The server could not be reached in time; nothing was written.

    When: any verb but `dequeue` and `receive`, which wait instead: no connection within enqueue_timeout.

    What to do: try again later, or use `type: resilient`; the queue reconnects by itself.
    """

    retryable = True


class BackendTimeout(BackendError):
    """The server did not answer in time; the outcome is unknown.

    A second call is safe with the same event_id.

    When: a connection broke, or the answer took longer than enqueue_timeout, after the request was sent.

    What to do: call again with the same event_id; without one the event may then be there twice.

    Attributes:
        unresolved: The batch whose fate is unknown, where the queue was told to keep such batches; else None.
        positions: Which of that batch's events were this caller's.
    """

    retryable = True
    unresolved: Any = None
    positions: tuple[int, ...] = ()


class BackendRejected(BackendError):
    """The server refused the command; nothing was written.

    When: out of memory, no permission, a key of another type, a wrong password, a server that starts or fails over.

    What to do: if `passing`, try again later; otherwise mend what `code` names.

    Attributes:
        code: The server's own word for it, such as OOM or NOPERM.
        passing: Whether the refusal is one that passes by itself (no memory, failover, start-up).
    """

    def __init__(self, message: str | None = None, *, code: str = "", passing: bool = False) -> None:
        self.code = code
        self.passing = passing
        super().__init__(message)


class SpoolError(BackendError):
    """The spool directory cannot hold events; nothing was taken.

    Trying again helps once what the message names is mended: a full disk, a directory that cannot be written to.

    When: `enqueue` of a resilient queue with a spool, while the server cannot be used either.

    What to do: mend what the message names, and try again.
    """


class NotDurable(BackendError):
    """The event is in the queue, but did not get as far as its durability level asks within enqueue_timeout.

    Call again with the same event_id to wait once more; without one, a second call is a second event. It is not held
    locally by a resilient queue: it would be there twice.

    When: `enqueue` with `durability: replicated` or `fsynced`, when replicas or the disk are slow or away.

    What to do: take it as accepted and report it, or call again with the same event_id.

    Attributes:
        receipts: Of the call's events, in order, up to and including those that missed the level; what is not among
            them was not sent.
        durable: So many of them, from the front, are of events that reached the level.
    """

    def __init__(self, message: str | None = None, receipts: Iterable[Any] = (), *, durable: int = 0) -> None:
        self.receipts = tuple(receipts)
        self.durable = durable
        super().__init__(message)

    @property
    def receipt(self) -> Any:
        """The last receipt: the only one, where the call was about one event."""
        return self.receipts[-1] if self.receipts else None

    def after(self, receipts: Sequence[Any]) -> NotDurable:
        """Return the same about a call whose earlier events have these receipts and reached the level."""
        return NotDurable(str(self), (*receipts, *self.receipts), durable=len(receipts) + self.durable)


class StateError(BackendError):
    """What is stored under the queue's keys was not written by a queue that this release can share.

    When: the first call on a queue that a newer release or another consumer group uses.

    What to do: use another namespace or name, or update this process; the message names what was found.
    """


# --- what a handler may raise to steer the worker ------------------------------------------------------------


class Reject(Exception):
    """Raised by a handler: this event can never be processed; keep it as a dead letter.

    When: a handler of a Worker raises it.

    What to do: nothing; the event is in the dead letters with this reason.

    Args:
        reason: Why, for the operator who reads the dead letters.
    """

    def __init__(self, reason: str = "rejected by the handler") -> None:
        self.reason = reason
        super().__init__(reason)


class RetryLater(Exception):
    """Raised by a handler: not now; try again after a delay.

    When: a handler of a Worker raises it.

    What to do: nothing; the event runs again, and each run counts as a delivery.

    Args:
        delay: Seconds until the next delivery; None leaves it to the retry policy.
    """

    def __init__(self, delay: float | None = None) -> None:
        self.delay = delay
        super().__init__("retry later" if delay is None else f"retry in {delay:g} s")
