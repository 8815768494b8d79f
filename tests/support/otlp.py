"""A collector as far as OTLP goes: a real receiver, gRPC and HTTP, that keeps what it is sent, and may hang.

Built from the protocol's own package.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One value of a metric.

    Attributes:
        value: A number, or of a histogram the whole data point.
        labels: Its attributes.
        resource: Those of the process.
    """

    value: Any
    labels: Attributes
    resource: Attributes


@dataclass(frozen=True)
class Exported:
    """One metric of one export."""

    name: str
    kind: str
    unit: str
    description: str
    monotonic: bool
    temporality: int
    points: list[Point]


@dataclass(frozen=True)
class SeenSpan:
    """One span; ids are hexadecimal."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    attributes: Attributes
    failed: bool
    resource: Attributes
    began_ns: int
    ended_ns: int


class Received:
    """What has arrived so far, in order."""

    def __init__(self) -> None:
        self.exports: list[dict[str, Exported]] = []
        self.spans: list[SeenSpan] = []
        self.requests = 0
        self.answers = threading.Event()
        self.answers.set()

    def metrics(self, request: Any) -> None:
        """Take one export of metrics."""
        self._arrived()
        found: dict[str, Exported] = {}
        for resource in request.resource_metrics:
            process = attributes_of(resource.resource.attributes)
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                assert metric.name not in found, f"{metric.name} twice in one export"
                found[metric.name] = _metric(metric, process)
        self.exports.append(found)

    def traces(self, request: Any) -> None:
        """Take one export of spans."""
        self._arrived()
        for resource in request.resource_spans:
            process = attributes_of(resource.resource.attributes)
            self.spans += [_span(span, process) for scope in resource.scope_spans for span in scope.spans]

    def _arrived(self) -> None:
        self.requests += 1
        self.answers.wait()

    # --- looking ---

    def latest(self) -> dict[str, Exported]:
        """Return each metric as it was exported last, whoever did."""
        return {name: metric for export in list(self.exports) for name, metric in export.items()}

    def total(self, name: str, **labels: str) -> float:
        """Return a counter's value, summed over processes and over attributes that are not given (`_` for `.`)."""
        last: dict[Any, float] = {}
        for export in list(self.exports):
            for point in export[name].points if name in export else ():
                if labels.items() <= {key.replace(".", "_"): value for key, value in point.labels.items()}.items():
                    key = (point.resource["service.instance.id"], tuple(sorted(point.labels.items())))
                    last[key] = point.value
        return sum(last.values())

    def named(self, name: str) -> list[SeenSpan]:
        """Return the spans whose name begins so."""
        return [span for span in list(self.spans) if span.name.startswith(name)]


def attributes_of(pairs: Iterable[Any]) -> Attributes:
    """Return OTLP's list of attributes as a dict."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _metric(metric: Any, process: Attributes) -> Exported:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    return Exported(
        name=metric.name,
        kind=kind,
        unit=metric.unit,
        description=metric.description,
        monotonic=getattr(data, "is_monotonic", False),
        temporality=getattr(data, "aggregation_temporality", 0),
        points=[
            Point(
                value=point if kind == "histogram" else getattr(point, point.WhichOneof("value")),
                labels=attributes_of(point.attributes),
                resource=process,
            )
            for point in data.data_points
        ],
    )


def _span(span: Any, process: Attributes) -> SeenSpan:
    return SeenSpan(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        attributes=attributes_of(span.attributes),
        failed=span.status.code == 2,
        resource=process,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
    )


class GrpcReceiver:
    """Listens for OTLP over gRPC on a free port."""

    protocol = "grpc"

    def __init__(self) -> None:
        self.received = received = Received()
        self._server = grpc.server(futures.ThreadPoolExecutor(4, thread_name_prefix="otlp-receiver"))

        class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
                received.metrics(request)
                return metrics_service_pb2.ExportMetricsServiceResponse()

        class Traces(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
                received.traces(request)
                return trace_service_pb2.ExportTraceServiceResponse()

        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), self._server)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def endpoint(self) -> str:
        """Where to send to."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop listening; what hangs gets its answer."""
        self.received.answers.set()
        self._server.stop(None).wait()


class HttpReceiver:
    """Listens for OTLP over HTTP on a free port."""

    protocol = "http"

    def __init__(self) -> None:
        self.received = received = Received()
        takers = {
            "/v1/metrics": (metrics_service_pb2.ExportMetricsServiceRequest, received.metrics),
            "/v1/traces": (trace_service_pb2.ExportTraceServiceRequest, received.traces),
        }

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message, take = takers[self.path]
                body = self.rfile.read(int(self.headers["Content-Length"]))
                take(message.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp-receiver", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where to send to."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop listening; what hangs gets its answer."""
        self.received.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


RECEIVERS: Mapping[str, type[GrpcReceiver] | type[HttpReceiver]] = {"grpc": GrpcReceiver, "http": HttpReceiver}
