"""A queue that the command works on, named by a configuration file, and what the server holds of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import yaml
from typer.testing import CliRunner, Result

from streams_queue import RedisEventQueue
from streams_queue.cli.app import app
from tests.support.builders import Keys, redis_config


class CommandedQueue:
    """A queue, its configuration in a file, and what the server holds of it."""

    def __init__(self, url: str, folder: Path, *, through: str | None = None, **queue: Any) -> None:
        """Name a queue on the server at `url`, which the command reaches `through` a proxy, if there is one."""
        self.keys = Keys(f"drain{uuid.uuid4().hex[:10]}")
        self.config = redis_config(through or url, namespace=self.keys.namespace, **queue)
        self._url = through or url
        self.file = folder / f"{self.keys.namespace}.yaml"
        self.file.write_text(yaml.safe_dump(self.config))
        self.raw = redis.Redis.from_url(url)
        self.list = f"{self.keys.namespace}:list"

    def run(self, *arguments: str) -> Result:
        """Run the command on it; for lists as the default user, since a queue's own may not touch other keys."""
        login = ("--url", self._url) if {"list", "migrate"} & {*arguments} else ()
        return CliRunner().invoke(app, [*arguments, *login, "--config", str(self.file)])

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run the command, which ends with an exit code, and return its answer."""
        done = self.run(*arguments, "--json")
        assert done.exit_code == exit_code, done.output
        return json.loads(done.stdout)

    def on_queue(self, action: Callable[[RedisEventQueue], Awaitable[Any]]) -> Any:
        """Do something with the queue."""

        async def act() -> Any:
            async with RedisEventQueue(self.config) as queue:
                return await action(queue)

        return asyncio.run(act())

    def put(self, *payloads: dict[str, Any], **options: Any) -> None:
        """Enqueue events."""
        self.on_queue(lambda queue: queue.enqueue_many(payloads, **options))

    def bury(self, *payloads: dict[str, Any]) -> None:
        """Make dead letters of new events."""

        async def bury(queue: RedisEventQueue) -> None:
            for payload in payloads:
                await queue.enqueue(payload)
                (delivery,) = await queue.receive(timeout=5)
                await queue.dead_letter(delivery, "rejected")

        self.on_queue(bury)

    def waiting(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return the stream's entries."""
        return list(self.raw.xrange(self.keys.stream))

    def delayed(self) -> list[tuple[bytes, float]]:
        """Return what is in each delayed member behind its prefix, and its due time."""
        found = self.raw.zrange(self.keys.delayed, 0, -1, withscores=True)
        return [(member[member.index(b"2:id") :], due) for member, due in found]

    def dead(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return the dead letters."""
        return list(self.raw.xrange(self.keys.dead))

    def payloads(self) -> list[bytes]:
        """Return the payloads of the list, in the order in which BRPOPLPUSH takes them."""
        return list(reversed(self.raw.lrange(self.list, 0, -1)))

    def names(self) -> set[str]:
        """Return the keys that there are, without the queue's prefix."""
        return {name.decode().removeprefix(self.keys.stream) for name in self.raw.keys(f"{self.keys.stream}*")}
