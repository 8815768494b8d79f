"""Spans as OTLP messages: ours say what the SDK's encoder would, whatever a handler has added to a span."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import StatusCode

from streams_queue.messages import Delivery
from streams_queue.telemetry import encoding
from streams_queue.telemetry.encoding import encode
from streams_queue.telemetry.light_tracer import LightSpan, LightTracer
from streams_queue.telemetry.tracing import Tracing

PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
Add = Callable[[trace.Span], object]


@pytest.fixture
def traced() -> SimpleNamespace:
    """Make the tracing of one queue, and keep the spans that have ended."""
    spans: list[Any] = []
    scope = InstrumentationScope("streams_queue", "1")
    tracer = LightTracer(spans.append, lambda: None, Resource({"service.name": "gitbridge"}), scope)
    labels = (("messaging.system", "redis"), ("messaging.destination.name", "gitbridge:events"))
    return SimpleNamespace(spans=spans, tracing=Tracing(tracer, 1.0, labels, "gitbridge:events", "processors"))


def delivery(headers: Mapping[str, str], event_id: str = "one", deliveries: int = 1) -> Delivery:
    """Return a delivery with these headers."""
    return Delivery({}, event_id, "1-1", deliveries, headers)


def process(tracing: Tracing, delivered: Delivery, add: Add | None = None, error: Exception | None = None) -> None:
    """Let a handler run that does something to its span, and settle."""
    tracing.handling(delivered)
    if add is not None:
        add(trace.get_current_span())
    tracing.handled(delivered, "processed" if error is None else "failed", error)
    tracing.settled(delivered, "acked" if error is None else "retried")


def spans_of(request: Any) -> Any:
    """Return a request's spans."""
    return request.resource_spans[0].scope_spans[0].spans


def send(tracing: Tracing, count: int = 1, event_ids: list[str | None] | None = None, **headers: str) -> dict[str, str]:
    """Let a call enqueue, and return what its events carry."""
    sending = tracing.sending(headers, event_ids or [None], count)
    assert sending is not None
    with sending:
        sending.ended(count)
    return dict(sending.headers or {})


def test_spans_of_all_kinds_are_encoded_as_the_sdk_does(traced: SimpleNamespace) -> None:
    """Roots and children, of this process and of another, with links and without, in one request."""
    tracing = traced.tracing
    around = LightSpan(tracing._tracer, tracing._create, {}, None, (), 1)
    token = context.attach(trace.set_span_in_context(around))
    send(tracing)
    context.detach(token)
    assert traced.spans[0].parent == around.get_span_context()
    for number in range(3):
        carried = send(tracing, event_ids=[f"event-{number}"])
        deliveries = [delivery(carried, f"event-{number}", number + 1), delivery({"traceparent": PARENT}, "other")]
        tracing.received([*deliveries, delivery({})], 1_000)
        for delivered in deliveries:
            process(tracing, delivered)
        tracing.settled(delivery(carried), "acked")
        send(tracing, count=7, traceparent=PARENT)
    LightSpan(tracing._tracer, tracing._forward, {}, None, [around], 1).end(2)

    assert len(traced.spans) == 3 * 8 + 2
    assert encode(traced.spans) == encode_spans(traced.spans)


@pytest.mark.parametrize(
    ("value", "is_written"),
    [
        *[(value, True) for value in ("kept", "héllo", 7, -(2**63), True, 1.5, ("a", "b"), b"\xff")],
        *[(value, False) for value in (2**63, "\ud800")],
    ],
)
def test_attributes_of_a_handler_are_encoded_as_the_sdk_does(
    traced: SimpleNamespace, value: Any, is_written: bool
) -> None:
    """What has no place in OTLP is left out, and the spans beside it are not touched."""
    for add in (None, lambda span: span.set_attribute("mine", value), None):
        process(traced.tracing, delivery({"traceparent": PARENT}), add)

    encoded = encode(traced.spans)
    assert encoded == encode_spans(traced.spans)
    written = [{attribute.key for attribute in message.attributes} for message in spans_of(encoded)]
    assert ["mine" in names for names in written] == [False, False, is_written, False, False, False]


@pytest.mark.parametrize("added", [{"é": "e", "b": 2}, {"messaging.system": "mine"}, {"\ud800": "c"}])
def test_attributes_with_other_names_are_encoded_as_the_sdk_does(
    traced: SimpleNamespace, added: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One of ours that a handler writes over is there once."""
    # The SDK's line on a name that is no text is none either.
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    process(traced.tracing, delivery({"traceparent": PARENT}), lambda span: span.set_attributes(added))
    encoded = encode(traced.spans)
    assert encoded == encode_spans(traced.spans)
    names = [attribute.key for attribute in spans_of(encoded)[0].attributes]
    assert added.keys() - {"\ud800"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "add",
    [
        pytest.param(lambda span: span.add_event("cached", {"hits": 3}, 5), id="event"),
        pytest.param(lambda span: span.add_link(span.get_span_context(), {"a": 1}), id="link"),
        pytest.param(lambda span: span.update_name("mine"), id="name"),
        pytest.param(lambda span: span.set_status(StatusCode.ERROR, "no luck"), id="status"),
        pytest.param(lambda span: span.record_exception(ValueError("no luck"), {"a": 1}, 5), id="exception"),
    ],
)
def test_what_else_a_handler_adds_is_encoded_as_the_sdk_does(traced: SimpleNamespace, add: Add) -> None:
    """It is in the message, and not in those of the spans beside it."""
    for change in (None, add, None):
        process(traced.tracing, delivery({"traceparent": PARENT}), change)

    encoded = encode(traced.spans)
    assert encoded == encode_spans(traced.spans)
    first, _, changed, _, last, _ = (
        (message.name, len(message.events), len(message.links), message.status.code) for message in spans_of(encoded)
    )
    assert changed != first == last


def test_a_failure_and_a_state_are_encoded_as_the_sdk_does(traced: SimpleNamespace) -> None:
    """An error is a status; a `tracestate` goes along from the creation to the settlement."""
    process(traced.tracing, delivery({"traceparent": PARENT}), error=KeyError("secret"))
    process(traced.tracing, delivery({"traceparent": PARENT}))
    process(traced.tracing, delivery({"traceparent": PARENT, "tracestate": "vendor=1"}))

    encoded = encode(traced.spans)
    assert encoded == encode_spans(traced.spans)
    messages = spans_of(encoded)
    assert [message.trace_state for message in messages] == ["", "", "", "", "vendor=1", "vendor=1"]
    assert [message.status.code for message in messages] == [StatusCode.ERROR.value, 0, 0, 0, 0, 0]


def test_the_sdk_encodes_one_of_each_kind(traced: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred runs of a handler, with their settlements, cost it three spans."""
    for _ in range(100):
        process(traced.tracing, delivery({"traceparent": PARENT}))
    by_the_sdk: list[Any] = []

    def counted(spans: Any) -> Any:
        by_the_sdk.extend(spans)
        return encode_spans(spans)

    monkeypatch.setattr(encoding, "encode_spans", counted)
    encode(traced.spans)
    assert len(by_the_sdk) == 3


def test_a_span_that_has_ended_stays_as_it_was(traced: SimpleNamespace) -> None:
    """It may be on its way already when a thread that overran its time comes back."""
    kept: list[trace.Span] = []
    process(traced.tracing, delivery({"traceparent": PARENT}), kept.append)
    (span,) = kept
    before = encode(traced.spans)
    span.set_attribute("late", 1)
    span.set_attributes({"late": 1})
    span.add_event("late")
    span.add_link(span.get_span_context())
    span.update_name("late")
    span.set_status(StatusCode.ERROR)
    span.record_exception(ValueError())
    span.end(7)

    assert not span.is_recording()
    assert len(traced.spans) == 2
    assert encode(traced.spans) == before
