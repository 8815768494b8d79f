"""Draw the screens of docs/how-to/watch-a-queue-live.md anew, from `top` on real terminals: `make top-screens`."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import tempfile
from pathlib import Path

import yaml

from streams_queue import Delivery, Queue, QueueFactory
from tests.support.builders import queue_config
from tests.support.servers import DEFAULT_FLAVOUR, RedisServer, require_binary
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until_sync

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "how-to" / "watch-a-queue-live.md"
SIZES = {"narrow": (60, 32), "wide": (140, 26)}
# So many seconds are on the screen before it is kept.
LOOKS = 6
COMMAND = (sys.executable, "-c", "from streams_queue.cli import main; main()")


async def work(queue: Queue, screens: dict[str, str], config: Path) -> None:
    """Keep a queue busy while its screens are taken."""
    await queue.enqueue_many([{"n": n} for n in range(400)])
    await queue.enqueue({"later": True}, delay=3600)
    for delivery in await queue.receive(3, timeout=5):
        await queue.dead_letter(delivery, "rejected")
    taking = asyncio.create_task(asyncio.to_thread(take, screens, config))
    number, held = 0, list[Delivery]()
    while not taking.done():
        await queue.enqueue_many([{"n": n} for n in range(30)], event_ids=[f"delivery-{number}-{n}" for n in range(30)])
        number += 1
        done, held = held, await queue.receive(25, timeout=1)
        await queue.ack(*done)
        await asyncio.sleep(0.1)
    await queue.ack(*held)
    await taking


def take(screens: dict[str, str], config: Path) -> None:
    """Run `top` at both sizes, and keep what is on its screen once it has rates."""
    for name, (columns, lines) in SIZES.items():
        command = [*COMMAND, "top", "--config", str(config)]
        with Terminal(command, columns=columns, lines=lines) as terminal:
            terminal.wait_for("dead 3", "Consumers: ")
            screens[name] = _after_a_while(terminal)
            terminal.press("q")
            terminal.ended()


def _after_a_while(terminal: Terminal) -> str:
    seen: set[str] = set()
    wait_until_sync(lambda: len(seen | {terminal.display[1]}) > LOOKS or seen.add(terminal.display[1]), 60)
    return terminal.text.rstrip()


def put_into(page: str, screens: dict[str, str]) -> str:
    """Return the page with the blocks behind its markers replaced."""
    for name, screen in screens.items():
        host = socket.gethostname()
        shown = screen.replace(host, "gitbridge"[: len(host)].ljust(len(host), "1"))
        shown = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:6379", shown)
        pattern = rf"(<!-- top: {name} -->\n\n```text\n).*?(\n```)"
        page, found = re.subn(pattern, lambda match, shown=shown: match[1] + shown + match[2], page, flags=re.DOTALL)
        assert found == 1, f"the page has no place for {name}"
    return page


def main() -> None:
    """Start a server, a queue with something in it, and `top`."""
    server = RedisServer(require_binary(DEFAULT_FLAVOUR))
    server.start()
    screens: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = queue_config(type="redis", redis_url=server.url, lease=15)
            config = Path(folder) / "webhook_config.yaml"
            config.write_text(yaml.safe_dump(settings))
            asyncio.run(_run(settings, screens, config))
    finally:
        server.stop()
    PAGE.write_text(put_into(PAGE.read_text("utf-8"), screens), "utf-8")


async def _run(settings: dict[str, object], screens: dict[str, str], config: Path) -> None:
    async with QueueFactory.create_queue(settings) as queue:
        await work(queue, screens, config)


if __name__ == "__main__":
    main()
