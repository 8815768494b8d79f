"""The factory: one call from a configuration to the queue that it asks for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from streams_queue.config import FACTORY_REQUIRES, Settings, load_config
from streams_queue.kinds import class_for
from streams_queue.observer import Observer
from streams_queue.queue import Queue
from streams_queue.telemetry import with_telemetry

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class QueueFactory:
    """Makes queues from configurations."""

    @staticmethod
    def create_queue(
        config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        environment: str | None = None,
        observers: Iterable[Observer] = (),
        payload_type: type | None = None,
        registry: CollectorRegistry | None = None,
    ) -> Queue:
        """Make the queue that the configuration's `type` names: redis, asyncio, resilient or rollout.

        Does no I/O but reading the configuration: a server is connected by the first call that needs it.

        Args:
            config: The mapping of a `webhook_config.yaml`, the path of one, or Settings; None reads the environment.
            environment: Its section `environments.<name>.queue` overrides `queue`.
            observers: Are told what happens in the queue.
            payload_type: A msgspec Struct or a dataclass that payloads are instances of; None takes JSON objects.
            registry: Of Prometheus's client library, in which what this process does with the queue is counted.

        Raises:
            ConfigError: Something is missing or wrong, an unknown type included; all problems are listed. Or telemetry
                is asked for, and the extra for it is not installed.
        """
        settings = load_config(config, environment=environment, require=FACTORY_REQUIRES)
        queue_class = _class_for(settings)
        return with_telemetry(queue_class, settings, observers=observers, payload_type=payload_type, registry=registry)


def _class_for(settings: Settings) -> type[Queue]:
    if settings.type == "rollout":
        from streams_queue.rollout_queue import RolloutQueue

        return RolloutQueue
    return class_for(settings.type)
