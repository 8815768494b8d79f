"""Compressing new events: those that are large enough, each with a meta field that says so."""

from __future__ import annotations

from functools import lru_cache

from streams_queue.codec import decode_meta, encode_meta
from streams_queue.compression import ZSTD, compress
from streams_queue.config import CompressionSettings
from streams_queue.redis_queue.producer import NewEvent


def packed(event: NewEvent, settings: CompressionSettings) -> NewEvent:
    """Return the same event, compressed if that is asked for at its size and makes it smaller."""
    data = compress(event.payload, settings)
    return event if data is None else _with(event, data, _marked(event.meta))


def _with(event: NewEvent, payload: bytes, meta: bytes) -> NewEvent:
    return NewEvent(event.event_id, payload, meta, event.delay, event.deduplicated)


@lru_cache(maxsize=16)
def _marked(meta: bytes) -> bytes:
    """Return the meta field of a compressed event; those of one call have the same, and so have all without headers."""
    return encode_meta(decode_meta(meta).compressed(ZSTD))
