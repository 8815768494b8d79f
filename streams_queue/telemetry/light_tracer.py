"""A tracer that makes nothing but sampled spans and hands them to the SDK for export.

The SDK's own takes 30 to 100 µs for a span on the machine of docs/decisions/0080-telemetry.md: it asks a sampler that
has nothing to decide here, copies and checks attributes and links, and takes locks. With one event in a hundred traced
that alone would be felt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class LightTracer:
    """Makes spans of one scope.

    Args:
        take: Is given those that have ended.
        shutdown: Sends what was taken; for whoever ends this.
        resource: Of this process.
        scope: Name and version of this package.
    """

    def __init__(
        self,
        take: Callable[[ReadableSpan], None],
        shutdown: Callable[[], None],
        resource: Resource,
        scope: InstrumentationScope,
    ) -> None:
        self._take = take
        self.shutdown = shutdown
        self._resource = resource
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
    ) -> LightSpan:
        """Begin a span, child of the one in `context`, or in the current one; as the interface's tracer does."""
        parent = trace.get_current_span(context).get_span_context()
        known = parent.is_valid
        created = SpanContext(
            parent.trace_id if known else _random_id(128),
            _random_id(64),
            False,
            _SAMPLED,
            parent.trace_state if known else None,
        )
        return LightSpan(
            name=name,
            context=created,
            parent=parent if known else None,
            resource=self._resource,
            attributes=dict(attributes or {}),
            events=[],
            links=links or (),
            kind=kind,
            start_time=start_time or time.time_ns(),
            instrumentation_scope=self._scope,
        ).handed_to(self._take)


class LightSpan(trace.Span, ReadableSpan):
    """A span that records; a handler may add to it what it likes, from its own thread."""

    _take: Callable[[ReadableSpan], None]

    def handed_to(self, take: Callable[[ReadableSpan], None]) -> LightSpan:
        """Name who takes it when it has ended."""
        self._take = take
        return self

    def end(self, end_time: int | None = None) -> None:
        """End it, once, and hand it over."""
        if self._end_time is None:
            self._end_time = end_time or time.time_ns()
            self._take(self)

    def get_span_context(self) -> SpanContext:
        """Return what makes others part of its trace."""
        context: SpanContext = self._context  # type: ignore[assignment]
        return context

    def is_recording(self) -> bool:
        """Whether it has not ended yet."""
        return self._end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Add one attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        if self.is_recording():
            self._attributes.update(attributes)  # type: ignore[union-attr]

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event of its own."""
        if self.is_recording():
            self._events.append(Event(name, attributes, timestamp))  # type: ignore[attr-defined]

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Link it to another span."""
        if self.is_recording():
            self._links = (*self._links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Rename it."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it ended."""
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event that tells of an exception, without its traceback, which may hold payloads."""
        about = {"exception.type": type(exception).__qualname__, "exception.message": str(exception)}
        self.add_event("exception", {**about, "exception.escaped": str(escaped), **(attributes or {})}, timestamp)


def _random_id(bits: int) -> int:
    return random.getrandbits(bits) or 1
