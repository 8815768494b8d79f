"""Looking at a server and a queue on it, with commands that change nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

from streams_queue.config import Settings
from streams_queue.doctor.permissions import is_denied, try_all
from streams_queue.doctor.seen import Consumer, OnServer, Seen, Server, Unusable
from streams_queue.errors import BackendError, BackendRejected
from streams_queue.keys import PLAN_LIST, PLAN_PROCESSING_LIST, QueueKeys
from streams_queue.redis_client import Command, Link, endpoint_from_url

PLAN_LISTS = (PLAN_LIST, PLAN_PROCESSING_LIST)
"""The lists of GitBridge's plan: what waits, and what its workers had in hand."""

_PINGS = 5
_SAMPLE = 20
# What an entry takes beside its fields: its id, its place in the stream's tree, and a share of the pending list.
_ENTRY_OVERHEAD = 120
_SETTINGS = ("save", "appendfsync", "timeout")
# Not renewed for this many leases: every living consumer would have been heard of, or have taken the events over.
_LEASES_OVERDUE = 2
# An unknown command is refused before its arguments are looked at, and before permissions are.
_NEWER = {
    "WAITAOF": ("WAITAOF",),
    "XACKDEL": ("XACKDEL",),
    "XDELEX": ("XDELEX",),
    "XNACK": ("XNACK",),
    "XCFGSET": ("XCFGSET",),
}
_MISSING = "no-such-key"


async def look(settings: Settings) -> Seen | Unusable:
    """Look at the server and the queue of a configuration. Changes nothing, and is not seen by the queue's consumers.

    What is denied appears in the server's ACL LOG.

    Redis: about a dozen round trips.

    Raises:
        ConfigError: The URL cannot be used.
    """
    endpoint = endpoint_from_url(settings.redis_url or "", connect_timeout=settings.enqueue_timeout)
    link = Link(endpoint)
    try:
        return await Looking(link, settings).everything(endpoint.address)
    except BackendRejected as error:
        return Unusable(address=endpoint.address, code=error.code, error=str(error))
    except BackendError as error:
        return Unusable(address=endpoint.address, code="", error=str(error))
    finally:
        await link.close()


class Looking:
    """One look, on one connection."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._settings = settings
        self._keys = QueueKeys(settings.namespace, settings.name)
        self._hidden: list[str] = []

    async def everything(self, address: str) -> Seen:
        """Look at the server first, then at the queue. Raises BackendError if the server does not answer."""
        round_trip, ahead = await self._clock()
        hello = _pairs(await self._ask("HELLO", 2))
        role = await self._ask("ROLE")
        is_primary = not isinstance(role, list) or role[0] == b"master"
        # On a replica a write would be refused by its role, whoever asks for it.
        denied, refusal = await self._try_all() if is_primary else ({}, "")
        info = self._info(await self._ask("INFO"))
        server = Server(
            address=address,
            software=hello.get("server", "redis"),
            version=hello.get("version") or (info or {}).get("redis_version", "?"),
            mode=hello.get("mode", "standalone"),
            is_primary=is_primary,
            replicas=len(role[2]) if is_primary and isinstance(role, list) else 0,
            round_trip=round_trip,
            clock_ahead=ahead,
            lacks=await self._lacks(),
            knows=await self._knows(),
            refusal=refusal,
            info=info,
            config=await self._config(),
        )
        return Seen(server=server, queue=await self._queue(denied), hidden=tuple(self._hidden))

    async def _many(self, *commands: Command) -> list[Any]:
        return await self._link.call(*commands, timeout=self._settings.enqueue_timeout)

    async def _ask(self, *command: str | bytes | int) -> Any:
        return (await self._many(command))[0]

    async def _try_all(self) -> tuple[dict[str, str], str]:
        fsynced = self._settings.durability == "fsynced"
        return await try_all(self._link, self._keys, fsynced=fsynced, timeout=self._settings.enqueue_timeout)

    # --- the server ---

    async def _clock(self) -> tuple[float, float]:
        """Return how long a round trip takes and how far ahead the server's clock is, in seconds."""
        trips = []
        for _ in range(_PINGS):
            before = time.perf_counter()
            pong = await self._ask("PING")
            trips.append(time.perf_counter() - before)
            if isinstance(pong, BackendRejected) and pong.code in {"NOAUTH", "WRONGPASS", "LOADING", "MAXCLIENTS"}:
                raise pong
        before = time.time()
        now = await self._ask("TIME")
        after = time.time()
        if isinstance(now, BackendError):
            return statistics.median(trips), 0.0
        theirs = int(now[0]) + int(now[1]) / 1e6
        # Somewhere between the two looks at our own clock it was asked: what lies between them is not known.
        ahead = max(0.0, theirs - after) - max(0.0, before - theirs)
        return statistics.median(trips), ahead

    def _info(self, reply: Any) -> dict[str, str] | None:
        if isinstance(reply, BackendError):
            self._hidden.append("memory and persistence (INFO)")
            return None
        lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
        return {name: value for name, _, value in lines}

    async def _config(self) -> dict[str, str]:
        replies = await self._many(*(("CONFIG", "GET", name) for name in _SETTINGS))
        seen = {name: reply[1].decode() for name, reply in zip(_SETTINGS, replies, strict=True) if _is_list(reply)}
        if not seen:
            self._hidden.append(f"the settings {', '.join(_SETTINGS)} (CONFIG GET)")
        return seen

    async def _lacks(self) -> tuple[str, ...]:
        """Return what servers before Redis 6.2 cannot do and a queue needs, found by trying it."""
        nothing = f"{self._keys.stream}:{_MISSING}"
        idle, exclusive = await self._many(
            ("XPENDING", nothing, self._settings.group, "IDLE", 1, "-", "+", 1), ("XRANGE", nothing, "(0-1", "+")
        )
        found = {
            "XPENDING … IDLE": isinstance(idle, BackendRejected) and idle.code not in {"NOGROUP", "NOPERM"},
            "exclusive ranges in XRANGE": isinstance(exclusive, BackendRejected) and exclusive.code != "NOPERM",
        }
        return tuple(name for name, is_missing in found.items() if is_missing)

    async def _knows(self) -> tuple[str, ...]:
        replies = await self._many(*_NEWER.values())
        return tuple(
            name for name, reply in zip(_NEWER, replies, strict=True) if "unknown command" not in str(reply).lower()
        )

    # --- the queue ---

    async def _queue(self, denied: Mapping[str, str]) -> OnServer:
        keys, group = self._keys, self._settings.group
        own = {keys.stream: "stream", keys.delayed: "zset", keys.dead: "stream", keys.stats: "hash"}
        types = await self._types((*own, *PLAN_LISTS))
        lists = await self._lengths(name for name in PLAN_LISTS if types.get(name) == "list")
        has = {name: types.get(name) == wanted for name, wanted in own.items()}
        notes = _pairs(await self._ask("HGETALL", keys.stats)) if has[keys.stats] else {}
        seen: dict[str, Any] = {
            "delayed": _count(await self._ask("ZCARD", keys.delayed)) if has[keys.delayed] else 0,
            "dead": _count(await self._ask("XLEN", keys.dead)) if has[keys.dead] else 0,
            "schema": notes.get("schema", ""),
            "paused": notes.get("paused", ""),
        }
        if has[keys.stream]:
            seen |= await self._stream(group)
        return OnServer(types=types, denied=denied, old_lists=lists, **seen)

    async def _types(self, names: Iterable[str]) -> dict[str, str]:
        wanted = tuple(names)
        replies = dict(zip(wanted, await self._many(*(("TYPE", name) for name in wanted)), strict=True))
        if any(is_denied(replies[name]) for name in PLAN_LISTS):
            self._hidden.append(f"whether there are lists of the plan's ({', '.join(PLAN_LISTS)})")
        return {name: _text(reply) for name, reply in replies.items() if not isinstance(reply, BackendError)}

    async def _lengths(self, names: Iterable[str]) -> dict[str, int]:
        return {name: _count(await self._ask("LLEN", name)) for name in names}

    async def _stream(self, group: str) -> dict[str, Any]:
        stream = self._keys.stream
        overdue_ms = int(self._settings.lease * _LEASES_OVERDUE * 1000)
        length, groups, now, sample = await self._many(
            ("XLEN", stream), ("XINFO", "GROUPS", stream), ("TIME",), ("XRANGE", stream, "-", "+", "COUNT", _SAMPLE)
        )
        named = {each["name"]: each for each in map(_pairs, groups)} if _is_list(groups) else {}
        held = _count(length)
        seen: dict[str, Any] = {"groups": tuple(named), "waiting": held, "event_bytes": _mean_bytes(sample)}
        if group not in named:
            return seen
        pending, last = int(named[group]["pending"]), named[group]["last-delivered-id"]
        consumers, expired, unread = await self._many(
            ("XINFO", "CONSUMERS", stream, group),
            ("XPENDING", stream, group, "IDLE", overdue_ms, "-", "+", 1000),
            ("XRANGE", stream, f"({last}", "+", "COUNT", 1),
        )
        seen |= {"waiting": max(0, held - pending), "in_flight": pending}
        seen["consumers"] = tuple(map(_consumer, consumers)) if _is_list(consumers) else ()
        seen["expired"] = len(expired) if _is_list(expired) else 0
        if _is_list(unread) and unread and _is_list(now):
            added = int(unread[0][0].partition(b"-")[0]) / 1000
            seen["oldest_waiting"] = max(0.0, int(now[0]) - added)
        return seen


def _is_list(reply: Any) -> bool:
    return isinstance(reply, list)


def _count(reply: Any) -> int:
    return reply if isinstance(reply, int) else 0


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _pairs(reply: Any) -> dict[str, str]:
    """Return a flat list of names and values as a dict; nothing for an error."""
    if not _is_list(reply):
        return {}
    return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=False)}


def _consumer(reply: Any) -> Consumer:
    fields = _pairs(reply)
    return Consumer(name=fields["name"], pending=int(fields["pending"]), idle=int(fields["idle"]) / 1000)


def _mean_bytes(entries: Any) -> int | None:
    if not (_is_list(entries) and entries):
        return None
    return _ENTRY_OVERHEAD + sum(len(value) for _, flat in entries for value in flat) // len(entries)
