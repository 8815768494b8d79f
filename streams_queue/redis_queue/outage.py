"""Noticing that the server cannot be used, saying so once, and waiting between attempts."""

from __future__ import annotations

import copy
import logging
import random
import time

from streams_queue.errors import BackendError, BackendRejected

logger = logging.getLogger(__name__)

# An answer ends an outage only if nothing has failed for so many seconds. A server that answers on one connection and
# refuses on the next, or lets read and not write, would otherwise write two lines into the log for every attempt.
CALM = 1.0


class Outage:
    """One stretch of time in which the server cannot be used, told once when it begins and once when it is over.

    Args:
        subject: Who is meant, for the log.
        missing: What it does not do meanwhile, for the log.

    Attributes:
        is_on: Whether the last that was heard is a failure.
        trouble: What is the matter; None when it is over.
    """

    def __init__(self, subject: str, missing: str) -> None:
        self._subject = subject
        self._missing = missing
        self._since: float | None = None
        self._failed_at = 0.0
        self.is_on = False
        self.trouble: BackendError | None = None

    def failed(self, error: BackendError) -> None:
        """Note a failure."""
        # A copy has no traceback, whose frames would keep a queue alive that everybody else has forgotten.
        self.is_on, self.trouble = True, copy.copy(error)
        self._failed_at = time.monotonic()
        if self._since is None:
            self._since = self._failed_at
            logger.warning(
                "%s %s for now (%s)",
                self._subject,
                self._missing,
                error,
                extra={"address": self._subject, "error": str(error)},
            )

    def ended(self) -> None:
        """Note an answer."""
        self.is_on = False
        if self._since is not None and time.monotonic() - self._failed_at >= CALM:
            logger.info(
                "%s is back after %.1f s",
                self._subject,
                self._failed_at - self._since,
                extra={"address": self._subject, "seconds": self._failed_at - self._since},
            )
            self._since = self.trouble = None


class Backoff:
    """Waits between attempts: doubling from 10 ms to a cap, jittered. Reset by making a new one.

    Args:
        cap: The longest wait in seconds. It stays far below the lease, so that after an outage every living process has
            renewed what it holds before anybody may claim it.
    """

    def __init__(self, cap: float) -> None:
        self._cap = cap
        self._wait = 0.01

    def next(self) -> float:
        """Return the next wait in seconds."""
        wait, self._wait = self._wait, min(self._cap, self._wait * 2)
        return wait * random.uniform(0.5, 1.0)


def refuses_only_new_events(error: BackendError) -> bool:
    """Whether reading and settling go on although the server refused something: it has no memory left."""
    return isinstance(error, BackendRejected) and error.code == "OOM"
