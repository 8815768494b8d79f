"""`GitBridgeQueue`: a queue of this package behind the interface of GitBridge's own queues.

GitBridge's pipeline takes an event, processes it and comes back for the next one. It expects False and None where this
package raises, and calls `cleanup` on a timer while it goes on. Imported only on request.
Source: docs/decisions/0120-drop-in-for-gitbridge.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from abc import ABCMeta
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from streams_queue.codec import make_instance
from streams_queue.config import Settings
from streams_queue.errors import BackendTimeout, BackendUnavailable, StreamsQueueError, UsageError
from streams_queue.factory import QueueFactory
from streams_queue.observer import Observer
from streams_queue.queue import Queue

__all__ = ["GitBridgeQueue", "QueueConnectionError", "QueueError", "QueueFullError", "QueueTimeoutError"]

logger = logging.getLogger(__name__)

# GitBridge's loop asks again after 10 ms: what no retry mends must not make it spin.
_PAUSE = 1.0

QueueError = StreamsQueueError
"""GitBridge's name for any error of a queue."""

QueueConnectionError = BackendUnavailable
"""GitBridge's name for a server that cannot be reached."""

QueueTimeoutError = BackendTimeout
"""GitBridge's name for a server that did not answer in time."""


class QueueFullError(QueueError):
    """The queue is full, paused or closed: it does not hold the event."""


class GitBridgeQueue:
    """A queue that GitBridge's pipeline can use as it is, on the backend that the configuration's `type` names.

    `enqueue` and `dequeue` never raise for what becomes of an event; they return False or None, and the log says why.
    The event in hand is confirmed when its task comes back for the next one, or ends normally.

    Args:
        config: The mapping of a `webhook_config.yaml`, the path of one, or Settings; None reads the environment.
        environment: Its section `environments.<name>.queue` overrides `queue`.
        observers: Are told what happens in the queue.
        payload_type: A dataclass or msgspec Struct: `dequeue` returns instances, and `enqueue` takes them or mappings
            with their values. None hands out dicts.

    Raises:
        ConfigError: Something is missing or wrong; all problems are listed.
    """

    def __init__(
        self,
        config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        environment: str | None = None,
        observers: Iterable[Observer] = (),
        payload_type: type[Any] | None = None,
    ) -> None:
        self._payload_type = payload_type
        self._queue = QueueFactory.create_queue(
            config, environment=environment, observers=observers, payload_type=payload_type
        )
        self._told = ""

    @classmethod
    def register_as(cls, interface: ABCMeta) -> type[Self]:
        """Make this class a virtual subclass of an abstract one, such as GitBridge's `mas_core.queue.EventQueue`.

        Raises:
            UsageError: It is no abstract class, or asks for methods that are not here.
        """
        asked_for: Iterable[str] | None = getattr(interface, "__abstractmethods__", None)
        if asked_for is None:
            raise UsageError(f"{interface!r} is not an abstract base class")
        if missing := sorted(name for name in asked_for if not hasattr(cls, name)):
            raise UsageError(f"{cls.__name__} has no {', '.join(missing)}, for which {interface.__name__} asks")
        interface.register(cls)
        return cls

    # --- attributes ---

    @property
    def queue(self) -> Queue:
        """The queue itself, for what GitBridge's interface lacks: `receive`, `stats`, `dead_letters`, a Worker."""
        return self._queue

    @property
    def max_size(self) -> int:
        """The most events that may be unsettled at once; may be set at any time."""
        return self._queue.max_size

    @max_size.setter
    def max_size(self, value: int) -> None:
        self._queue.max_size = value

    @property
    def timeout(self) -> float:
        """Default wait of `dequeue` in seconds; may be set at any time."""
        return self._queue.timeout

    @timeout.setter
    def timeout(self, value: float) -> None:
        self._queue.timeout = value

    # --- GitBridge's interface ---

    async def enqueue(self, event: Any, *, event_id: str | None = None) -> bool:
        """Put one event into the queue; never raises for what becomes of it.

        Args:
            event: A JSON object; or what the payload type says.
            event_id: A second event with the same id inside `dedup_window` is not added again.

        Returns:
            True if the queue holds it. False if it is full, paused, stopped, or could not be reached within
            `enqueue_timeout`, or the event cannot travel: a warning says which of these.

        Redis, Cancelled: as the queue's own `enqueue`.
        """
        try:
            if not await self._queue.enqueue(self._payload_of(event), event_id=event_id):
                raise QueueFullError
        except StreamsQueueError as error:
            logger.warning("An event was not taken (%s)", error, extra={"error": str(error)})
            return False
        except Exception:
            logger.exception("enqueue failed in a way that it should not")
            return False
        return True

    def _payload_of(self, event: Any) -> Any:
        if self._payload_type is None or not isinstance(event, Mapping):
            return event
        return make_instance(event, self._payload_type)

    def dequeue(self, timeout: float | None = None) -> Coroutine[Any, Any, Any | None]:
        """Take the next event and confirm those that the calling task took before; never raises for a queue's error.

        Args:
            timeout: Seconds to wait; None is the queue's own `timeout`.

        Returns:
            The event; None when nothing came in time, while the server is away, and after `stop`. Also, within
            a second, where no retry mends it (wrong password, no permission); one error in the log names the reason.

        Redis, Cancelled: as the queue's own `dequeue`.
        """
        # Not an async function: whose event it is, the queue tells by the task in which this line runs.
        try:
            taking = self._queue.dequeue(timeout)
        except UsageError as error:
            return self._nothing(error, timeout)
        return self._take(taking, timeout)

    async def _take(self, taking: Awaitable[Any | None], timeout: float | None) -> Any | None:
        try:
            event = await taking
        except StreamsQueueError as error:
            await self._nothing(error, timeout)
            return None
        except Exception:
            logger.exception("dequeue failed in a way that it should not")
            return None
        self._told = ""
        return event

    async def _nothing(self, error: StreamsQueueError, timeout: float | None) -> None:
        if self._told != str(error):
            self._told = str(error)
            logger.error("Nothing can be dequeued (%s)", error, extra={"error": str(error)})
        await asyncio.sleep(max(0.0, min(_PAUSE, self.timeout if timeout is None else timeout)))

    async def start(self) -> None:
        """Open a connection, and return; the queue also works without it. A server that is away is one warning."""
        try:
            await self._queue.get_queue_depth()
        except StreamsQueueError as error:
            logger.warning("The queue has no server yet (%s)", error, extra={"error": str(error)})

    async def cleanup(self) -> None:
        """Let the server confirm what is done so far; the queue goes on, and what is in hand stays there.

        GitBridge calls this on a timer. What its own queues did here, and what they deleted: see the decision record.

        Redis: 1 round trip at most. Cancelled: The acks are sent all the same.
        """
        try:
            await self._queue.flush()
        except StreamsQueueError as error:
            # The outage has been told of, and this comes again by the clock.
            logger.debug("What is done could not be confirmed in time (%s)", error)

    async def stop(self) -> None:
        """Close the queue for good: confirm what is done, give back what is not, close connections.

        What the calling task has in hand counts as done, unless it calls this on its way out with an exception. Deletes
        no event; twice is harmless.
        """
        await self.__aexit__(*sys.exc_info())

    async def get_queue_depth(self) -> int:
        """How many events wait; while the server cannot be asked, as far as this process knows. Redis: 1 round trip."""
        try:
            return await self._queue.get_queue_depth()
        except StreamsQueueError as error:
            logger.warning("The depth is not known (%s)", error, extra={"error": str(error)})
            return self.get_queue_size()

    def get_queue_size(self) -> int:
        """How many events wait as far as this process knows, without asking the server."""
        return self._queue.get_queue_size()

    async def check_health(self) -> dict[str, Any]:
        """Tell how the queue is, with GitBridge's keys and some more; never raises for a server problem."""
        return await self._queue.check_health()

    def is_running(self) -> bool:
        """True until `stop`, also after `cleanup`."""
        return self._queue.is_running()

    async def __aenter__(self) -> Self:
        """Enter; connects nothing by itself."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave as `stop` does: what the leaving task has in hand is done if it leaves normally."""
        await self._queue.__aexit__(exc_type, exc, traceback)
