"""Where links connect to: one server, or the primary that sentinels name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams_queue.redis_client.refusals import not_connected
from streams_queue.redis_client.wire import drop


class Endpoint(ABC):
    """What all links of a queue share: how to connect, and whether what is connected is still the right server.

    Used by several threads, each with its own links.

    Attributes:
        epoch: Goes up when the server may not be the one to talk to any more; a link whose connection is from an
            earlier epoch leaves it.
    """

    def __init__(self) -> None:
        self.epoch = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """What is connected to, for messages; never a password."""

    @property
    def address(self) -> str:
        """Where that is at present, as far as it is known."""
        return self.name

    def doubt(self, epoch: int) -> None:
        """A server that was connected to in `epoch` says that it is not the primary: look again, for all links."""
        if epoch == self.epoch:
            self.epoch += 1

    @abstractmethod
    async def connect(self) -> tuple[Any, int]:
        """Return a new connection that is connected, and the epoch that it belongs to.

        Raises:
            BackendUnavailable: Not now.
            BackendRejected: The server refuses, or is not to be trusted.
        """


class Server(Endpoint):
    """One server, at a host and port or a socket.

    Args:
        connection_class: Of redis-py.
        connection_kwargs: What it is made with; what would retry, wait or decode behind the link's back is overruled.
        keep: Something that must live as long as this.
    """

    def __init__(self, connection_class: Any, connection_kwargs: Mapping[str, Any], *, keep: object = None) -> None:
        super().__init__()
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

    @property
    def name(self) -> str:
        """Host and port, or the socket's path."""
        if "path" in self._kwargs:
            return str(self._kwargs["path"])
        return f"{self._kwargs.get('host', 'localhost')}:{self._kwargs.get('port', 6379)}"

    def at(self, host: str, port: int) -> Server:
        """Return the server at another address that is connected to in the same way."""
        return Server(self._class, {**self._kwargs, "host": host, "port": port}, keep=self._keep)

    def new_connection(self) -> Any:
        """Return a connection that is not connected yet."""
        return self._class(**self._kwargs)

    async def connect(self) -> tuple[Any, int]:
        """Connect; the name is looked up each time. Raises BackendUnavailable, BackendRejected."""
        epoch, connection = self.epoch, self.new_connection()
        try:
            await connection.connect()
        except (OSError, redis_errors.RedisError) as error:
            raise not_connected(self.name, error, tls=isinstance(connection, SSLConnection)) from error
        finally:
            if not connection.is_connected:
                await drop(connection)
        return connection, epoch
