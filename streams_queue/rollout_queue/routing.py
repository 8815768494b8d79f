"""Which of two queues a new event goes to: pure, and the same in every process, release and language."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ALL = 100.0


@dataclass(frozen=True, slots=True)
class Route:
    """How new events are shared out.

    Attributes:
        percentage: Of the keys whose events go to the new queue, from 0 to 100.
        paths: Where in a payload the key is: names with dots between; the first one that is there counts.
    """

    percentage: float
    paths: Sequence[str]

    def goes_to_new(self, payload: Any, event_id: str | None) -> bool:
        """Decide for one event: by its key, without one by its id, and without that only at 100 %."""
        if self.percentage <= 0 or self.percentage >= _ALL:
            return self.percentage >= _ALL
        key = key_of(payload, self.paths) or event_id
        return key is not None and position(key) < self.percentage


def position(key: str) -> float:
    """Return where a key stands from 0 up to 100: it goes to the new queue once the percentage is above that.

    The first 8 bytes of BLAKE2b of the key in UTF-8, as a big-endian number, as a share of 2⁶⁴.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * _ALL


def key_of(payload: Any, paths: Sequence[str]) -> str | None:
    """Return the first key that a payload has at one of the paths: a text that is not empty, or an int; else None."""
    for path in paths:
        found = payload
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return str(found)
    return None
