"""Spans as OTLP messages: the SDK encodes one of each kind, and the others are copies of it with their own ids.

The SDK takes 20 µs for each span, most of them for attributes that are the same in thousands, and is in the way of the
event loop all the while; this takes 4. What is not as usual, an event or a link that a handler has added, an error, a
`tracestate`, is for the SDK. See docs/decisions/0080-telemetry.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.trace import SpanContext

from streams_queue.telemetry.light_tracer import LightSpan
from streams_queue.telemetry.spans import Template

# What is common to spans: their template, and whether they have a parent, and one in another process.
_Kind = tuple[Template, bool, bool]
_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_INT64 = range(-(2**63), 2**63)


def encode(spans: Sequence[LightSpan]) -> ExportTraceServiceRequest:
    """Return the request that `encode_spans` would: all spans are of one tracer, and there is at least one."""
    request = encode_spans(spans[:1])
    messages = request.resource_spans[0].scope_spans[0].spans
    del messages[:]
    known: dict[_Kind, Any] = {}
    for span in spans:
        message = messages.add()
        if not _is_plain(span):
            message.CopyFrom(_encode_one(span))
            continue
        parent = span.parent
        kind = span.template, parent is None, parent is not None and parent.is_remote
        if kind not in known:
            known[kind] = _encode_one(LightSpan(span.tracer, span.template, {}, span.begun_in, (), span.start_time))
        message.CopyFrom(known[kind])
        _fill_in(message, span, parent)
    return request


def _is_plain(span: LightSpan) -> bool:
    return (
        span.is_as_begun
        and not span.context.trace_state
        and all(_is_simple(name, value) for name, value in span.added.items())
        and span.added.keys().isdisjoint(span.template.attributes)
    )


def _is_simple(name: object, value: object) -> bool:
    """Whether an attribute can be written as it is: a handler may have added anything."""
    if type(name) is not str or not name.isascii():
        return False
    return value.isascii() if type(value) is str else type(value) is int and value in _INT64


def _encode_one(span: LightSpan) -> Any:
    return encode_spans([span]).resource_spans[0].scope_spans[0].spans[0]


def _fill_in(message: Any, span: LightSpan, parent: SpanContext | None) -> None:
    """Write into the copy of another span's message what is this span's own."""
    _identify(message, span.context)
    if parent is not None:
        message.parent_span_id = _span_id(parent)
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_time, span.end_time or 0
    for name, value in span.added.items():
        attribute = message.attributes.add(key=name)
        if type(value) is str:
            attribute.value.string_value = value
        else:
            attribute.value.int_value = value
    for linked in span.linked:
        link, known = message.links.add(), linked.get_span_context()
        _identify(link, known)
        link.flags = _REMOTE if known.is_remote else _LOCAL


def _identify(message: Any, context: SpanContext) -> None:
    message.trace_id, message.span_id = context.trace_id.to_bytes(16, "big"), _span_id(context)


def _span_id(context: SpanContext) -> bytes:
    return context.span_id.to_bytes(8, "big")
