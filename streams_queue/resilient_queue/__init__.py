"""Redis with a local fallback: this process holds events while the server cannot take them, and moves them there later.

`queue` is the queue itself, `holding` what is held locally and in which order it has to go, `recovery` the task that
tries the server again and moves everything to it. See docs/how-to/fall-back-when-redis-is-down.md.
"""

from __future__ import annotations

from streams_queue.resilient_queue.queue import ResilientQueue

__all__ = ["ResilientQueue"]
