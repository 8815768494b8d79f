"""One factory for every kind of queue that must keep the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams_queue.queue import Queue
from tests.conformance.kinds import KINDS, Kind, exists, marks_of


@pytest.fixture(params=[pytest.param(kind, id=kind.name, marks=marks_of(kind)) for kind in KINDS if exists(kind)])
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
