"""What there is to set, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from streams_queue.config.redaction import redact_url
from streams_queue.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionSettings:
    """How payloads are compressed on their way to a server.

    Attributes:
        type: `zstd`, or `none` for not at all.
        min_bytes: Encoded payloads from this size on are.
        level: Of zstd: higher is slower and a little smaller.
    """

    type: Literal["none", "zstd"] = "zstd"
    min_bytes: int = 2048
    level: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSettings:
    """How many dead letters are kept, and what happens to the next one: `refuse` it or `drop` the oldest."""

    max_size: int = 10_000
    when_full: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackSettings:
    """How many events the resilient queue holds locally, and in which directory, if they are to survive the process."""

    max_size: int = 10_000
    spool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBounds:
    """What the configuration says about one metric.

    Attributes:
        type: `gauge`, `histogram` or `counter`.
        threshold: A gauge above it deserves a look; None if not given.
        buckets: Upper bounds of a histogram, ascending, in the metric's unit; () if not given.
        alert_threshold: Alert when this share of operations is counted, from 0 to 1; None if not given.
    """

    type: Literal["gauge", "histogram", "counter"]
    threshold: float | None = None
    buckets: tuple[float, ...] = ()
    alert_threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What is sent to an OpenTelemetry collector, and where; None leaves it to the standard OTEL_* variables.

    Attributes:
        enabled: Whether at all; None: where an endpoint is given, here or there, or the application has providers set.
        endpoint: Of the collector, without the signals' own paths.
        protocol: Of OTLP; None goes by the endpoint's port: 4317 is gRPC.
        interval: Seconds between two exports of the metrics.
        timeout: Seconds that one export may take.
        sampling_ratio: The share of calls of `enqueue` whose events are traced, from 0 to 1.
        service_name: Under which the collector knows this process.
        bounds: The top-level `metrics:` list by name.
    """

    enabled: bool | None = None
    endpoint: str | None = None
    protocol: Literal["grpc", "http"] | None = None
    interval: float | None = None
    timeout: float | None = None
    sampling_ratio: float | None = None
    service_name: str | None = None
    bounds: Mapping[str, MetricBounds] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """The `queue` section of the configuration; all times are seconds, all sizes bytes or events as named.

    Attributes:
        type: Which queue the factory makes; a class built directly ignores it.
        redis_url: Where the server is; may hold a password, which no repr and no message shows.
        max_size: The most events that may be unsettled at once; 0 refuses everything.
        timeout: Default wait of `dequeue`.
        retry_policy: How often, and how far apart, a failed event runs again.
        enqueue_timeout: The longest that `enqueue` tries to reach the server, all attempts together.
        namespace: First part of every key.
        name: The queue's own name; one hash tag in a cluster.
        group: The consumer group; a queue has one.
        overflow: What a full queue does with a new event.
        durability: How far an event has to get before `enqueue` returns.
        min_replicas: How many replicas have to have it then, at least; None is 1 for `replicated`, 0 for `fsynced`.
        lease: How long a crashed consumer's event stays with it; renewed while its process lives.
        max_lease: The longest that one delivery is renewed.
        handler_timeout: The longest that a handler may run; None sets no limit.
        prefetch: How many events are fetched ahead; `auto` follows the handlers' speed.
        max_event_bytes: The largest encoded event that is taken, before it is compressed.
        compression: How payloads are compressed for the server; None leaves them as they are.
        dedup_window: How long an event_id given by a caller is remembered.
        dead_letter: How dead letters are kept.
        fallback: What the resilient queue may hold locally.
        rollout: The two queues of a rollout, and how much goes to which; None if there is none.
        telemetry: What is sent to OpenTelemetry, and the bounds of the top-level `metrics:` list.
    """

    type: Literal["redis", "asyncio", "resilient", "rollout"] = "redis"
    redis_url: str | None = None
    max_size: int
    timeout: float
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    enqueue_timeout: float = 5.0
    namespace: str = "gitbridge"
    name: str = "events"
    group: str = "processors"
    overflow: Literal["reject", "block", "drop_oldest"] = "reject"
    durability: Literal["accepted", "replicated", "fsynced"] = "accepted"
    min_replicas: int | None = None
    lease: float = 15.0
    max_lease: float = 3600.0
    handler_timeout: float | None = None
    prefetch: int | Literal["auto"] = "auto"
    max_event_bytes: int = 10 * 1024 * 1024
    compression: CompressionSettings | None = None
    dedup_window: float = 86_400.0
    dead_letter: DeadLetterSettings = DeadLetterSettings()
    fallback: FallbackSettings = FallbackSettings()
    rollout: RolloutSettings | None = None
    telemetry: TelemetrySettings = TelemetrySettings()

    def __repr__(self) -> str:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.redis_url is not None:
            values["redis_url"] = redact_url(self.redis_url)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in values.items())})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """A gradual move from one queue to another.

    Attributes:
        old: Everything about the queue that events come from; its `rollout` is None.
        new: The same of the one that they are to go to.
        percentage: The share of keys whose new events go to the new queue, from 0 to 100.
        key: Where in a payload the key is by which it is decided: paths, of which the first one that is there counts.
    """

    old: Settings
    new: Settings
    percentage: float
    key: tuple[str, ...] = ("repository.full_name", "repo", "payload.repository.full_name")


MEMORY_REQUIRES = ("max_size", "timeout")
"""What the asyncio queue must be told, and a Redis queue that is given its client."""

REDIS_REQUIRES = ("redis_url", "max_size", "timeout")
"""What a queue that connects to a server by itself must be told."""

ROLLOUT_REQUIRES = ("rollout", "max_size", "timeout")
"""What a rollout must be told, beside what each of its two queues needs."""

FACTORY_REQUIRES = ("type", "redis_url", "max_size", "timeout", "retry_policy")
"""What `create_queue` must be told; `redis_url` only where a server is used, `rollout` where `type` says so."""
