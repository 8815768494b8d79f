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
        links: Sequence[SpanContext] = (),
        start_time: int | None = None,
    ) -> LightSpan:
        """Begin a span; as in BeginsSpans."""
        if parent is None:
            current = trace.get_current_span()
            parent = current if current.get_span_context().is_valid else None
        return LightSpan(self, template, attributes, parent, links, start_time or time.time_ns())


class LightSpan(trace.Span, ReadableSpan):
    """A span that records; a handler may add to it what it likes, from its own thread.

    It keeps what it was given. What the SDK reads of it is put together when it does so, in the thread that exports:
    there it comes by the hundred and costs a fraction of what it would between two events.
    """

    # Nearly all of them have none of these.
    _more_links: Sequence[Link] = ()
    _told: Sequence[Event] = ()
    _ended: Status = _UNSET
    _renamed: str | None = None
    _end_time: int | None = None

    def __init__(
        self,
        tracer: LightTracer,
        template: Template,
        attributes: dict[str, Any],
        parent: trace.Span | None,
        links: Sequence[SpanContext],
        start_time: int,
    ) -> None:
        self._tracer = tracer
        self._template = template
        self._added = attributes
        self._begun_in = parent
        self._linked = links
        self._start_time = start_time
        self._span_id = _random_id(64)
        # Of a root, which nobody else knows; else it follows from the parent's, whoever asks first.
        self._known = None if parent else SpanContext(_random_id(128), self._span_id, False, _SAMPLED)

    # --- while it runs ---

    def end(self, end_time: int | None = None) -> None:
        """End it, once, and hand it over."""
        if self._end_time is None:
            self._end_time = end_time or time.time_ns()
            self._tracer.take(self)

    def get_span_context(self) -> SpanContext:
        """Return what makes others part of its trace."""
        if self._known is None:
            assert self._begun_in is not None  # noqa: S101 - for the type checker: a root knows it
            parent = self._begun_in.get_span_context()
            self._known = SpanContext(parent.trace_id, self._span_id, False, _SAMPLED, parent.trace_state)
        return self._known

    def is_recording(self) -> bool:
        """Whether it has not ended yet."""
        return self._end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Add one attribute."""
        if self._end_time is None:
            self._added[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        if self._end_time is None:
            self._added.update(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event of its own."""
        if self._end_time is None:
            self._told = (*self._told, Event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Link it to another span."""
        if self._end_time is None:
            self._more_links = (*self._more_links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Rename it."""
        self._renamed = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it ended."""
        self._ended = status if isinstance(status, Status) else Status(status, description)

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

    # --- what the SDK reads; as in ReadableSpan ---

    @property
    def name(self) -> str:  # noqa: D102
        return self._template.name if self._renamed is None else self._renamed

    @property
    def context(self) -> SpanContext:  # noqa: D102
        return self.get_span_context()

    @property
    def kind(self) -> SpanKind:  # noqa: D102
        return self._template.kind

    @property
    def parent(self) -> SpanContext | None:  # noqa: D102
        return None if self._begun_in is None else self._begun_in.get_span_context()

    @property
    def start_time(self) -> int:  # noqa: D102
        return self._start_time

    @property
    def end_time(self) -> int | None:  # noqa: D102
        return self._end_time

    @property
    def status(self) -> Status:  # noqa: D102
        return self._ended

    @property
    def attributes(self) -> Mapping[str, Any]:  # noqa: D102
        return {**self._template.attributes, **self._added}

    @property
    def events(self) -> Sequence[Event]:  # noqa: D102
        return self._told

    @property
    def links(self) -> Sequence[Link]:  # noqa: D102
        return (*map(Link, self._linked), *self._more_links)

    @property
    def resource(self) -> Resource:  # noqa: D102
        return self._tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:  # noqa: D102
        return self._tracer.scope

    @property
    def dropped_attributes(self) -> int:  # noqa: D102
        return 0

    @property
    def dropped_events(self) -> int:  # noqa: D102
        return 0

    @property
    def dropped_links(self) -> int:  # noqa: D102
        return 0


def _random_id(bits: int) -> int:
    return random.getrandbits(bits) or 1
