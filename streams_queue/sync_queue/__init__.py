"""A queue for programs without asyncio: `queue` is what they use, `runtime` the event loop behind it, `call` a call.

See docs/decisions/0130-sync-queue.md.
"""

from __future__ import annotations

from streams_queue.sync_queue.queue import SyncQueue

__all__ = ["SyncQueue"]
