"""The demo's queue as its server sees it: what an operator looks at with redis-cli, and what a saboteur does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from streams_queue.errors import BackendError
from streams_queue.keys import QueueKeys
from streams_queue.redis_client import Command, Link, endpoint_from_url

_TIMEOUT = 5.0
_SHOWN_CHARS = 60

# Deletes the newest entry that nobody has been handed yet; answers with its id, or nil if all have been handed out.
_DROP_WAITING = """
local handed_out = '0-0'
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  for i = 1, #group, 2 do
    if group[i] == 'last-delivered-id' then handed_out = group[i + 1] end
  end
end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '(' .. handed_out, 'COUNT', 1)
if #newest == 0 then return false end
redis.call('XDEL', KEYS[1], newest[1][1])
return newest[1][1]
"""


@dataclass(frozen=True, slots=True)
class Look:
    """One command of an operator, and what it returned.

    Attributes:
        command: As one would type it.
        lines: The reply: one line for each group or consumer, or one line of fields.
    """

    command: str
    lines: tuple[str, ...]


class ServerView:
    """Looks at, tampers with and removes the keys of one queue.

    Args:
        url: Where the server is.
        keys: Which keys.
        group: The queue's consumer group.
    """

    def __init__(self, url: str, keys: QueueKeys, group: str) -> None:
        self._endpoint = endpoint_from_url(url, connect_timeout=_TIMEOUT)
        self._link = Link(self._endpoint)
        self._keys = keys
        self._group = group

    async def __aenter__(self) -> Self:
        """Enter; connects with the first command."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Disconnect."""
        await self._link.close()

    @property
    def address(self) -> str:
        """Host and port, or the path of the socket."""
        return self._endpoint.address

    async def is_used(self) -> bool:
        """Whether there is a queue under these keys."""
        keys = self._keys
        return bool(await self._call("EXISTS", keys.stream, keys.delayed, keys.dead, keys.stats))

    async def drop_waiting(self) -> bool:
        """Delete one waiting event behind the queue's back; False if none was waiting."""
        return await self._call("EVAL", _DROP_WAITING, 1, self._keys.stream) is not None

    async def look(self) -> list[Look]:
        """Look at the stream, its group and its consumers."""
        stream = self._keys.stream
        commands: list[Command] = [
            ("XINFO", "STREAM", stream),
            ("XINFO", "GROUPS", stream),
            ("XINFO", "CONSUMERS", stream, self._group),
        ]
        replies = [await self._call(*command) for command in commands]
        return [
            Look(self._typed(command), tuple(readable(reply))) for command, reply in zip(commands, replies, strict=True)
        ]

    async def remove_keys(self) -> None:
        """Delete the queue's keys and no others."""
        await self._call("UNLINK", self._keys.stream)
        cursor: Any = b"0"
        while True:
            cursor, found = await self._call("SCAN", cursor, "MATCH", f"{self._keys.stream}:*", "COUNT", 1000)
            if found:
                await self._call("UNLINK", *found)
            if int(cursor) == 0:
                return

    async def _call(self, *command: Any) -> Any:
        (reply,) = await self._link.call(command, timeout=_TIMEOUT)
        if isinstance(reply, BackendError):
            raise reply
        return reply

    def _typed(self, command: Command) -> str:
        host, separator, port = self.address.rpartition(":")
        where = ["-h", host, "-p", port] if separator else ["-s", self.address]
        return shlex.join(["redis-cli", *where, *map(str, command)])


def readable(reply: Sequence[Any]) -> Iterator[str]:
    """Write an XINFO reply as lines of `field value`, with payloads cut short."""
    is_single = bool(reply) and not isinstance(reply[0], list)
    for row in [reply] if is_single else reply:
        fields = zip(row[::2], row[1::2], strict=True)
        yield " · ".join(f"{_text(name)} {_shown(value)}" for name, value in fields)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        # An entry is [id, [field, value, …]]; its id says enough.
        return _shown(value[0]) if value else "-"
    text = _text(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _text(value: Any) -> str:
    if value is None:
        return "(nil)"
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
