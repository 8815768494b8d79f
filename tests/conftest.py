"""Fixtures for all tests: servers, proxies, programs, and queues that clean up behind themselves."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.support.builders import Keys, redis_config
from tests.support.logins import denials, stands_before
from tests.support.processes import Programs
from tests.support.proxy import FlakyProxy
from tests.support.sentinels import SentinelServer, Watched
from tests.support.servers import HasPort, RedisServer, chosen_flavour, require_binary
from tests.support.stored import StoredQueue
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from streams_queue import RedisEventQueue

MakeQueue = Callable[..., "RedisEventQueue"]
MakeConfig = Callable[..., dict[str, Any]]
MakeClient = Callable[..., redis.asyncio.Redis]
StartServer = Callable[..., RedisServer]
StartSentinel = Callable[..., SentinelServer]
StartSentinels = Callable[..., Watched]
LookAt = Callable[[RedisServer], StoredQueue]
ProxyTo = Callable[[RedisServer], FlakyProxy]
# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
TEST_THREADS = ("asyncio_", "flaky-proxy", "server-log", "journal", "ThreadPoolExecutor", "pytest_timeout")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server that tests share; none of them may stop, fill or flush it."""
    server = RedisServer(require_binary(chosen_flavour()))
    server.start()
    yield server
    assert denials(server.port) == []
    server.stop()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers of the test's own, `start_server(appendonly="yes", maxmemory="4mb")`, to be broken at will.

    `start_server(replicaof=primary)` makes a replica, which is online then; `flavour="redis-6.2"` another server;
    `start_server(clock=ServerClock(tmp_path))` one whose clock can be stepped.
    """
    servers: list[RedisServer] = []

    def start(flavour: str | None = None, **options: Any) -> RedisServer:
        server = RedisServer(require_binary(flavour or chosen_flavour()), **options)
        servers.append(server)
        server.start()
        return server

    yield start
    # Replicas first: a primary would wait for one that stands still.
    for server in reversed(servers):
        server.stop()


@pytest.fixture
def start_sentinels(start_server: StartServer) -> Iterator[StartSentinels]:
    """Start a primary, `replicas` of it and `sentinels` that watch them, with options for the servers.

    `flavour="redis-6.2"` takes another server; `sentinel_options={"requirepass": …}` are for the sentinels.
    """
    started: list[Watched] = []

    def start(
        *,
        replicas: int = 1,
        sentinels: int = 3,
        flavour: str | None = None,
        sentinel_options: dict[str, str] | None = None,
        **options: Any,
    ) -> Watched:
        primary = start_server(flavour, **options)
        servers = [primary, *(start_server(flavour, replicaof=primary, **options) for _ in range(replicas))]
        binary = require_binary(flavour or chosen_flavour())
        watched = Watched(servers, [SentinelServer(binary, **(sentinel_options or {})) for _ in range(sentinels)])
        started.append(watched)
        watched.start()
        return watched

    yield start
    for watched in started:
        watched.stop()


@pytest.fixture
def start_sentinel() -> Iterator[StartSentinel]:
    """Start one sentinel alone, `start_sentinel(server, requirepass=…)`: it names that server, fails nothing over."""
    started: list[SentinelServer] = []

    def start(server: HasPort, **options: str) -> SentinelServer:
        sentinel = SentinelServer(require_binary(chosen_flavour()), **options)
        started.append(sentinel)
        sentinel.configure(server, [], [])
        sentinel.start()
        return sentinel

    yield start
    for sentinel in started:
        sentinel.stop()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def keys(namespace: str) -> Keys:
    """The key names of this test's queue."""
    return Keys(namespace)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Where the shared server listens; use it with this test's `namespace`."""
    return redis_server.url


@pytest.fixture
def proxy_to() -> Iterator[ProxyTo]:
    """Put a flaky proxy before a server."""
    proxies: list[FlakyProxy] = []

    def make(server: RedisServer) -> FlakyProxy:
        proxy = FlakyProxy(server.port)
        proxies.append(proxy)
        proxy.start()
        stands_before(proxy.port, server.port)
        return proxy

    yield make
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def proxy(proxy_to: ProxyTo, redis_server: RedisServer) -> FlakyProxy:
    """A flaky proxy before the shared server."""
    return proxy_to(redis_server)


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Start scripts as processes; whatever still runs at the end is killed."""
    running = Programs()
    yield running
    running.stop_all()


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Make bare clients, closed at the end."""
    clients: list[redis.asyncio.Redis] = []

    def make(url: str, **options: Any) -> redis.asyncio.Redis:
        client = redis.asyncio.Redis.from_url(url, **{"retry": Retry(NoBackoff(), 0), "socket_timeout": 10, **options})
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def raw(make_client: MakeClient, redis_url: str) -> redis.asyncio.Redis:
    """A bare client of the shared server, to look at what the queue has stored."""
    return make_client(redis_url)


@pytest.fixture
async def look_at(make_client: MakeClient, keys: Keys) -> LookAt:
    """Look at this test's queue on a server of the test's own."""
    return lambda server: StoredQueue(make_client(server.url), keys)


@pytest.fixture
async def stored(raw: redis.asyncio.Redis, keys: Keys) -> StoredQueue:
    """What the shared server holds of this test's queue."""
    return StoredQueue(raw, keys)


@pytest.fixture
def make_config(redis_url: str, namespace: str) -> MakeConfig:
    """Make the configuration of this test's queue, `make_config(lease=1)`; `url` leads elsewhere."""

    def make(url: str | None = None, **queue: Any) -> dict[str, Any]:
        return redis_config(url or redis_url, **{"namespace": namespace, **queue})

    return make


@pytest.fixture
async def make_redis_queue(
    make_config: MakeConfig, start_server: StartServer, proxy_to: ProxyTo
) -> AsyncIterator[MakeQueue]:
    """Make Redis queues in this test's namespace, `make_redis_queue(lease=1)`; clean them up and look for leaks."""
    from streams_queue import RedisEventQueue

    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    queues: list[RedisEventQueue] = []

    def make(
        url: str | None = None, *, client: Any = None, observers: tuple[Any, ...] = (), **queue: Any
    ) -> RedisEventQueue:
        options = {} if client is None else {"client": client}
        made = RedisEventQueue(make_config(url, **queue), observers=observers, **options)
        queues.append(made)
        return made

    yield make
    for queue in queues:
        await queue.cleanup()
    await _nothing_left(threads, tasks)


async def _nothing_left(threads: set[threading.Thread], tasks: set[asyncio.Task[Any]]) -> None:
    def left() -> list[Any]:
        running = [
            thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith(TEST_THREADS)
        ]
        pending = [task for task in asyncio.all_tasks() - tasks if task is not asyncio.current_task()]
        return [*running, *pending]

    await wait_until(lambda: not left(), timeout=3.0, what=lambda: f"cleanup left behind {left()}")
