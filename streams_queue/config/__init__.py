"""Settings: read from a mapping, a YAML file or the environment, validated once, all problems reported at once.

No message and no repr made here carries a value: it may be a password. What is wrong is told by path, rule and
suggestion.
"""

from __future__ import annotations

from streams_queue.config.loading import load_config
from streams_queue.config.redaction import redact_url
from streams_queue.config.settings import (
    FACTORY_REQUIRES,
    MEMORY_REQUIRES,
    REDIS_REQUIRES,
    ROLLOUT_REQUIRES,
    CompressionSettings,
    DeadLetterSettings,
    FallbackSettings,
    MetricBounds,
    RolloutSettings,
    Settings,
    TelemetrySettings,
)
from streams_queue.config.urls import SentinelUrl, parse_sentinel_url

__all__ = [
    "FACTORY_REQUIRES",
    "MEMORY_REQUIRES",
    "REDIS_REQUIRES",
    "ROLLOUT_REQUIRES",
    "CompressionSettings",
    "DeadLetterSettings",
    "FallbackSettings",
    "MetricBounds",
    "RolloutSettings",
    "SentinelUrl",
    "Settings",
    "TelemetrySettings",
    "load_config",
    "parse_sentinel_url",
    "redact_url",
]
