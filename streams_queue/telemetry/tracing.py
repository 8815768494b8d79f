"""The spans of one queue, by OpenTelemetry's conventions for messaging: send, receive, process and settle.

An event is traced if its `traceparent` says so, and only its producer decides that: docs/decisions/0080-telemetry.md.
"""

from __future__ import annotations

import random
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams_queue.messages import Delivery
from streams_queue.telemetry.names import (
    ACCEPTED,
    DELIVERIES,
    END,
    ERROR_TYPE,
    GROUP,
    MESSAGE_COUNT,
    MESSAGE_ID,
    OPERATION,
    OPERATION_TYPE,
)
from streams_queue.telemetry.spans import BeginsSpans, Template
from streams_queue.telemetry.tally import Attributes

_HEADER, _STATE = "traceparent", "tracestate"
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
# A span with more links than this is cut by the SDK anyhow.
_MAX_LINKS = 128
_NO_ERROR = ("processed", "postponed", "released")
_VERBS = {"acked": "ack", "retried": "nack", "released": "release", "dead": "dead_letter"}
_propagator = TraceContextTextMapPropagator()


class Sending:
    """The span of one call that enqueues, entered around it.

    Attributes:
        headers: What the events of this call carry.
    """

    def __init__(self, span: trace.Span, headers: Mapping[str, str]) -> None:
        self._span = span
        self._token: Token[Context] | None = None
        self.headers = headers

    def ended(self, accepted: int) -> None:
        """Note how many events the queue holds."""
        self._span.set_attribute(ACCEPTED, accepted)

    def __enter__(self) -> Self:
        """Make it the current span."""
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the span, with the kind of the error if there is one; its message may hold what is nobody's business."""
        if self._token is not None:
            context.detach(self._token)
        if exc_type is not None:
            _fail(self._span, exc_type.__name__)
        self._span.end()


@dataclass(eq=False, slots=True)
class _Processing:
    """A handler's span, what ends its being the current one, and when the handler ended; None: it has not yet."""

    span: trace.Span
    token: Token[Context]
    ended_ns: int | None = None


class Tracing:
    """Makes the spans of one queue.

    Args:
        tracer: Of the provider.
        ratio: The share of calls outside of any trace for which the tracer is asked.
        labels: Which queue it is.
        group: The consumer group.
    """

    def __init__(self, tracer: BeginsSpans, ratio: float, labels: Attributes, destination: str, group: str) -> None:
        self._tracer = tracer
        self._ratio = ratio
        self._processing: weakref.WeakKeyDictionary[Delivery, _Processing] = weakref.WeakKeyDictionary()

        def template(operation: str, kind: SpanKind, verb: str, known: Mapping[str, str]) -> Template:
            return Template(f"{operation} {destination}", kind, {**known, OPERATION: verb, OPERATION_TYPE: operation})

        producer = dict(labels)
        consumer = {**producer, GROUP: group}
        self._create = template("send", SpanKind.PRODUCER, "send", producer)
        self._forward = template("send", SpanKind.CLIENT, "send", producer)
        self._receive = template("receive", SpanKind.CLIENT, "receive", consumer)
        self._process = template("process", SpanKind.CONSUMER, "process", consumer)
        self._settle = {
            outcome: template("settle", SpanKind.CLIENT, verb, producer) for outcome, verb in _VERBS.items()
        }

    # --- producing ---

    def sending(
        self,
        headers: Mapping[str, str] | None,
        event_ids: Sequence[str | None] | None,
        count: int,
        asked: bool | None = None,
    ) -> Sending | None:
        """Return the span of a call that is about to enqueue; None if it is not traced, which is to cost nothing.

        Events that have a `traceparent` already keep it: then the span is linked to it. `asked` is what `is_asked` has
        said, where somebody did ask.
        """
        if headers and _HEADER in headers:
            creation = _creation(headers)
            return None if creation is None else self._send(headers, event_ids or (), count, (creation,))
        if asked is None:
            asked = self.is_asked()
        return self._send(headers or {}, event_ids or (), count, ()) if asked else None

    def is_asked(self) -> bool:
        """Whether the tracer is asked for a span: inside a trace if that is sampled, else by the ratio."""
        current = context.get_current()
        if current and (around := trace.get_current_span(current).get_span_context()).is_valid:
            return around.trace_flags.sampled
        return random.random() < self._ratio

    def _send(
        self,
        headers: Mapping[str, str],
        event_ids: Sequence[str | None],
        count: int,
        links: Sequence[trace.Span],
    ) -> Sending | None:
        attributes: dict[str, Any] = {}
        if count > 1:
            attributes[MESSAGE_COUNT] = count
        elif event_ids and event_ids[0] is not None:
            attributes[MESSAGE_ID] = event_ids[0]
        span = self._tracer.begin(self._forward if links else self._create, attributes, None, links)
        created = span.get_span_context()
        if not created.trace_flags & TraceFlags.SAMPLED:
            span.end()
            return None
        return Sending(span, headers if links else {**headers, **_carried(created)})

    # --- consuming ---

    def received(self, deliveries: Sequence[Delivery], began_ns: int) -> None:
        """Make the span of a call that took these, linked to those that are traced; none if none of them is.

        It begins a trace of its own, in which the ratio counts as in every other.
        """
        # Asked first: nearly every batch holds an event that is traced.
        if not self.is_asked():
            return
        carried = [delivery.headers for delivery in deliveries if delivery.headers]
        creations = [found for headers in carried if (found := _creation(headers))]
        if creations:
            attributes = {MESSAGE_COUNT: len(deliveries)}
            self._tracer.begin(self._receive, attributes, None, creations[:_MAX_LINKS], began_ns).end()

    def handling(self, delivery: Delivery) -> None:
        """Begin the span in which a handler runs, if its event is traced: a child of what created it, and linked."""
        creation = _creation(delivery.headers) if delivery.headers else None
        if creation is None:
            return
        attributes: dict[str, Any] = {MESSAGE_ID: delivery.event_id}
        if delivery.deliveries > 1:
            attributes[DELIVERIES] = delivery.deliveries
        span = self._tracer.begin(self._process, attributes, creation, (creation,))
        token = context.attach(trace.set_span_in_context(span))
        self._processing[delivery] = _Processing(span, token)

    def handled(self, delivery: Delivery, end: str, error: BaseException | None) -> None:
        """End that span."""
        processing = self._processing.get(delivery)
        if processing is None:
            return
        span = processing.span
        context.detach(processing.token)
        if end not in _NO_ERROR:
            span.set_attribute(END, end)
            _fail(span, type(error).__qualname__ if error is not None else end)
        processing.ended_ns = time.time_ns()
        span.end(processing.ended_ns)

    def settled(self, delivery: Delivery, outcome: str) -> None:
        """Make the span of a settlement that the server has confirmed: from the handler's end until now."""
        processing = self._processing.get(delivery)
        parent: trace.Span | None
        if processing is not None:
            # No end: the handler has settled it itself.
            parent, began_ns = processing.span, processing.ended_ns
        else:
            # Without a worker nobody knows when it began.
            parent, began_ns = _creation(delivery.headers), None
        if parent is None:
            return
        self._tracer.begin(self._settle[outcome], {MESSAGE_ID: delivery.event_id}, parent, (), began_ns).end()


class _Creation(trace.NonRecordingSpan):
    """The span that created an event, as a `traceparent` names it; that is taken apart when somebody wants to know."""

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def get_span_context(self) -> SpanContext:
        """Return its context."""
        _, trace_id, span_id, flags = self._traceparent.split("-")
        return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))


def _creation(headers: Mapping[str, str]) -> trace.Span | None:
    """Return the span that created an event, if it is traced."""
    traceparent = headers.get(_HEADER)
    if traceparent is None:
        return None
    if _STATE not in headers and (simple := _TRACEPARENT.fullmatch(traceparent)):
        # What nearly all of them look like; the propagator takes eight times as long for it.
        return _Creation(traceparent) if int(simple[1], 16) & TraceFlags.SAMPLED else None
    found = trace.get_current_span(_propagator.extract(headers, Context()))
    created = found.get_span_context()
    return found if created.is_valid and created.trace_flags.sampled else None


def _carried(created: SpanContext) -> dict[str, str]:
    """Return the headers that make an event part of a trace, by W3C's recommendation."""
    trace_id, span_id, _, flags, state, _ = created
    traceparent = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
    return {_HEADER: traceparent, _STATE: state.to_header()} if state else {_HEADER: traceparent}


def _fail(span: trace.Span, kind: str) -> None:
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR))
