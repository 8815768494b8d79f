"""Which items of a list are events, and what each of them is in the stream: what `enqueue` would have made of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from streams_queue.codec import PLAIN_META, encode_meta, make_codec
from streams_queue.compression import check_compression
from streams_queue.config import Settings
from streams_queue.errors import DecodeError, EncodeError
from streams_queue.redis_queue.packing import packed
from streams_queue.redis_queue.producer import NewEvent

_PLACEHOLDERS = (b"placeholder", b'"placeholder"')


@dataclass(frozen=True, slots=True)
class Unfit:
    """An item that is no event.

    Attributes:
        reason: One word: placeholder, too_large or undecodable.
        error: What is wrong with it, without any of its content.
    """

    reason: str
    error: str


Verdict = NewEvent | Unfit


class Judge:
    """Judges items by the rules of a queue.

    Args:
        settings: Of the queue: how large an event may be, and whether it is compressed.

    Raises:
        ConfigError: The library that compresses is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        # An item's own size counts, and not that of what it would be written as here.
        self._codec = make_codec(None, max_bytes=sys.maxsize)
        self._max_bytes = settings.max_event_bytes
        self._compression = check_compression(settings.compression)
        self._meta = encode_meta(PLAIN_META)

    def judge(self, items: list[bytes], prefix: str) -> list[Verdict]:
        """Return a verdict for each item; events' ids are the prefix and a number, the same whenever this is asked."""
        return [self._judge(item, f"{prefix}-{number:x}") for number, item in enumerate(items)]

    def _judge(self, item: bytes, event_id: str) -> Verdict:
        if unfit := self.unfit(item):
            return unfit
        event = NewEvent(event_id, item, self._meta)
        return event if self._compression is None else packed(event, self._compression)

    def unfit(self, item: bytes) -> Unfit | None:
        """Return why an item is no event; None if it is one."""
        if item.strip() in _PLACEHOLDERS:
            return Unfit("placeholder", "it stands for no event")
        if len(item) > self._max_bytes:
            return Unfit("too_large", f"it is {len(item)} bytes; max_event_bytes is {self._max_bytes}")
        try:
            payload = self._codec.decode(item)
            # What can be read, and enqueue would not have taken, is not taken here either.
            self._codec.encode(payload)
        except DecodeError as error:
            return Unfit("undecodable", str(error))
        except EncodeError as error:
            # The path would be made of the payload's own keys.
            return Unfit("undecodable", str(error).removeprefix(f"{error.path}: "))
        return None
