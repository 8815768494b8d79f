"""A pipeline in the shape of GitBridge's: its own loop, a cleanup on a timer, and no knowledge of this package.

Only `queue_class` tells which queue it has; in GitBridge that is an import.
"""

from __future__ import annotations

import asyncio
from typing import Any


class MASPipeline:
    """Takes events from its queue, one after the other, and records what it has processed."""

    def __init__(self, config: dict[str, Any], queue_class: Any, **options: Any) -> None:
        self.retry_delay = config["pipeline"]["retry_delay"]
        self.cleanup_interval = config["pipeline"]["cleanup_interval"]
        self.event_queue = queue_class(config, **options)
        self.processed: list[Any] = []
        self.cleanups = 0
        self.failures: list[Exception] = []
        self._running = False

    async def start(self) -> None:
        """Process events until `stop`."""
        self._running = True
        cleaning = asyncio.create_task(self._cleanup_loop())
        while self._running:
            try:
                event = await self.event_queue.dequeue()
                if event:
                    await self._process_event(event)
                else:
                    await asyncio.sleep(0.01)
            except Exception as error:  # noqa: BLE001 - a pipeline goes on
                self.failures.append(error)
                await asyncio.sleep(self.retry_delay)
        cleaning.cancel()

    async def stop(self) -> None:
        """End the loop after the event in hand."""
        self._running = False
        await self.cleanup()

    async def cleanup(self) -> None:
        """Tidy up, the queue first."""
        await self.event_queue.cleanup()
        self.cleanups += 1

    async def _process_event(self, event: Any) -> None:
        # Gives way in the middle, so that cleanups meet events in hand.
        await asyncio.sleep(0)
        self.processed.append(event)

    async def _cleanup_loop(self) -> None:
        while self._running:
            await asyncio.sleep(self.cleanup_interval)
            await self.cleanup()
