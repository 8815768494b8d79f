"""A tracer that makes nothing but sampled spans and hands them to the SDK for export.

The SDK's own takes 30 to 100 µs for a span on the machine of docs/decisions/0080-telemetry.md: it asks a sampler that
has nothing to decide here, copies and checks attributes and links, and takes locks. With one event in a hundred traced
that alone would be felt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import getrandbits
from typing import Any

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from streams_queue.telemetry.spans import Template

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status()


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
        self.take = take
        self.shutdown = shutdown
        self.resource = resource
        self.scope = scope

    def begin(
        self,
        template: Template,
        attributes: dict[str, Any],
        parent: trace.Span | None = None,
        links: Sequence[trace.Span] = (),
        start_time: int | None = None,
    ) -> LightSpan:
        """Begin a span; as in BeginsSpans."""
        if parent is None and (around := context.get_current()):
            current = trace.get_current_span(around)
            parent = current if current.get_span_context().is_valid else None
        return LightSpan(self, template, attributes, parent, links, start_time or time.time_ns())


class LightSpan(trace.Span, ReadableSpan):
    """A span that records; a handler may add to it what it likes, from its own thread.

    It keeps what it was given. What the SDK reads of it is put together when it does so, in the thread that exports:
    there it comes by the hundred and costs a fraction of what it would between two events.

    Attributes:
        tracer: That has begun it.
        template: What it has in common with others.
        added: Its other attributes.
        begun_in: Its parent.
        linked: What it was linked to from the beginning.
    """

    # Nearly all of them have none of these.
    _more_links: Sequence[Link] = ()
    _told: Sequence[Event] = ()
    _outcome: Status = _UNSET
    _renamed: str | None = None
    _ended_ns: int = 0

    def __init__(
        self,
        tracer: LightTracer,
        template: Template,
        attributes: dict[str, Any],
        parent: trace.Span | None,
        links: Sequence[trace.Span],
        start_time: int,
    ) -> None:
        self.tracer = tracer
        self.template = template
        self.added = attributes
        self.begun_in = parent
        self.linked = links
        self._began_ns = start_time
        self._span_id = getrandbits(64) or 1
        # Of a root, which nobody else knows; else it follows from the parent's, whoever asks first.
        self._known = None if parent else SpanContext(getrandbits(128) or 1, self._span_id, False, _SAMPLED)

    # --- while it runs ---

    def end(self, end_time: int | None = None) -> None:
        """End it, once, and hand it over."""
        if not self._ended_ns:
            self._ended_ns = end_time or time.time_ns()
            self.tracer.take(self)

    def get_span_context(self) -> SpanContext:
        """Return what makes others part of its trace."""
        if self._known is None:
            assert self.begun_in is not None  # noqa: S101 - for the type checker: a root knows it
            parent = self.begun_in.get_span_context()
            self._known = SpanContext(parent.trace_id, self._span_id, False, _SAMPLED, parent.trace_state)
        return self._known

    def is_recording(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended_ns

    def set_attribute(self, key: str, value: Any) -> None:
        """Add one attribute."""
        if not self._ended_ns:
            self.added[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        if not self._ended_ns:
            self.added.update(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event of its own."""
        if not self._ended_ns:
            self._told = (*self._told, Event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Link it to another span."""
        if not self._ended_ns:
            self._more_links = (*self._more_links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Rename it."""
        if not self._ended_ns:
            self._renamed = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it ended."""
        if not self._ended_ns:
            self._outcome = status if isinstance(status, Status) else Status(status, description)

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

    # --- what the encoder reads, and the SDK; the latter as in ReadableSpan ---

    @property
    def is_as_begun(self) -> bool:
        """Whether nothing was added to it but attributes."""
        return not (self._told or self._more_links or self._renamed) and self._outcome is _UNSET

    @property
    def name(self) -> str:  # noqa: D102
        return self.template.name if self._renamed is None else self._renamed

    @property
    def context(self) -> SpanContext:  # noqa: D102
        return self.get_span_context()

    @property
    def kind(self) -> SpanKind:  # noqa: D102
        return self.template.kind

    @property
    def parent(self) -> SpanContext | None:  # noqa: D102
        return None if self.begun_in is None else self.begun_in.get_span_context()

    @property
    def start_time(self) -> int:  # noqa: D102
        return self._began_ns

    @property
    def end_time(self) -> int | None:  # noqa: D102
        return self._ended_ns or None

    @property
    def status(self) -> Status:  # noqa: D102
        return self._outcome

    @property
    def attributes(self) -> Mapping[str, Any]:  # noqa: D102
        return {**self.template.attributes, **self.added}

    @property
    def events(self) -> Sequence[Event]:  # noqa: D102
        return self._told

    @property
    def links(self) -> Sequence[Link]:  # noqa: D102
        return (*(Link(each.get_span_context()) for each in self.linked), *self._more_links)

    @property
    def resource(self) -> Resource:  # noqa: D102
        return self.tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:  # noqa: D102
        return self.tracer.scope

    @property
    def dropped_attributes(self) -> int:  # noqa: D102
        return 0

    @property
    def dropped_events(self) -> int:  # noqa: D102
        return 0

    @property
    def dropped_links(self) -> int:  # noqa: D102
        return 0
