"""An application that has set up OpenTelemetry by itself, and a queue that finds it so."""

from __future__ import annotations

import asyncio
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from streams_queue import QueueFactory, Worker
from tests.support.journal import arguments, say


async def main(config: dict[str, Any], sampled: bool = True) -> None:
    """Say the spans and the metrics that the application's own providers have."""
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))

    async def handle(_: Any) -> None:
        worker.stop()

    for _ in range(2):  # a provider has its instruments once, however many queues come and go
        async with QueueFactory.create_queue(config) as queue:
            with trace.get_tracer("application").start_as_current_span("request"):
                await queue.enqueue({"n": 1})
            worker = Worker(queue, handle)
            await worker.run()
    data = await asyncio.to_thread(reader.get_metrics_data)
    assert data is not None
    found = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
    points = {metric.name: metric.data.data_points[0] for metric in found}
    say([span.name.partition(" ")[0] for span in exporter.get_finished_spans()])
    say({name: getattr(point, "value", None) or getattr(point, "count", 0) for name, point in points.items()})
    bounds = {name: list(getattr(point, "explicit_bounds", ())) for name, point in points.items()}
    say(bounds["messaging.process.duration"])
    parents = {
        span.name.partition(" ")[0]: span.parent and span.parent.span_id for span in exporter.get_finished_spans()
    }
    ids = {span.name.partition(" ")[0]: span.context.span_id for span in exporter.get_finished_spans()}
    say(parents.get("send") == ids.get("request"), parents.get("process") == ids.get("send"))


asyncio.run(main(**arguments()))
