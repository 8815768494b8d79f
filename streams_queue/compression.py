"""Payload bytes made smaller, and back again within bounds: docs/decisions/0015-compression.md.

Nothing here knows of Redis or asyncio. The library is imported where the first payload needs it.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, Final

from streams_queue.config import CompressionSettings
from streams_queue.errors import ConfigError, DecodeError, MessageTooLarge, MissingExtraError

ZSTD: Final = "zstd"

# How every zstd frame begins that has content.
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SIZE_UNKNOWN: Final = -1
_BROKEN: Final = "the compressed payload is broken"


class CannotExpandError(Exception):
    """This process cannot read such a payload, though another one may."""


def check_compression(settings: CompressionSettings | None) -> CompressionSettings | None:
    """Return what to compress by; None for nothing. Raises ConfigError if the library is not installed."""
    if settings is None or settings.type == "none":
        return None
    try:
        _library()
    except ImportError:
        extra = MissingExtraError("compression", "compression")
        # Raised out here, as all errors of the configuration are: nothing hangs on it as its context.
    else:
        return settings
    raise ConfigError([f"queue.compression: {extra}"])


def compress(data: bytes, settings: CompressionSettings) -> bytes | None:
    """Return the compressed payload; None if it is shorter than is worth the while, or does not get smaller."""
    if len(data) < settings.min_bytes:
        return None
    packed: bytes = _of_this_thread(settings.level).compress(data)
    return packed if len(packed) < len(data) else None


def expand(data: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Return the payload that was compressed. No more than `max_bytes` are allocated for it, whatever the data says.

    Raises:
        MessageTooLarge: It would be larger than that.
        DecodeError: It is broken, or does not say how large it will be.
        CannotExpandError: The encoding is unknown, or the library is not installed.
    """
    if encoding != ZSTD:
        raise CannotExpandError("a release that knows its content encoding")
    try:
        library = _library()
    except ImportError:
        raise CannotExpandError("the extra 'compression': pip install 'streams-queue[compression]'") from None
    try:
        size = library.frame_content_size(data)
        # Without its size, the buffer would be as large as is allowed, and a window of up to 128 MiB come beside it.
        if size == _SIZE_UNKNOWN:
            raise DecodeError("a compressed payload must say how large it is")
        if size > max_bytes:
            raise MessageTooLarge(f"the payload is {size} bytes; max_event_bytes is {max_bytes}")
        # Frames of other kinds, to be skipped over, are no payload.
        if not data.startswith(_MAGIC):
            raise DecodeError(_BROKEN)
        expanded: bytes = _of_this_thread(None).decompress(data, allow_extra_data=False)
    except library.ZstdError:
        raise DecodeError(_BROKEN) from None
    return expanded


@cache
def _library() -> Any:
    import zstandard

    return zstandard


class _Tools(threading.local):
    """What compresses and expands in one thread: a context must not be used by two at once, and is costly to make."""

    def __init__(self) -> None:
        self.made: dict[int | None, Any] = {}


_tools = _Tools()


def _of_this_thread(level: int | None) -> Any:
    """Return this thread's compressor for a level, or its decompressor for None."""
    tool = _tools.made.get(level)
    if tool is None:
        library = _library()
        tool = library.ZstdDecompressor() if level is None else library.ZstdCompressor(level=level)
        _tools.made[level] = tool
    return tool
