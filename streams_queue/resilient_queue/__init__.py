"""Redis with a local fallback: this process holds events while the server cannot take them, and moves them there later.

`queue` is the queue itself, and `recovery` the task that tries the server again and moves everything to it. `holding`
says what a place for held events does; `memory` is one that dies with the process, `spool` one on disk, made of
`spool_thread`, `spool_directory` and `spool_file`. See docs/how-to/fall-back-when-redis-is-down.md.
"""

from __future__ import annotations

from streams_queue.resilient_queue.queue import ResilientQueue

__all__ = ["ResilientQueue"]
