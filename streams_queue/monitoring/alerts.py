"""Rules by which Prometheus alerts, with the thresholds of a configuration: decided here, written by the command.

Every rule is about each queue for itself, and holds however many processes report it: `max` for what describes the
queue, `sum` for what processes count. See docs/decisions/0083-alert-rules.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streams_queue.config import MetricBounds, Settings
from streams_queue.errors import UsageError
from streams_queue.telemetry.names import (
    CONSUMERS_IDLE,
    DEAD,
    DELAYED,
    DEPTH,
    DESTINATION,
    ERRORS,
    EVENTS,
    FALLBACK_ACTIVE,
    IN_FLIGHT,
    KIND,
    LOST,
    MAX_SIZE,
    OLDEST,
    OPERATIONS,
    UP,
    MetricName,
)
from streams_queue.telemetry.prometheus import label_name, series_name
from streams_queue.telemetry.sources import labels_of

_GROUP = "streams-queue"
_QUEUE = label_name(DESTINATION)
# Rates are over so many scrapes: 5 minutes at the usual 15 s.
_SCRAPES = 20
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DEFAULTS = {
    DEPTH.name: 1000.0,
    OLDEST.name: 300.0,
    CONSUMERS_IDLE.name: 30.0,
    ERRORS.name: 0.01,
    MAX_SIZE.name: 0.8,
}


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Attributes:
        name: Of the alert.
        condition: A query that finds the queues it is about.
        lasting: For how long before it fires, as Prometheus writes it; `0s`: at once.
        severity: `critical` where events are not processed or are lost, else `warning`.
        summary: One line; `$value` and the queue's name are filled in by Prometheus.
        remedy: What to look at first.
        of_one_queue: Whether it names a queue.
    """

    name: str
    condition: str
    lasting: str
    severity: str
    summary: str
    remedy: str
    of_one_queue: bool = True


def rules(
    settings: Settings, *, scrape_interval: str = "15s", lasting: str | None = None, only_this_queue: bool = False
) -> dict[str, Any]:
    """Return the rules as a file of Prometheus holds them.

    Args:
        settings: Whose `metrics` list has the thresholds.
        scrape_interval: Of Prometheus, such as `15s`; rates are taken over 20 of them.
        lasting: How long a condition holds before it fires, such as `5m`; None leaves each rule its own.
        only_this_queue: Leave all other queues that Prometheus knows of alone.

    Raises:
        UsageError: A duration is not written as Prometheus writes it.
    """
    queue = f'{_QUEUE}="{dict(labels_of(settings))[DESTINATION]}"' if only_this_queue else ""
    window = _times(_SCRAPES, scrape_interval)
    if lasting is not None:
        _milliseconds(lasting)
    alerts = _alerts(_Thresholds(settings.telemetry.bounds), _Queries(queue, window), window)
    return {"groups": [{"name": _GROUP, "rules": [_written(alert, lasting) for alert in alerts]}]}


class _Thresholds:
    """What the configuration's `metrics` list says, else what is usual."""

    def __init__(self, bounds: Mapping[str, MetricBounds]) -> None:
        self._bounds = bounds

    def number(self, metric: MetricName) -> float:
        """Return the `threshold` of a gauge."""
        given = self._given(metric).threshold
        return _DEFAULTS[metric.name] if given is None else given

    def share(self, metric: MetricName) -> float:
        """Return the `alert_threshold`, of operations or of the queue's size."""
        given = self._given(metric).alert_threshold
        return _DEFAULTS[metric.name] if given is None else given

    def _given(self, metric: MetricName) -> MetricBounds:
        return self._bounds.get(metric.name, MetricBounds(type="gauge"))


class _Queries:
    """Parts of conditions, one value for each queue."""

    def __init__(self, matcher: str, window: str) -> None:
        self._matcher = matcher
        self._range = f"[{window}]"

    def series(self, metric: MetricName, *matchers: str) -> str:
        """Return what selects a metric."""
        wanted = ", ".join(filter(None, (self._matcher, *matchers)))
        return series_name(metric) + (f"{{{wanted}}}" if wanted else "")

    def largest(self, metric: MetricName) -> str:
        """Return the highest value that anybody reports of a queue: where two do, they mean the same."""
        return f"max by ({_QUEUE}) ({self.series(metric)})"

    def smallest(self, metric: MetricName) -> str:
        """Return the lowest one."""
        return f"min by ({_QUEUE}) ({self.series(metric)})"

    def all(self, metric: MetricName, function: str = "") -> str:
        """Return the sum over all processes: of a gauge, or of what a function makes of the last time."""
        inner = f"{function}({self.series(metric)}{self._range})" if function else self.series(metric)
        return f"sum by ({_QUEUE}) ({inner})"

    def change(self, metric: MetricName) -> str:
        """Return by how much a gauge of a queue has grown."""
        return f"max by ({_QUEUE}) (delta({self.series(metric)}{self._range}))"

    def increase_of(self, total: MetricName, kind: str) -> str:
        """Return by how much one of the server's totals has grown."""
        matcher = f'{label_name(KIND)}="{kind}"'
        return f"max by ({_QUEUE}) (increase({self.series(total, matcher)}{self._range}))"


def _alerts(thresholds: _Thresholds, query: _Queries, window: str) -> Iterator[Alert]:
    held = f"{query.largest(DEPTH)} + {query.largest(IN_FLIGHT)} + {query.largest(DELAYED)}"
    deep, old, idle = (thresholds.number(metric) for metric in (DEPTH, OLDEST, CONSUMERS_IDLE))
    errors, full = thresholds.share(ERRORS), thresholds.share(MAX_SIZE)
    yield Alert(
        "StreamsQueueDepth",
        f"{query.largest(DEPTH)} > {deep:.12g}",
        "5m",
        "warning",
        f"{{{{ $value }}}} events wait, more than {deep:.12g}",
        "More comes in than is processed: look at the handlers' duration and at how many workers run.",
    )
    yield Alert(
        "StreamsQueueErrors",
        f"{query.all(ERRORS, 'rate')} / {query.all(OPERATIONS, 'rate')} > {errors:.12g}",
        "5m",
        "warning",
        f"{{{{ $value | humanizePercentage }}}} of the round trips to the server fail, more than {100 * errors:.12g}%",
        "The label error_type of redis_error_rate_total says how; the log of the process says why.",
    )
    yield Alert(
        "StreamsQueueOldestWaiting",
        f"{query.largest(OLDEST)} > {old:.12g}",
        "5m",
        "warning",
        f"An event has waited for {{{{ $value | humanizeDuration }}}}, longer than {old:.12g} s",
        "Is the queue paused, is nobody consuming, or are there too few workers?",
    )
    yield Alert(
        "StreamsQueueDeadLettersGrow",
        f"{query.change(DEAD)} > 0",
        "0s",
        "warning",
        f"There are more dead letters than {window} ago",
        "streams-queue dead list says why they died; once that is mended, streams-queue dead redrive brings them back.",
    )
    yield Alert(
        "StreamsQueueNoConsumer",
        f"({query.smallest(CONSUMERS_IDLE)} > {idle:.12g} or {query.largest(DEPTH)} unless on ({_QUEUE})"
        f" {query.smallest(CONSUMERS_IDLE)}) and on ({_QUEUE}) ({held} > 0)",
        "1m",
        "critical",
        "There is something to do, and no consumer lives",
        "Start workers; if they run, their log says why they do not reach the server.",
    )
    yield Alert(
        "StreamsQueueFallback",
        f"{query.all(FALLBACK_ACTIVE)} > 0",
        "1m",
        "warning",
        "{{ $value }} processes use their local fallback",
        "They do not reach the server; what they hold, streams_queue_fallback_held, may be lost with them.",
    )
    yield Alert(
        "StreamsQueueNearlyFull",
        f"({held}) / {query.largest(MAX_SIZE)} > {full:.12g}",
        "1m",
        "warning",
        f"The queue is {{{{ $value | humanizePercentage }}}} full, more than {100 * full:.12g}%",
        "At max_size it refuses events, or drops the oldest, as configured.",
    )
    yield Alert(
        "StreamsQueueEventsLost",
        f"{query.all(LOST, 'increase')} > 0 or {query.increase_of(EVENTS, 'lost')} > 0",
        "0s",
        "critical",
        "Events are gone that nobody settled",
        "The label streams_queue_reason of streams_queue_lost_total says how; the server lost them, or somebody did.",
    )
    yield Alert(
        "StreamsQueueServerDown",
        f"{query.largest(UP)} == 0",
        "1m",
        "critical",
        "The queue's server does not answer the exporter",
        "streams-queue health says what is wrong.",
    )
    yield Alert(
        "StreamsQueueUnseen",
        f"absent({query.series(DEPTH)})",
        "5m",
        "critical",
        "Nobody reports the queue, so that the other alerts about it are blind",
        "Does streams-queue exporter run, does it reach the server, and does Prometheus reach it?",
        of_one_queue=False,
    )


def _written(alert: Alert, lasting: str | None) -> dict[str, Any]:
    queue = f"{{{{ $labels.{_QUEUE} }}}}: " if alert.of_one_queue else ""
    return {
        "alert": alert.name,
        "expr": alert.condition,
        "for": alert.lasting if lasting is None or alert.lasting == "0s" else lasting,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": f"{queue}{alert.summary}",
            "description": alert.remedy,
        },
    }


def _times(factor: int, duration: str) -> str:
    """Return a multiple of a duration, in the largest unit that needs no fraction."""
    total = factor * _milliseconds(duration)
    if not total:
        raise UsageError("The scrape interval cannot be 0")
    unit = next(unit for unit in ("h", "m", "s", "ms") if total % _MILLISECONDS[unit] == 0)
    return f"{total // _MILLISECONDS[unit]}{unit}"


def _milliseconds(duration: str) -> int:
    parsed = _DURATION.fullmatch(duration)
    if parsed is None:
        raise UsageError(f"A duration is written 15s, 5m or 1h, not {duration!r}")
    return int(parsed[1]) * _MILLISECONDS[parsed[2]]
