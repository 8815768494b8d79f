"""The worker: receive → handle → settle until stopped.

`runner` is the worker itself, `handler` finds out what kind of handler it was given, `outcome` is the pure part
(which outcome a run had and what the queue is told), `signals` turns SIGTERM and SIGINT into calls.
"""

from __future__ import annotations

from streams_queue.worker.outcome import WorkerCounts
from streams_queue.worker.runner import Worker

__all__ = ["Worker", "WorkerCounts"]
