"""How a span is begun: what all of a kind have in common is known beforehand, whoever's tracer makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind


@dataclass(frozen=True, slots=True, eq=False)  # by identity: it is a key where spans are encoded
class Template:
    """What the spans of one operation on one queue have in common.

    Attributes:
        name: Of the spans.
        kind: What the operation is to its trace.
        attributes: That all of them have.
    """

    name: str
    kind: SpanKind
    attributes: Mapping[str, Any]


class BeginsSpans(Protocol):
    """What is needed of a tracer."""

    def begin(
        self,
        template: Template,
        attributes: dict[str, Any],
        parent: trace.Span | None = None,
        links: Sequence[trace.Span] = (),
        start_time: int | None = None,
    ) -> trace.Span:
        """Begin a span.

        Args:
            template: What it has in common with others.
            attributes: What it has beyond that; they are the span's from now on.
            parent: Whose child it is; None: that of the current one, if there is one.
            links: What else it has to do with, as spans: their contexts are asked for when they are needed.
            start_time: When it began, nanoseconds since the epoch; None: now.
        """
        ...


class ApplicationTracer:
    """Makes the spans with a tracer that the application has set up."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self,
        template: Template,
        attributes: dict[str, Any],
        parent: trace.Span | None = None,
        links: Sequence[trace.Span] = (),
        start_time: int | None = None,
    ) -> trace.Span:
        """Begin a span, if the application's sampler will have it."""
        return self._tracer.start_span(
            template.name,
            context=None if parent is None else trace.set_span_in_context(parent, Context()),
            kind=template.kind,
            attributes={**template.attributes, **attributes},
            links=[Link(each.get_span_context()) for each in links],
            start_time=start_time,
        )
