"""The in-process queue: the same semantics as on Redis, as far as one process can have them."""

from __future__ import annotations

from streams_queue.memory_queue.queue import EventQueue
from streams_queue.memory_queue.store import Entry

__all__ = ["Entry", "EventQueue"]
