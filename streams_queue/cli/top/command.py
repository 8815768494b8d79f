"""The loop of `top`: sample, draw, until q or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.control import Control
from rich.screen import Screen

from streams_queue.cli.options import ConfigOption, EnvironmentOption, SideOption, UrlOption, load_one
from streams_queue.cli.top.drawing import draw
from streams_queue.cli.top.sampling import Sampler
from streams_queue.cli.top.terminal import keys_unbuffered, require_terminal
from streams_queue.cli.top.view import View
from streams_queue.config import Settings
from streams_queue.errors import BackendError
from streams_queue.redis_client import passes

# Drawn at least so often during an outage, so that its time goes on.
_REDRAWN_EVERY = 1.0


def top(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    side: SideOption = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the server.")] = 1.0,
) -> None:
    """Watch the queue live: depth, rates, ages, consumers, in-flight events, dead letters. q or Ctrl-C ends it."""
    settings = load_one(config, url, environment, side)
    require_terminal()
    asyncio.run(Top(settings, interval).run())


class Top:
    """A live view.

    Args:
        settings: Of the queue.
        interval: Seconds between two looks.
    """

    def __init__(self, settings: Settings, interval: float) -> None:
        self._sampler = Sampler(settings)
        self._interval = interval
        self._console = Console(highlight=False)
        self._ended = False
        self._changed = asyncio.Event()
        self._view = View(
            name=self._sampler.name,
            address=self._sampler.address,
            max_size=settings.max_size,
            dead_max_size=settings.dead_letter.max_size,
            lease=settings.lease,
        )

    async def run(self) -> None:
        """Show it until it is ended. Raises BackendRejected, after giving the terminal back, if no retry can help."""
        loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        sampling = asyncio.create_task(self._sample(), name="streams_queue.top")
        sampling.add_done_callback(lambda _: self._end())
        try:
            with keys_unbuffered(keyboard), self._console.screen():
                loop.add_reader(keyboard, self._key, keyboard)
                await self._draw_until_ended()
                loop.remove_reader(keyboard)
        finally:
            sampling.cancel()
            await asyncio.wait([sampling])
            await self._sampler.close()
        if not sampling.cancelled():
            sampling.result()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    def _key(self, keyboard: int) -> None:
        keys = os.read(keyboard, 64)
        if not keys or b"q" in keys.lower():
            self._end()

    async def _sample(self) -> None:
        while True:
            try:
                self._view.add(await self._sampler.take(letters=max(1, self._console.height)))
            except BackendError as error:
                if not passes(error):
                    raise
                self._view.failed(str(error), time.monotonic())
            self._changed.set()
            await asyncio.sleep(self._interval)

    async def _draw_until_ended(self) -> None:
        while not self._ended:
            self._changed.clear()
            width, height = self._console.size
            self._console.control(Control.home())
            self._console.print(Screen(draw(self._view, width, height, time.monotonic())), end="")
            try:
                async with asyncio.timeout(_REDRAWN_EVERY if self._view.trouble else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
