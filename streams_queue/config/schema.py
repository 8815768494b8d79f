"""Which keys there are, and how each of them is read: one line a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streams_queue.config.settings import CompressionSettings, DeadLetterSettings, FallbackSettings, TelemetrySettings
from streams_queue.config.values import (
    LARGEST_BYTES,
    LARGEST_COUNT,
    Read,
    buckets,
    choice,
    flag,
    http_url,
    integer,
    payload_paths,
    prefetch,
    real,
    redis_url,
    share,
    string,
)
from streams_queue.retry import RetryPolicy

VARIABLE_PREFIX = "STREAMS_QUEUE_"


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping inside the configuration: how each of its keys is read, and what is made of them."""

    reads: Mapping[str, Read | Section]
    make: Callable[..., Any] = dict


_KEY_PART = string(r"[A-Za-z0-9._-]{1,64}", "must be 1 to 64 letters, digits, dots, underscores or dashes")

SIDE = Section(
    {
        "type": choice("redis", "asyncio", "resilient"),
        "redis_url": redis_url,
        "max_size": integer(at_least=0),
        "timeout": real(above=0),
        "retry_policy": Section(
            {
                "max_retries": integer(at_least=0),
                "base_delay": real(at_least=0),
                "max_delay": real(at_least=0),
                "jitter": real(at_least=0, at_most=1),
            },
            RetryPolicy,
        ),
        "enqueue_timeout": real(above=0),
        "namespace": _KEY_PART,
        "name": _KEY_PART,
        "group": string(r"[^\s\x00-\x1f\x7f]+", "must not be empty or hold spaces"),
        "overflow": choice("reject", "block", "drop_oldest"),
        "durability": choice("accepted", "replicated", "fsynced"),
        "min_replicas": integer(at_least=0),
        "lease": real(at_least=0.1),
        "max_lease": real(at_least=0.1),
        "handler_timeout": real(above=0),
        "prefetch": prefetch,
        "max_event_bytes": integer(at_least=1, at_most=LARGEST_BYTES),
        "compression": Section(
            {
                "type": choice("none", "zstd"),
                "min_bytes": integer(at_least=0, at_most=LARGEST_BYTES),
                "level": integer(at_least=1, at_most=19),
            },
            CompressionSettings,
        ),
        "dedup_window": real(at_least=1),
        "dead_letter": Section(
            {"max_size": integer(at_least=1), "when_full": choice("refuse", "drop")}, DeadLetterSettings
        ),
        "fallback": Section(
            {"max_size": integer(at_least=0), "spool": string(r"[^\x00]+", "must be a directory")},
            FallbackSettings,
        ),
    }
)
"""What each queue of a rollout may say for itself; what it does not say is taken from `queue`."""

QUEUE = Section(
    {
        **SIDE.reads,
        "type": choice("redis", "asyncio", "resilient", "rollout"),
        "rollout": Section(
            {"percentage": real(at_least=0, at_most=100), "key": payload_paths, "old": SIDE, "new": SIDE}
        ),
        "telemetry": Section(
            {
                "enabled": flag,
                "endpoint": http_url,
                "protocol": choice("grpc", "http"),
                "interval": real(at_least=0.1),
                "timeout": real(at_least=0.1),
                "sampling_ratio": real(at_least=0, at_most=1),
                "service_name": string(r"[^\x00-\x1f\x7f]{1,255}", "must be 1 to 255 printable characters"),
            },
            TelemetrySettings,
        ),
    }
)

METRIC = Section(
    {
        "name": string(r"[A-Za-z_][A-Za-z0-9_.]{0,254}", "must be letters, digits, dots and underscores"),
        "type": choice("gauge", "histogram", "counter"),
        "threshold": real(at_least=0, at_most=LARGEST_COUNT),
        "buckets": buckets,
        "alert_threshold": share,
    }
)


def variables(section: Section, prefix: str = VARIABLE_PREFIX) -> dict[str, tuple[str, ...]]:
    """Map each environment variable that sets a key to the key's path."""
    paths: dict[str, tuple[str, ...]] = {}
    for key, read in section.reads.items():
        name = f"{prefix}{key.upper()}"
        if isinstance(read, Section):
            paths |= {inner: (key, *path) for inner, path in variables(read, f"{name}__").items()}
        else:
            paths[name] = (key,)
    return paths
