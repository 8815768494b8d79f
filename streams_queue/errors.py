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
    """Something went wrong in the queue."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else _first_paragraph(type(self)))


# --- what the caller handed in -------------------------------------------------------------------------------


class ConfigError(StreamsQueueError, ValueError):
    """The configuration cannot be used."""

    def __init__(self, problems: str | Iterable[str] | None = None) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems or ())
        super().__init__("; ".join(self.problems) or None)


class MissingExtraError(StreamsQueueError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{feature} needs the extra {extra!r}: pip install 'streams-queue[{extra}]'")


class UsageError(StreamsQueueError, RuntimeError):
    """The queue was called in a way that would lose track of an event."""


class MessageError(StreamsQueueError, ValueError):
    """A message cannot travel through the queue."""


class EncodeError(MessageError):
    """A payload holds something that would not come back as it went in."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: {problem}")


class DecodeError(MessageError):
    """An entry of the stream cannot be turned back into an event."""


class MessageTooLarge(MessageError):
    """An event is larger than max_event_bytes."""


# --- the state of a queue or of a delivery -------------------------------------------------------------------


class QueueClosed(StreamsQueueError):
    """The queue was cleaned up and takes no more calls."""


class LeaseLost(StreamsQueueError):
    """The delivery is no longer held by this consumer; its event may be running elsewhere."""


# --- the server ----------------------------------------------------------------------------------------------


class BackendError(StreamsQueueError):
    """The server could not do what was asked.

    Attributes:
        receipts: Of a call with several events: those of the first ones, where it is known what became of them before.
    """

    receipts: tuple[Any, ...] = ()


class BackendUnavailable(BackendError):
    """The server could not be reached in time; nothing was written."""

    retryable = True


class BackendTimeout(BackendError):
    """The server did not answer in time; the outcome is unknown.

    A second call is safe with the same event_id.

    Attributes:
        unresolved: The batch whose fate is unknown, where the queue was told to keep such batches; else None.
        positions: Which of that batch's events were this caller's.
    """

    retryable = True
    unresolved: Any = None
    positions: tuple[int, ...] = ()


class BackendRejected(BackendError):
    """The server refused the command; nothing was written.

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
    """


class NotDurable(BackendError):
    """The event is in the queue, but did not get as far as its durability level asks within enqueue_timeout.

    Call again with the same event_id to wait once more; without one, a second call is a second event. It is not held
    locally by a resilient queue: it would be there twice.

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
    """What is stored under the queue's keys was not written by a queue that this release can share."""


# --- what a handler may raise to steer the worker ------------------------------------------------------------


class Reject(Exception):
    """Raised by a handler: this event can never be processed; keep it as a dead letter.

    Args:
        reason: Why, for the operator who reads the dead letters.
    """

    def __init__(self, reason: str = "rejected by the handler") -> None:
        self.reason = reason
        super().__init__(reason)


class RetryLater(Exception):
    """Raised by a handler: not now; try again after a delay.

    Args:
        delay: Seconds until the next delivery; None leaves it to the retry policy.
    """

    def __init__(self, delay: float | None = None) -> None:
        self.delay = delay
        super().__init__("retry later" if delay is None else f"retry in {delay:g} s")
