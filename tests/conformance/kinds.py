"""The kinds of queue that must keep the contract, and how each is made."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from streams_queue.memory_queue import EventQueue
from streams_queue.queue import Queue
from tests.support.builders import memory_config, queue_config, redis_config
from tests.support.on_threads import OnThreads


@dataclass(frozen=True)
class Kind:
    """One kind of queue.

    Attributes:
        name: Shown in the test's id.
        make: Takes the test's request and the `queue` section's overrides, returns a queue.
        modules: The modules of the package that it needs; the kind is left out until they exist.
        server: Whether it runs on a real server.
        slow: Whether `make test` leaves it out.
        shared: Whether two instances made in one test are the same queue in two processes' eyes.
    """

    name: str
    make: Callable[[pytest.FixtureRequest, dict[str, Any], dict[str, Any]], Queue]
    modules: tuple[str, ...]
    server: bool = False
    slow: bool = False
    shared: bool = False


def _memory(_: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    return EventQueue(memory_config(**section), **options)


def _redis(request: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    from streams_queue import RedisEventQueue

    url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")
    return RedisEventQueue(redis_config(url, **{"namespace": namespace, **section}), **options)


def _fakeredis(request: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    from streams_queue import RedisEventQueue

    client, namespace = request.getfixturevalue("fake_client"), request.getfixturevalue("namespace")
    return RedisEventQueue(queue_config(type="redis", **{"namespace": namespace, **section}), client=client, **options)


def _resilient(request: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    from streams_queue import ResilientQueue

    url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")
    config = redis_config(url, **{"namespace": namespace, **section})
    config["queue"]["type"] = "resilient"
    return ResilientQueue(config, **options)


def _sync_memory(_: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    return OnThreads(memory_config(**section), **options)


def _sync_redis(request: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")
    return OnThreads(redis_config(url, **{"namespace": namespace, **section}), **options)


def _sync_resilient(request: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
    return _sync_redis(request, {"type": "resilient", **section}, options)


def _rollout(percentage: int, old: str) -> Callable[[pytest.FixtureRequest, dict[str, Any], dict[str, Any]], Queue]:
    def make(request: pytest.FixtureRequest, section: dict[str, Any], options: dict[str, Any]) -> Queue:
        from streams_queue import RolloutQueue

        url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")
        rollout = {"percentage": percentage, "old": {"type": old}, "new": {"name": "new"}}
        config = redis_config(url, **{"namespace": namespace, **section, "type": "rollout", "rollout": rollout})
        return RolloutQueue(config, **options)

    return make


KINDS = (
    Kind("memory", _memory, ("memory_queue",)),
    Kind("redis", _redis, ("redis_queue",), server=True, shared=True),
    Kind("fakeredis", _fakeredis, ("redis_queue",), shared=True),
    Kind("rollout-begun", _rollout(0, "redis"), ("rollout_queue",), server=True, shared=True),
    Kind("rollout-done", _rollout(100, "asyncio"), ("rollout_queue",), server=True, shared=True),
    Kind("resilient", _resilient, ("redis_queue", "resilient_queue"), server=True, shared=True),
    Kind("sync memory", _sync_memory, ("memory_queue", "sync_queue")),
    Kind("sync redis", _sync_redis, ("redis_queue", "sync_queue"), server=True, shared=True),
    Kind("sync resilient", _sync_resilient, ("resilient_queue", "sync_queue"), server=True, slow=True, shared=True),
)


def exists(kind: Kind) -> bool:
    """Tell whether the package has what this kind needs."""
    specs = [importlib.util.find_spec(f"streams_queue.{module}") for module in kind.modules]
    return all(spec is not None and spec.origin is not None for spec in specs)


def marks_of(kind: Kind) -> list[pytest.MarkDecorator]:
    """Return the marks of all tests of this kind."""
    return [pytest.mark.integration] * kind.server + [pytest.mark.slow] * kind.slow
