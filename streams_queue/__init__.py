"""An event queue on Redis Streams (or Valkey) that never loses an event.

    queue = QueueFactory.create_queue(config)
    async with queue:
        await queue.enqueue({"event_type": "push", "repo": "octocat/Hello-World"})
        event = await queue.dequeue()

Names are loaded when they are first used: importing this package imports neither redis nor a module that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams_queue.config import Settings, load_config
    from streams_queue.errors import (
        BackendError,
        BackendRejected,
        BackendTimeout,
        BackendUnavailable,
        ConfigError,
        DecodeError,
        EncodeError,
        LeaseLost,
        MessageError,
        MessageTooLarge,
        MissingExtraError,
        NotDurable,
        QueueClosed,
        Reject,
        RetryLater,
        SpoolError,
        StateError,
        StreamsQueueError,
        UsageError,
    )
    from streams_queue.factory import QueueFactory
    from streams_queue.health import check_redis_health
    from streams_queue.memory_queue import EventQueue
    from streams_queue.messages import DeadLetter, Delivery, QueueStats, Receipt
    from streams_queue.observer import Observer
    from streams_queue.queue import Queue
    from streams_queue.redis_queue import RedisEventQueue
    from streams_queue.resilient_queue import ResilientQueue
    from streams_queue.rollout_queue import RolloutQueue
    from streams_queue.sync_queue import SyncQueue
    from streams_queue.worker import Worker

    __version__: str

__all__ = [
    "BackendError",
    "BackendRejected",
    "BackendTimeout",
    "BackendUnavailable",
    "ConfigError",
    "DeadLetter",
    "DecodeError",
    "Delivery",
    "EncodeError",
    "EventQueue",
    "LeaseLost",
    "MessageError",
    "MessageTooLarge",
    "MissingExtraError",
    "NotDurable",
    "Observer",
    "Queue",
    "QueueClosed",
    "QueueFactory",
    "QueueStats",
    "Receipt",
    "RedisEventQueue",
    "Reject",
    "ResilientQueue",
    "RetryLater",
    "RolloutQueue",
    "Settings",
    "SpoolError",
    "StateError",
    "StreamsQueueError",
    "SyncQueue",
    "UsageError",
    "Worker",
    "__version__",
    "check_redis_health",
    "load_config",
]

_HOMES = {
    "Settings": "config",
    "load_config": "config",
    "BackendError": "errors",
    "BackendRejected": "errors",
    "BackendTimeout": "errors",
    "BackendUnavailable": "errors",
    "ConfigError": "errors",
    "DecodeError": "errors",
    "EncodeError": "errors",
    "LeaseLost": "errors",
    "MessageError": "errors",
    "MessageTooLarge": "errors",
    "MissingExtraError": "errors",
    "NotDurable": "errors",
    "QueueClosed": "errors",
    "Reject": "errors",
    "RetryLater": "errors",
    "SpoolError": "errors",
    "StateError": "errors",
    "StreamsQueueError": "errors",
    "UsageError": "errors",
    "QueueFactory": "factory",
    "check_redis_health": "health",
    "EventQueue": "memory_queue",
    "DeadLetter": "messages",
    "Delivery": "messages",
    "QueueStats": "messages",
    "Receipt": "messages",
    "Observer": "observer",
    "Queue": "queue",
    "RedisEventQueue": "redis_queue",
    "ResilientQueue": "resilient_queue",
    "SyncQueue": "sync_queue",
    "RolloutQueue": "rollout_queue",
    "Worker": "worker",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = importlib.import_module("importlib.metadata").version("streams-queue")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
