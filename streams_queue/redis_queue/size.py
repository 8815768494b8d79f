"""The sync queue size: what this process knows of the depth without asking the server."""

from __future__ import annotations


class LocalSize:
    """Follows every operation of this process, and the server's figures whenever they come by; never below 0."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, count: int) -> None:
        """Note that `count` events began (or, negative, ceased) to wait."""
        self.value = max(0, self.value + count)

    def at_most(self, held: int) -> None:
        """Note how many events the queue holds altogether: others may have finished some."""
        self.value = min(self.value, held)

    def set(self, waiting: int) -> None:
        """Note the server's own figure."""
        self.value = waiting
