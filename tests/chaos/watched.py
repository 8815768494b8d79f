"""The arena of a primary, one replica and three sentinels: an event counts as accepted when the replica has it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.chaos.arena import Arena, Settings, direct
from tests.chaos.processes import Guard
from tests.support.proxy import FlakyProxy
from tests.support.sentinels import SentinelServer, Watched
from tests.support.servers import RedisServer, chosen_flavour, require_binary
from tests.support.waiting import wait_until

SENTINELS = 3
OPTIONS = {"appendonly": "yes", "appendfsync": "everysec"}


class WatchedServers(Arena):
    """Servers of which one is the primary, and another if that fails."""

    name = "sentinel"
    producer_kinds = ("single", "batch", "anonymous")

    def __init__(self, settings: Settings, guard: Guard) -> None:
        super().__init__(settings, guard)
        self._servers: list[RedisServer] = []
        self._watched: Watched | None = None

    async def open_servers(self) -> None:
        """Start all of them, and return when a failover would work."""
        await asyncio.to_thread(self._start)
        self.client = direct(self.watched.primary().port)

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

    async def fail_over(self) -> None:
        """Order a failover, as an operator does."""
        await asyncio.to_thread(self.watched.fail_over)
        await self._follow()

    async def kill_primary(self, seconds: float) -> None:
        """SIGKILL the primary; when another has taken its place it comes back, after a while."""
        before = self.watched.primary()
        pid = before.pid
        await asyncio.to_thread(before.kill)
        self._guard.release(pid)
        await asyncio.to_thread(self.watched.wait_for_failover, before)
        await self._follow()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(before.restart)
        self._guard.watch(before.pid)

    async def until_replicated(self) -> None:
        """Wait until there is a replica again that has caught up: two faults at once are another promise."""
        await wait_until(lambda: asyncio.to_thread(self._is_replicated), timeout=30.0, what="no replica has joined")

    def _is_replicated(self) -> bool:
        primary = self.watched.primary()
        return all(_follows(server) for server in self._servers if server is not primary)

    async def _follow(self) -> None:
        old, self.client = self.client, direct(self.watched.primary().port)
        await old.aclose()


def _follows(server: RedisServer) -> bool:
    role = server.command("ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")
