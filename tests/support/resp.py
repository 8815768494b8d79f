"""Just enough of the Redis protocol (RESP2 and RESP3) to tell where one message ends and what a request asks."""

from __future__ import annotations

BULK = b"$!="
AGGREGATE = b"*~>%|"
PAIRS = b"%|"
PUSH = b">"
ATTRIBUTE = b"|"


def frame_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Return where the message that begins at `start` ends; None if the rest of it has not come yet."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, after = data[start : start + 1], line_end + 2
    if kind in BULK:
        return _bulk_end(data, after, int(data[start + 1 : line_end]))
    if kind in AGGREGATE:
        return _aggregate_end(data, after, int(data[start + 1 : line_end]), bytes(kind))
    return after


def _bulk_end(data: bytes | bytearray, after: int, size: int) -> int | None:
    end = after if size < 0 else after + size + 2
    return end if end <= len(data) else None


def _aggregate_end(data: bytes | bytearray, after: int, count: int, kind: bytes) -> int | None:
    for _ in range(max(count, 0) * (2 if kind in PAIRS else 1)):
        end = frame_end(data, after)
        if end is None:
            return None
        after = end
    return frame_end(data, after) if kind == ATTRIBUTE else after


class Frames:
    """Cuts a byte stream into whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came from the wire; return the messages that are complete now."""
        self._buffer += data
        frames, start = [], 0
        while start < len(self._buffer) and (end := frame_end(self._buffer, start)) is not None:
            frames.append(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]
        return frames


def request_args(frame: bytes) -> list[bytes]:
    """Return the words of a request: the command's name and its arguments."""
    args, position = [], frame.index(b"\r\n") + 2
    while position < len(frame):
        line_end = frame.index(b"\r\n", position)
        size = int(frame[position + 1 : line_end])
        args.append(frame[line_end + 2 : line_end + 2 + size])
        position = line_end + 2 + size + 2
    return args


def is_push(frame: bytes) -> bool:
    """Tell whether a message from the server came without having been asked for."""
    return frame.startswith(PUSH)
