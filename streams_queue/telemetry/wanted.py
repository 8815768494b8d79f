"""Whether telemetry is wanted, and by whom: the settings, the standard variables, or an application that has set it up.

Imports nothing of OpenTelemetry: where it is not wanted, it is not loaded.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

from streams_queue.config import TelemetrySettings
from streams_queue.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)

Signal = Literal["metrics", "traces"]
SIGNALS: tuple[Signal, ...] = ("metrics", "traces")
DEFAULT_INTERVAL = 60.0
DEFAULT_SAMPLING_RATIO = 0.01
_GETTERS = {"metrics": "get_meter_provider", "traces": "get_tracer_provider"}
_MODULES = {"metrics": "opentelemetry.metrics", "traces": "opentelemetry.trace"}
_EXTRA = ("opentelemetry.sdk", "opentelemetry.exporter.otlp")
_SAMPLERS = {"always_on": 1.0, "always_off": 0.0}


def is_wanted(settings: TelemetrySettings, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether anything is to be measured or traced.

    Raises:
        ConfigError: The settings ask for it, and the extra is not installed. Where only a variable does, which may be
            meant for somebody else, that is logged and the answer is no.
    """
    if settings.enabled is False or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if all(set_by_application(signal) is not None or not exports(signal, settings, environ) for signal in SIGNALS):
        return any(set_by_application(signal) is not None for signal in SIGNALS)
    if all(map(_is_installed, _EXTRA)):
        return True
    if settings.enabled or settings.endpoint:
        missing = MissingExtraError("telemetry", "telemetry")
        raise ConfigError(f"queue.telemetry: {missing}")
    logger.info("OTEL_* variables ask for telemetry, which needs the extra 'telemetry'; there will be none")
    return False


def exports(signal: Signal, settings: TelemetrySettings, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a signal is to be exported by this package, unless the application sees to it."""
    if environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none":
        return False
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    return bool(settings.enabled or settings.endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get(own))


def set_by_application(signal: Signal) -> Any:
    """Return the global provider of a signal if the application has set one, else None."""
    api = sys.modules.get(_MODULES[signal])
    if api is None:
        return None
    provider = getattr(api, _GETTERS[signal])()
    # The interface's own stand-ins do nothing, or wait for a provider that nobody has set.
    return None if type(provider).__module__.startswith(_MODULES[signal]) else provider


def protocol(signal: Signal, settings: TelemetrySettings, environ: Mapping[str, str] = os.environ) -> str:
    """Return `grpc` or `http`: as set, as the standard variables say, else by the port, 4317 being that of gRPC."""
    general, own = (environ.get(f"OTEL_EXPORTER_OTLP_{part}PROTOCOL", "") for part in ("", f"{signal.upper()}_"))
    chosen = settings.protocol or own or general
    if chosen:
        return "grpc" if chosen.strip().lower() == "grpc" else "http"
    addresses = (environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT", "") for part in (f"{signal.upper()}_", ""))
    address = settings.endpoint or next(filter(None, addresses), "")
    return "grpc" if address.rstrip("/").endswith(":4317") else "http"


def interval(settings: TelemetrySettings, environ: Mapping[str, str] = os.environ) -> float:
    """Return how many seconds are between two exports of the metrics."""
    if settings.interval is not None:
        return settings.interval
    return _number(environ.get("OTEL_METRIC_EXPORT_INTERVAL"), DEFAULT_INTERVAL * 1000) / 1000 or DEFAULT_INTERVAL


def sampling_ratio(settings: TelemetrySettings, environ: Mapping[str, str] = os.environ) -> float:
    """Return the share of calls to trace; a sampler that is not one of OpenTelemetry's own few counts as not set."""
    if settings.sampling_ratio is not None:
        return settings.sampling_ratio
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower().removeprefix("parentbased_")
    if sampler == "traceidratio":
        return min(1.0, max(0.0, _number(environ.get("OTEL_TRACES_SAMPLER_ARG"), 1.0)))
    return _SAMPLERS.get(sampler, DEFAULT_SAMPLING_RATIO)


def _number(text: str | None, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return default


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
