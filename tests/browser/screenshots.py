"""Draw the pictures of the page for the docs: `make screenshots`.

A real queue under load for a few minutes: webhooks come in waves, three workers take them, some fail.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

from streams_queue import QueueFactory, Reject, Worker
from tests.support.builders import redis_config
from tests.support.chromium import Browser, chromium
from tests.support.dashboards import serving
from tests.support.servers import RedisServer, chosen_flavour, require_binary

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "watch-in-a-browser"
SIZES = {"wide": (1440, 1024), "narrow": (390, 844)}
SECONDS = 150.0
COLOURS = 256


class Traffic:
    """Producers and workers on one queue, in a thread of their own."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._random = random.Random(7)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop producing, and wait until the workers have stopped."""
        self._ended.set()
        self._thread.join()

    async def _run(self) -> None:
        queues = [QueueFactory.create_queue(self._config) for _ in range(4)]
        workers = [Worker(queue, self._handle, concurrency=3) for queue in queues[1:]]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run())
            await self._produce(queues[0])
            for worker in workers:
                worker.stop()
        for queue in queues:
            await queue.cleanup()

    async def _produce(self, queue: Any) -> None:
        number = 0
        for tick in range(100_000):
            if self._ended.is_set():
                return
            pace = 9.5 if tick % 240 < 130 else 4.0
            batch = int(self._random.expovariate(1 / pace))
            many = [self._event(number + n) for n in range(batch)]
            ids = [f"{0x9C1F4E00 + number + n:08x}-7e1a-11f0" for n in range(batch)]
            await queue.enqueue_many(many, event_ids=ids)
            number += batch
            await asyncio.sleep(0.1)

    def _event(self, number: int) -> dict[str, Any]:
        kind = self._random.choice(["push", "pull_request", "issue_comment", "check_run", "workflow_run"])
        repo = self._random.choice(["octocat/Hello-World", "octocat/Spoon-Knife", "gitbridge/web", "gitbridge/docs"])
        return {"event_type": kind, "repo": repo, "user": "octocat", "message": f"commit {number}", "number": number}

    async def _handle(self, event: dict[str, Any]) -> None:
        await asyncio.sleep(self._random.lognormvariate(-2.3, 0.6))
        if event["number"] % 700 == 99:
            raise Reject("no such repository")
        if event["number"] % 450 == 7 or self._random.random() < 0.004:
            raise ConnectionError(f"{event['repo']}: api.github.com does not answer")


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    logging.disable()  # what the handlers fail with is meant
    server = RedisServer(require_binary(chosen_flavour()))
    server.start()
    config = redis_config(server.url, max_size=1000, retry_policy={"max_retries": 1, "base_delay": 0.5}, lease=15.0)
    try:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder), config) as dashboard, chromium() as browser:
            traffic = Traffic(config)
            time.sleep(SECONDS)
            _draw(browser, dashboard.url)
            traffic.end()
    finally:
        server.stop()


def _draw(browser: Browser, url: str) -> None:
    for theme in ("light", "dark"):
        for size, (width, height) in SIZES.items():
            browser.look_like(width=width, height=height, theme=theme)
            browser.open(url)
            browser.until(lambda: browser.text("#link-text") == "Live" and browser.all("#dead-rows tr"))
            time.sleep(2.5)  # until the in-flight table is filled and the charts are drawn
            _save(browser.picture(), FOLDER / f"{size}-{theme}.png")
    assert browser.errors() == []


def _save(picture: bytes, file: Path) -> None:
    """Keep a picture small: so few colours are enough for a page."""
    reduced = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    reduced.save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
