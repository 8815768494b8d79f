"""Commands that need more than the package is installed with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from streams_queue.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(feature: str, extra: str) -> Iterator[None]:
    """Import what an extra brings, in the block; say which one is missing, and for what. Raises MissingExtraError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(feature, extra) from error
