"""What a queue tells, counted and traced: the observer that the factory gives to a queue."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streams_queue.config import Settings
from streams_queue.errors import BackendError
from streams_queue.messages import Delivery
from streams_queue.observer import Observer
from streams_queue.queue import Queue
from streams_queue.telemetry import pipeline as pipelines
from streams_queue.telemetry.instruments import Record, histogram_bounds
from streams_queue.telemetry.names import (
    ACKED,
    CONSUMED,
    DEAD_LETTERED,
    DESTINATION,
    DURATION,
    END,
    ERROR_TYPE,
    ERRORS,
    FALLBACKS,
    LATENCY,
    LEASES_LOST,
    LOST,
    OPERATION,
    OPERATIONS,
    REASON,
    RECLAIMED,
    REJECTED,
    RELEASED,
    RETRIED,
    SENT,
    STATE_LOST,
    MetricName,
)
from streams_queue.telemetry.reporter import Reporter
from streams_queue.telemetry.sources import Source, labels_of
from streams_queue.telemetry.tally import Attributes, Tally
from streams_queue.telemetry.tracing import Tracing
from streams_queue.telemetry.wanted import interval

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SETTLED = {"acked": ACKED, "retried": RETRIED, "released": RELEASED}
# A handler's own reason may be any text; metrics have to do with few values.
_REASONS = frozenset(
    (
        *("max_retries", "crashed", "undecodable", "too_large", "overflow", "purged"),
        *("deleted", "state_lost", "acknowledged_batches"),
    )
)


class Telemetry(Observer):
    """Measures and traces one queue, from its first use in an event loop until its `cleanup`.

    Args:
        settings: Of the queue.
        sends: Whether OpenTelemetry is to be told.
        registry: Of Prometheus's client library, in which the queue's counts are to be; None for none.

    Attributes:
        destination: What spans and metrics call the queue.
        loop: In which the queue is used; None before that.
        tracing: Makes its spans; None if there are to be none.
    """

    def __init__(self, settings: Settings, *, sends: bool = True, registry: CollectorRegistry | None = None) -> None:
        self._settings = settings
        self._wanted = pipelines.Wanted(settings.telemetry, sends, registry)
        self._labels = labels_of(settings)
        self.destination = dict(self._labels)[DESTINATION]
        self._turn = threading.Lock()
        pipelines.prepare(self._wanted)
        self._start_over()
        _telemetries.add(self)

    def _start_over(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tracing: Tracing | None = None
        self._pipeline: pipelines.Pipeline | None = None
        self._latencies: dict[str, Record] = {}
        self._durations: dict[str, Record] = {}
        telemetry = self._settings.telemetry
        tally = Tally(histogram_bounds(telemetry.bounds))
        self._source = Source(self._labels, tally, Reporter(self._settings, interval(telemetry)))
        self._counts = tally.counts

    # --- begin and end ---

    def begin(self, queue: Queue) -> None:
        """Start what is needed, for a queue that is used in the running event loop."""
        self.loop = asyncio.get_running_loop()
        self._source.reporter.watch(queue, self.loop)
        if self._pipeline is None:
            self._pipeline = pipelines.acquire(self._wanted)
            self._finalizer = weakref.finalize(queue, _forget, self._pipeline, self._source)
            self._finalizer.atexit = False
            # What was measured before the first use of a verb has no place yet.
            self._latencies, self._durations = {}, {}
            self._pipeline.join(self._source)
            if self._pipeline.tracer is not None:
                self.tracing = Tracing(
                    self._pipeline.tracer,
                    self._pipeline.ratio,
                    self._labels,
                    self.destination,
                    self._settings.group,
                )

    async def hand_over(self) -> None:
        """Let another process report the queue's figures, before this one leaves it."""
        await self._source.reporter.give_up()

    async def end(self) -> None:
        """Send what is left, for at most CLOSE_TIMEOUT seconds if the collector does not answer."""
        if self._pipeline is not None and self._finalizer.detach() is not None:
            await pipelines.until_ended(_leave(self._pipeline, self._source))

    def forked(self) -> None:
        """In a forked child: leave everything of the parent's alone, and start over."""
        if self._pipeline is not None:
            self._finalizer.detach()
        self._turn = threading.Lock()
        self._start_over()

    # --- spans around whole calls, for `watched` ---

    def received(self, deliveries: Sequence[Delivery], began_ns: int) -> None:
        """Note a call that took these."""
        self.consumed(len(deliveries))
        if self.tracing is not None:
            self.tracing.received(deliveries, began_ns)

    def consumed(self, count: int) -> None:
        """Note how many events went to a caller; once a call, where `handed_out` is once an event."""
        self._counts[CONSUMED, ()] += count

    # --- what the queue tells; as in Observer ---

    def accepted(self, count: int) -> None:  # noqa: D102
        self._counts[SENT, ()] += count

    def rejected(self, count: int) -> None:  # noqa: D102
        self._counts[REJECTED, ()] += count

    def settled_together(self, count: int, outcome: str, traced: Sequence[Delivery]) -> None:  # noqa: D102
        if outcome in _SETTLED:
            self._counts[_SETTLED[outcome], ()] += count
        if self.tracing is not None:
            for delivery in traced:
                self.tracing.settled(delivery, outcome)

    def dead(self, event_id: str, reason: str) -> None:  # noqa: D102, ARG002
        self._counts[DEAD_LETTERED, ((REASON, _known(reason)),)] += 1

    def lost(self, count: int, reason: str) -> None:  # noqa: D102
        self._counts[LOST, ((REASON, _known(reason)),)] += count

    def state_lost(self, detail: str) -> None:  # noqa: D102, ARG002
        self._counts[STATE_LOST, ()] += 1

    def lease_lost(self, delivery: Delivery) -> None:  # noqa: D102, ARG002
        self._counts[LEASES_LOST, ()] += 1

    def reclaimed(self, count: int) -> None:  # noqa: D102
        self._counts[RECLAIMED, ()] += count

    def fallback_on(self, reason: str) -> None:  # noqa: D102, ARG002
        self._counts[FALLBACKS, ()] += 1

    def operation(self, name: str, seconds: float | None, error: BackendError | None) -> None:  # noqa: D102
        operation = ((OPERATION, name),)
        # The keeper's thread calls this as well.
        with self._turn:
            self._counts[OPERATIONS, operation] += 1
            if error is not None:
                self._counts[ERRORS, (*operation, (ERROR_TYPE, type(error).__name__))] += 1
            if seconds is not None:
                record = self._latencies.get(name)
                if record is None:
                    record = self._latencies[name] = self._recorder(LATENCY, operation)
                record(seconds * 1000)

    def handling(self, delivery: Delivery) -> None:  # noqa: D102
        if self.tracing is not None:
            self.tracing.handling(delivery)

    def handled(self, delivery: Delivery, seconds: float, end: str, error: BaseException | None) -> None:  # noqa: D102, ARG002
        if self.tracing is not None:
            self.tracing.handled(delivery, end, error)

    def handled_together(self, seconds: Sequence[float], end: str) -> None:  # noqa: D102
        self._duration_of(end)(*seconds)

    def _duration_of(self, end: str) -> Record:
        record = self._durations.get(end)
        if record is None:
            record = self._durations[end] = self._recorder(DURATION, ((END, str(end)),))
        return record

    def _recorder(self, metric: MetricName, attributes: Attributes) -> Record:
        add = self._source.tally.distribution(metric, attributes).add
        return add if self._pipeline is None else self._pipeline.recorder(metric, self._labels + attributes, add)


def _known(reason: str) -> str:
    return reason if reason in _REASONS else "other"


def _leave(pipeline: pipelines.Pipeline, source: Source) -> list[threading.Thread]:
    """Take a queue out of its pipeline; what it has counted is exported all the same."""
    pipeline.leave(source)
    return pipelines.release(pipeline)


def _forget(pipeline: pipelines.Pipeline, source: Source) -> None:
    """A queue was dropped without cleanup."""
    _leave(pipeline, source)


_telemetries: weakref.WeakSet[Telemetry] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for telemetry in list(_telemetries):
        telemetry.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
