"""The arena of one server: its append-only file is synced at each write, and everybody has a proxy of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from streams_queue.embedded import EmbeddedServer
from tests.chaos.arena import Arena, Settings, direct
from tests.chaos.processes import Guard
from tests.support.proxy import FlakyProxy

# Small, so that the server is back soon after it was killed.
REWRITE_AT = "16mb"


class SingleServer(Arena):
    """One server that forgets nothing which it has acknowledged.

    Attributes:
        server: The server.
    """

    name = "single"
    producer_kinds = ("single", "batch", "anonymous", "resilient", "spooled")

    def __init__(self, settings: Settings, guard: Guard) -> None:
        super().__init__(settings, guard)
        self.server = EmbeddedServer(append_fsync="always", arguments=("--auto-aof-rewrite-min-size", REWRITE_AT))

    async def open_servers(self) -> None:
        """Start the server."""
        await asyncio.to_thread(self.server.start)
        self.client = direct(self.server.port)

    async def close_servers(self) -> None:
        """End the server."""
        await asyncio.to_thread(self.server.stop)

    def way(self) -> tuple[dict[str, Any], FlakyProxy | None]:
        """Lead through a proxy."""
        proxy = self.proxy_to(self.server.port)
        return {"redis_url": proxy.url}, proxy

    def stop_server(self) -> None:
        """Let the server neither run nor close anything."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def continue_server(self) -> None:
        """Let it go on."""
        os.kill(self.server.pid, signal.SIGCONT)
