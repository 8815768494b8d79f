"""Which metrics there are: name, unit, bounds and meaning. docs/reference/metrics.md says the same."""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM = "messaging.system"
DESTINATION = "messaging.destination.name"
GROUP = "messaging.consumer.group.name"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
MESSAGE_ID = "messaging.message.id"
MESSAGE_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
REASON = "streams_queue.reason"
END = "streams_queue.end"
DELIVERIES = "streams_queue.deliveries"
ACCEPTED = "streams_queue.accepted"
KIND = "streams_queue.kind"


@dataclass(frozen=True, slots=True, eq=False)  # by identity: it is a key on the hot path
class MetricName:
    """One metric; `bounds` are a histogram's upper bounds, in its unit, where the configuration gives no others."""

    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = ()


# The plan's own three.
DEPTH = MetricName("redis_queue_depth", "{event}", "Events that wait to be handed out")
LATENCY = MetricName(
    "redis_operation_latency", "ms", "How long round trips to the server take", (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
)
ERRORS = MetricName("redis_error_rate", "{error}", "Round trips to the server that failed")

# Of the whole queue, reported by one process.
IN_FLIGHT = MetricName("streams_queue.in_flight", "{event}", "Events handed out and not settled")
DELAYED = MetricName("streams_queue.delayed", "{event}", "Events and retries that are not due yet")
DEAD = MetricName("streams_queue.dead", "{event}", "Dead letters kept")
OLDEST = MetricName("streams_queue.oldest_waiting.age", "s", "Age of the oldest event that waits; 0 if none does")
MAX_SIZE = MetricName("streams_queue.max_size", "{event}", "The most events that may wait, be in flight or delayed")
CONSUMERS = MetricName("streams_queue.consumers", "{consumer}", "Consumers that the server knows, dead ones included")
CONSUMERS_IDLE = MetricName(
    "streams_queue.consumers.idle", "s", "Time since the server last heard of any consumer; absent if it never did"
)
QUEUE_GAUGES = (DEPTH, IN_FLIGHT, DELAYED, DEAD, OLDEST, MAX_SIZE, CONSUMERS, CONSUMERS_IDLE)

# Of the whole queue as well, but only from the exporter for Prometheus: docs/decisions/0082-who-exposes-what.md.
UP = MetricName("streams_queue.up", "{server}", "1 if the queue's server answered, else 0")
EVENTS = MetricName("streams_queue.events", "{event}", "What became of events since the queue was made")

# Of this process.
FALLBACK_ACTIVE = MetricName("streams_queue.fallback.active", "{process}", "1 while the local fallback is in use")
HELD = MetricName("streams_queue.fallback.held", "{event}", "Events held locally until the server takes them")
PROCESS_GAUGES = (FALLBACK_ACTIVE, HELD)
SENT = MetricName("messaging.client.sent.messages", "{message}", "Events that the queue accepted")
CONSUMED = MetricName("messaging.client.consumed.messages", "{message}", "Events handed out")
OPERATIONS = MetricName("streams_queue.operations", "{operation}", "Round trips to the server, failed ones included")
REJECTED = MetricName("streams_queue.rejected", "{event}", "Events refused because the queue was full")
ACKED = MetricName("streams_queue.acked", "{event}", "Events acknowledged")
RETRIED = MetricName("streams_queue.retried", "{event}", "Events put back to be retried")
RELEASED = MetricName("streams_queue.released", "{event}", "Events given back untouched")
RECLAIMED = MetricName("streams_queue.reclaimed", "{event}", "Events taken over from consumers that were gone")
DEAD_LETTERED = MetricName("streams_queue.dead_lettered", "{event}", "Events that became dead letters")
LOST = MetricName("streams_queue.lost", "{event}", "Events known to be gone although nobody settled them")
LOST_REASONS = ("deleted", "state_lost", "acknowledged_batches", "other")
LEASES_LOST = MetricName("streams_queue.leases_lost", "{event}", "Events in hand that went to another consumer")
STATE_LOST = MetricName("streams_queue.state_lost", "{event}", "How often the server lost the queue's state")
FALLBACKS = MetricName("streams_queue.fallbacks", "{event}", "How often the local fallback began")
COUNTERS = (
    *(ERRORS, OPERATIONS, SENT, CONSUMED, REJECTED, ACKED, RETRIED, RELEASED, RECLAIMED, DEAD_LETTERED),
    *(LOST, LEASES_LOST, STATE_LOST, FALLBACKS),
)
DURATION = MetricName(
    "messaging.process.duration",
    "s",
    "How long handlers take",
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
HISTOGRAMS = (LATENCY, DURATION)
