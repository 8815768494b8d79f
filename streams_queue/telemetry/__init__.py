"""OpenTelemetry: metrics and traces of queues. The only package here that imports it, and only when it is wanted.

`with_telemetry` makes a queue and decides whether that is so. `names` lists the metrics, `tally` counts in plain
numbers, `sources` has the tallies of all queues, `instruments` offers them to a meter provider and `prometheus` to a
registry of Prometheus, `reporter` asks the queue for its figures, `tracing` says which spans there are and `spans` how
one is begun, `observer` is what a queue tells, `watched` the class that begins and ends all this, `pipeline`,
`light_tracer`, `encoding` and `exporting` bring it to a collector. See docs/decisions/0080-telemetry.md and
0081-prometheus.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from streams_queue.config import Settings
from streams_queue.observer import Observer
from streams_queue.queue import Queue
from streams_queue.telemetry.wanted import is_wanted

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["with_telemetry"]

Q = TypeVar("Q", bound=Queue)


def with_telemetry(
    queue_class: type[Q],
    settings: Settings,
    *,
    observers: Iterable[Observer],
    registry: CollectorRegistry | None = None,
    **options: Any,
) -> Q:
    """Make a queue of this class that is measured and traced, if that is wanted; else just a queue.

    Starts nothing: that is for the queue's first use.

    Raises:
        ConfigError: The settings ask for it, and the extra is not installed; or what the class raises.
    """
    sends = is_wanted(settings.telemetry)
    if not sends and registry is None:
        return queue_class(settings, observers=observers, **options)  # type: ignore[call-arg]
    from streams_queue.telemetry.observer import Telemetry
    from streams_queue.telemetry.watched import watched

    telemetry = Telemetry(settings, sends=sends, registry=registry)
    return watched(queue_class, telemetry, settings, observers=observers, **options)
