"""A gradual move from one queue to another: new events go to either by a share, and are read from both.

`queue` is the queue itself. `routing` says which of the two a new event goes to, `ownership` to which one an event id
belongs whatever the share is by then, `turns` from which one the next events are taken. See
docs/how-to/roll-out-gradually.md.
"""

from __future__ import annotations

from streams_queue.rollout_queue.queue import RolloutQueue

__all__ = ["RolloutQueue"]
