"""Every kind of queue that must keep the contract, and one factory for all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from streams_queue.memory_queue import EventQueue
from streams_queue.queue import Queue
from tests.support.builders import memory_config, queue_config, redis_config


@dataclass(frozen=True)
class Kind:
    """One kind of queue.

    Attributes:
        name: Shown in the test's id.
        make: Takes the test's request and the `queue` section's overrides, returns a queue.
        modules: The modules of the package that it needs; the kind is left out until they exist.
        server: Whether it runs on a real server.
        shared: Whether two instances made in one test are the same queue in two processes' eyes.
    """

    name: str
    make: Callable[[pytest.FixtureRequest, dict[str, Any], dict[str, Any]], Queue]
    modules: tuple[str, ...]
    server: bool = False
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


KINDS = (
    Kind("memory", _memory, ("memory_queue",)),
    Kind("redis", _redis, ("redis_queue",), server=True, shared=True),
    Kind("fakeredis", _fakeredis, ("redis_queue",), shared=True),
    Kind("resilient", _resilient, ("redis_queue", "resilient_queue"), server=True, shared=True),
)


def _exists(kind: Kind) -> bool:
    specs = [importlib.util.find_spec(f"streams_queue.{module}") for module in kind.modules]
    return all(spec is not None and spec.origin is not None for spec in specs)


@pytest.fixture(
    params=[
        pytest.param(kind, id=kind.name, marks=[pytest.mark.integration] if kind.server else [])
        for kind in KINDS
        if _exists(kind)
    ]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of queue that this run of the test is about."""
    found: Kind = request.param
    return found


@pytest.fixture
def fake_client() -> Any:
    """A client of an emulated server of this test's own."""
    import fakeredis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), socket_timeout=10, retry=Retry(NoBackoff(), 0))


MakeQueue = Callable[..., Queue]


@pytest.fixture
async def make_queue(kind: Kind, request: pytest.FixtureRequest) -> AsyncIterator[MakeQueue]:
    """Make queues of this kind, `make_queue(max_size=3)`; `observers` and `payload_type` go to the constructor."""
    if kind.server:
        request.getfixturevalue("redis_server")
    made: list[Queue] = []

    def make(*, observers: tuple[Any, ...] = (), payload_type: type[Any] | None = None, **section: Any) -> Queue:
        options = {"observers": observers, **({} if payload_type is None else {"payload_type": payload_type})}
        made.append(kind.make(request, section, options))
        return made[-1]

    yield make
    for queue in made:
        await queue.cleanup()


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    """A queue with the tests' defaults: short lease, four deliveries, backoff of 50 ms."""
    return make_queue()
