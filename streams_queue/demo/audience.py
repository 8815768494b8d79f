"""To whom the demo tells how it goes."""

from __future__ import annotations


class Audience:
    """Is told how the demo goes; pays no attention unless derived from."""

    def say(self, line: str) -> None:
        """Something has happened."""

    def update(self, enqueued: int, processed: int) -> None:
        """The demo is so far; called many times a second."""
