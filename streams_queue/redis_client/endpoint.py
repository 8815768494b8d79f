"""Where the server is, and how a connection to it is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams_queue.errors import ConfigError


class Endpoint:
    """Where the server is, and how to connect to it."""

    def __init__(self, connection_class: Any, connection_kwargs: Mapping[str, Any], *, keep: object = None) -> None:
        self._class = connection_class
        self._kwargs = dict(connection_kwargs) | {
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "retry_on_error": [],
            "health_check_interval": 0,
            "socket_timeout": None,
            "decode_responses": False,
            "protocol": 2,
        }
        self._keep = keep

    @classmethod
    def from_url(cls, url: str, *, connect_timeout: float) -> Endpoint:
        """Make an endpoint from a redis://, rediss:// or unix:// URL.

        Raises:
            ConfigError: The URL cannot be used; the message does not repeat it, because it may hold a password.
        """
        try:
            pool = ConnectionPool.from_url(url)
        except (ValueError, TypeError) as error:
            raise ConfigError("queue.redis_url: cannot be used as a redis://, rediss:// or unix:// URL") from error
        kwargs = dict(pool.connection_kwargs)
        kwargs.setdefault("socket_connect_timeout", connect_timeout)
        if "path" not in kwargs:
            kwargs.setdefault("socket_keepalive", True)
        return cls(pool.connection_class, kwargs)

    @classmethod
    def from_client(cls, client: Any) -> Endpoint:
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
        return cls(connection_class, kwargs, keep=client)

    @property
    def name(self) -> str:
        """The server's address for messages: host and port, or the socket's path; never a password."""
        if "path" in self._kwargs:
            return str(self._kwargs["path"])
        return f"{self._kwargs.get('host', 'localhost')}:{self._kwargs.get('port', 6379)}"

    def new_connection(self) -> Any:
        """Return a connection that is not connected yet."""
        return self._class(**self._kwargs)
