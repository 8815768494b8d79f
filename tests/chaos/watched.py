"""The arena of a primary, one replica and three sentinels: an event counts as accepted when the replica has it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import redis

from tests.chaos.arena import Arena, Settings, direct
from tests.chaos.processes import Guard
from tests.support.proxy import FlakyProxy
from tests.support.sentinels import SERVICE, SentinelServer, Watched
from tests.support.servers import RedisServer, chosen_flavour, require_binary
from tests.support.waiting import wait_until

SENTINELS = 3
# Patient, since a starved machine lets a primary seem dead that is not.
DOWN_AFTER_MS = 1500
OBEYED_WITHIN, SETTLED_WITHIN = 10.0, 90.0
OPTIONS = {"appendonly": "yes", "appendfsync": "everysec"}


class WatchedServers(Arena):
    """Servers of which one is the primary, and another if that fails.

    Attributes:
        primary_port: Of the primary, as far as is known.
    """

    name = "sentinel"
    producer_kinds = ("single", "batch", "anonymous")

    def __init__(self, settings: Settings, guard: Guard) -> None:
        super().__init__(settings, guard)
        self._servers: list[RedisServer] = []
        self._watched: Watched | None = None
        self.primary_port = 0

    async def open_servers(self) -> None:
        """Start all of them, and return when a failover would work."""
        await asyncio.to_thread(self._start)
        self.primary_port = self._servers[0].port
        self.client = direct(self.primary_port)

    def _start(self) -> None:
        binary = require_binary(chosen_flavour())
        for primary in (None, 0):
            server = RedisServer(binary, replicaof=None if primary is None else self._servers[0], **OPTIONS)
            self._servers.append(server)
            server.start()
            self._guard.watch(server.pid)
        self._watched = Watched(self._servers, [SentinelServer(binary) for _ in range(SENTINELS)])
        self._watched.start()
        for sentinel in self._watched.sentinels:
            self._guard.watch(sentinel.pid)
            sentinel.command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", DOWN_AFTER_MS)

    @property
    def watched(self) -> Watched:
        """The servers and their sentinels."""
        assert self._watched is not None
        return self._watched

    async def close_servers(self) -> None:
        """End all of them."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        if self._watched is not None:
            self._watched.stop()
        for server in self._servers:
            server.stop()

    def way(self) -> tuple[dict[str, Any], FlakyProxy | None]:
        """Lead to whom the sentinels name."""
        return {"redis_url": self.watched.url(), "durability": "replicated"}, None

    def primary(self) -> RedisServer | None:
        """Return the server that all sentinels name and that says so itself; None while they are not of one mind."""
        try:
            ports = {sentinel.primary_port() for sentinel in self.watched.sentinels}
            named = [server for server in self._servers if ports == {server.port}]
            return named[0] if named and named[0].command("ROLE")[0] == b"master" else None
        except redis.RedisError:
            return None

    async def fail_over(self) -> bool:
        """Order a failover, as an operator does; tell whether the sentinels obeyed."""
        before = self.primary_port
        with contextlib.suppress(redis.ResponseError):
            await asyncio.to_thread(self.watched.sentinels[0].command, "SENTINEL", "FAILOVER", SERVICE)
        with contextlib.suppress(AssertionError):
            await wait_until(lambda: asyncio.to_thread(self._has_moved, before), OBEYED_WITHIN)
        await self.settle()
        return self.primary_port != before

    async def kill_primary(self, seconds: float) -> None:
        """SIGKILL the primary; when another has taken its place it comes back, after a while."""
        (before,) = (server for server in self._servers if server.port == self.primary_port)
        pid = before.pid
        await asyncio.to_thread(before.kill)
        self._guard.release(pid)
        await wait_until(lambda: asyncio.to_thread(self._has_moved, before.port), SETTLED_WITHIN, what="no new primary")
        await self._follow()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(before.restart)
        self._guard.watch(before.pid)
        await self.settle()

    async def settle(self) -> None:
        """Wait until there is one primary and a replica that follows it: two faults at once are another promise."""
        await wait_until(lambda: asyncio.to_thread(self._is_settled), SETTLED_WITHIN, what="no replica has joined")
        await self._follow()

    def _has_moved(self, port: int) -> bool:
        primary = self.primary()
        return primary is not None and primary.port != port

    def _is_settled(self) -> bool:
        primary = self.primary()
        return primary is not None and all(_follows(server) for server in self._servers if server is not primary)

    async def has_moved_by_itself(self) -> bool:
        """Tell whether the sentinels have made another server the primary, on a machine too busy to answer them."""
        return await asyncio.to_thread(self._has_moved, self.primary_port)

    async def _follow(self) -> None:
        primary = await asyncio.to_thread(self.primary)
        if primary is None or primary.port == self.primary_port:
            return
        self.primary_port = primary.port
        old, self.client = self.client, direct(primary.port)
        await old.aclose()


def _follows(server: RedisServer) -> bool:
    try:
        role = server.command("ROLE")
    except redis.RedisError:
        return False
    return bool(role[0] == b"slave" and role[3] == b"connected")
