"""The lists of GitBridge's plan as its producers and consumers leave them, and a migration of them in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from streams_queue.config import load_config
from streams_queue.migration import Asked, Audience, Migration, Report, parse_processing
from tests.support.builders import event


def as_pushed(payload: Any) -> bytes:
    """Return a payload as the plan's producers push it: with spaces, and all but ASCII as escapes."""
    return json.dumps(payload).encode()


def pushed(numbers: Iterable[int]) -> list[bytes]:
    """Return numbered events as the plan's producers push them."""
    return [as_pushed(event(number)) for number in numbers]


@dataclass(frozen=True)
class PlanLists:
    """The lists of one test.

    Attributes:
        raw: A bare client of the server that has them.
        namespace: That no other test has.
    """

    raw: redis.asyncio.Redis
    namespace: str

    @property
    def source(self) -> str:
        """The list of what waits."""
        return f"{self.namespace}:events"

    @property
    def processing(self) -> str:
        """The list of what the old consumers took."""
        return f"{self.namespace}:processing"

    def asked(self, processing: str = "aside", **options: Any) -> Asked:
        """Return what is asked of a migration of these lists."""
        mode = parse_processing(processing, self.processing)
        return Asked(source=self.source, processing_list=self.processing, processing=mode, **options)

    async def push(self, items: Iterable[bytes]) -> None:
        """Push items one by one, as producers do."""
        async with self.raw.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.lpush(self.source, item)
            await pipe.execute()

    async def take(self, count: int) -> None:
        """Take as many as the old consumers do, who never remove them from the processing list."""
        for _ in range(count):
            assert await self.raw.rpoplpush(self.source, self.processing)

    async def held(self, key: str) -> list[bytes]:
        """Return what a list holds, the oldest first."""
        return list(reversed(await self.raw.lrange(key, 0, -1)))

    async def left_behind(self) -> dict[str, list[bytes]]:
        """Return all lists of this test that are there, and names of other keys beside them, without the queue's."""
        found = {}
        async for key in self.raw.scan_iter(f"{self.namespace}:[ep]*"):
            name = key.decode()
            is_list = await self.raw.type(key) == b"list"
            found[name.removeprefix(f"{self.namespace}:")] = await self.held(name) if is_list else []
        return found


async def payloads(raw: redis.asyncio.Redis, stream: str) -> list[bytes]:
    """Return the payloads of a stream in its order."""
    return [fields[b"payload"] for _, fields in await raw.xrange(stream)]


async def migrate(
    config: dict[str, Any], asked: Asked, *, from_url: str | None = None, audience: Audience | None = None
) -> Report:
    """Migrate in this process."""
    return await Migration(load_config(config), asked, from_url=from_url, audience=audience).run()
