"""From a redis-py asyncio client made elsewhere to an endpoint that connects as it does."""

from __future__ import annotations

import inspect
from typing import Any

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from streams_queue.errors import ConfigError
from streams_queue.redis_client.endpoint import Endpoint, Server
from streams_queue.redis_client.sentinel import SentinelService

_MANAGED = {SentinelManagedConnection: Connection, SentinelManagedSSLConnection: SSLConnection}


def endpoint_from_client(client: Any) -> Endpoint:
    """Make an endpoint that connects as a redis-py asyncio client made elsewhere does.

    Every link opens a connection of its own with the client's class and settings, without its retries and with
    timeouts of ours; the client itself is not used.

    Raises:
        ConfigError: That is impossible with this client; the message says why.
    """
    pool = getattr(client, "connection_pool", None)
    connection_class = getattr(pool, "connection_class", None)
    if pool is None or connection_class is None:
        raise ConfigError(f"client: {type(client).__name__} has no connection pool to take its settings from")
    if not inspect.iscoroutinefunction(getattr(connection_class, "connect", None)):
        raise ConfigError(f"client: {type(client).__name__} is not an asyncio client (use redis.asyncio)")
    kwargs = dict(pool.connection_kwargs)
    if kwargs.get("decode_responses"):
        raise ConfigError("client: decode_responses must be off, payloads are bytes")
    if isinstance(pool, SentinelConnectionPool):
        return _sentinel_service(client, pool, kwargs)
    return Server(connection_class, kwargs, keep=client)


def _sentinel_service(client: Any, pool: Any, kwargs: dict[str, Any]) -> SentinelService:
    """Ask the client's sentinels ourselves: its own clients for them belong to one event loop and retry."""
    manager = pool.sentinel_manager
    if not pool.is_master:
        raise ConfigError("client: slave_for() leads to replicas, which take no writes; use master_for()")
    if pool.connection_class not in _MANAGED:
        raise ConfigError(
            f"client: connections of the class {pool.connection_class.__name__} cannot be made without its pool"
        )
    if manager.min_other_sentinels or getattr(manager, "_force_master_ip", None):
        raise ConfigError(
            "client: min_other_sentinels and force_master_ip are not supported; every node is asked for its role"
        )
    del kwargs["connection_pool"]
    return SentinelService(
        [
            Server(each.connection_pool.connection_class, each.connection_pool.connection_kwargs, keep=client)
            for each in manager.sentinels
        ],
        pool.service_name,
        Server(_MANAGED[pool.connection_class], kwargs, keep=client),
    )
