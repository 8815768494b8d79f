"""One queue changed by nothing but the Lua scripts that a test runs: no client, keeper or housekeeping beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from streams_queue.redis_client import script
from tests.support.builders import Keys

GROUP, ME, OTHER = "processors", "me", "other"
PRODUCER = "producer-1"
DAY_MS = 24 * 3600 * 1000

FOUR = ("stream", "delayed", "dead", "stats")
SCRIPT_KEYS = {
    "ack": ("stream", "stats"),
    "adopt": ("stream", "stats"),
    "dead_ids": ("dead",),
    "dead_letter": FOUR,
    "enqueue": (*FOUR, "producer"),
    "extend": ("stream", "stats"),
    "in_flight": ("stream",),
    "leave": ("stream", "producer"),
    "maintain": FOUR,
    "nack": ("stream", "delayed", "stats"),
    "open": FOUR,
    "peek": ("stream", "delayed"),
    "purge": FOUR,
    "purge_dead": ("dead", "stats"),
    "redrive": FOUR,
    "release": ("stream", "stats"),
    "report": ("reporter",),
    "stats": FOUR,
}


@dataclass(frozen=True)
class Look:
    """Where every event is, by event id, in order, and what was counted.

    Attributes:
        waiting: Not handed out.
        in_flight: With the consumer that holds it and its delivery count.
        delayed: By due time.
        dead: With the reason.
        totals: Counts that are not 0.
    """

    waiting: tuple[str, ...] = ()
    in_flight: tuple[tuple[str, str, int], ...] = ()
    delayed: tuple[str, ...] = ()
    dead: tuple[tuple[str, str], ...] = ()
    totals: dict[str, int] = field(default_factory=dict)


def look(
    waiting: str = "",
    in_flight: Sequence[tuple[str, str, int]] = (),
    delayed: str = "",
    dead: Sequence[tuple[str, str]] = (),
    *,
    died: int = 0,
    **totals: int,
) -> Look:
    """Return the look that a test expects; event ids are single words, `died` is the total of dead letters."""
    counted = {**totals, "dead": died} if died else totals
    return Look(tuple(waiting.split()), tuple(in_flight), tuple(delayed.split()), tuple(dead), counted)


def unframe(member: bytes) -> list[bytes]:
    """Return the prefix and the fields of a member of the delayed set."""
    parts: list[bytes] = []
    while member:
        length, _, rest = member.partition(b":")
        parts.append(rest[: int(length)])
        member = rest[int(length) :]
    return parts


class ScriptsAlone:
    """Runs scripts and looks at everything that they have done.

    Attributes:
        raw: A client that blocks.
        keys: The names of this queue's keys.
    """

    def __init__(self, raw: redis.Redis, keys: Keys) -> None:
        self.raw, self.keys = raw, keys
        self._sequence = 0

    def key(self, name: str) -> str:
        """Return the full name of one of the queue's keys."""
        return f"{self.keys.stream}:producer:{PRODUCER}" if name == "producer" else str(getattr(self.keys, name))

    def run(self, name: str, *args: Any, more_keys: Sequence[str] = ()) -> Any:
        """Run a script on this queue's keys, or on `more_keys` alone if it has none of its own; return its reply."""
        keys = [*(self.key(each) for each in SCRIPT_KEYS.get(name, ())), *more_keys]
        return self.raw.eval(script(name).source, len(keys), *keys, *args)

    # --- what most tests begin with ---

    def open(self, *, schema: int = 1, knows: str = "", new: str = "first", held: int = 0) -> Any:
        """Create what is missing."""
        return self.run("open", GROUP, schema, knows, new, held)[:4]

    def enqueue(
        self,
        *event_ids: str,
        sequence: int | None = None,
        settled: int | None = None,
        max_size: int = 10_000,
        overflow: str = "reject",
        dead_max: int = 100,
        when_full: str = "refuse",
        specials: str = "",
        buckets: Sequence[str] = (),
        dedup_ttl_ms: int = 60_000,
        meta: str = '{"v":1}',
    ) -> Any:
        """Send one batch; `sequence` is the next one unless it is given, `settled` the one before it."""
        self._sequence = self._sequence + 1 if sequence is None else sequence
        events = [part for event_id in event_ids for part in (event_id, json.dumps({"n": event_id}), meta)]
        before = self._sequence - 1 if settled is None else settled
        head = (GROUP, PRODUCER, self._sequence, before, max_size, overflow, DAY_MS, dedup_ttl_ms, dead_max, when_full)
        return self.run("enqueue", *head, specials, *events, more_keys=[self.bucket(each) for each in buckets])

    def bucket(self, name: str) -> str:
        """Return the key of a dedup bucket."""
        return f"{self.keys.stream}:dedup:{name}"

    def read(self, count: int, consumer: str = ME) -> list[str]:
        """Hand `count` events to a consumer and return their entry ids."""
        reply: Any = self.raw.xreadgroup(GROUP, consumer, {self.keys.stream: ">"}, count=count)
        return [entry_id.decode() for entry_id, _ in reply[0][1]] if reply else []

    def claim(self, entry_id: str, consumer: str, *, idle_ms: int = 0, count: int | None = None) -> None:
        """Make a pending entry look as if `consumer` had taken it so long ago, for the `count`-th time."""
        more: dict[str, Any] = {} if count is None else {"retrycount": count}
        self.raw.xclaim(self.keys.stream, GROUP, consumer, 0, [entry_id], idle=idle_ms, justid=True, **more)

    def delay(self, event_id: str, due_ms: float, *, prefix: str = "p", meta: str = '{"v":1}') -> None:
        """Put an event into the delayed set, as a batch would."""
        parts = (prefix, "id", event_id, "payload", json.dumps({"n": event_id}), "meta", meta)
        self.raw.zadd(self.keys.delayed, {"".join(f"{len(part)}:{part}" for part in parts): due_ms})

    def bury(self, *event_ids: str, reason: str = "rejected", dead_id: str = "*") -> list[str]:
        """Make dead letters by hand and return their ids."""
        return [self._bury(event_id, reason, dead_id) for event_id in event_ids]

    def _bury(self, event_id: str, reason: str, wanted_id: str) -> str:
        fields: dict[Any, Any] = {"id": event_id, "payload": json.dumps({"n": event_id}), "meta": '{"v":1,"d":3}'}
        own = {"reason": reason, "error": "", "deliveries": 4, "enqueued_ms": 1, "died_ms": 2}
        dead_id: Any = self.raw.xadd(self.keys.dead, {**fields, **own}, id=wanted_id)
        return str(dead_id.decode())

    # --- looking ---

    def now_ms(self) -> int:
        """Return the server's time in milliseconds, rounded down as the scripts do."""
        seconds, micros = self.raw.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def look(self) -> Look:
        """Return where every event is."""
        pending = self.pending()
        entries = dict(self._entries("stream"))
        return Look(
            waiting=tuple(_id(fields) for entry_id, fields in entries.items() if entry_id not in pending),
            in_flight=tuple((_id(entries.get(entry_id, {})), *held[:2]) for entry_id, held in pending.items()),
            delayed=tuple(_id(fields) for _, fields in self.delayed()),
            dead=tuple((_id(fields), fields["reason"].decode()) for _, fields in self._entries("dead")),
            totals=self.totals(),
        )

    def pending(self) -> dict[str, tuple[str, int, int]]:
        """Return consumer, delivery count and idle time in ms of every pending entry, by entry id."""
        if not self._has_group():
            return {}
        found: Any = self.raw.xpending_range(self.keys.stream, GROUP, "-", "+", 10_000)
        return {
            each["message_id"].decode(): (
                each["consumer"].decode(),
                each["times_delivered"],
                each["time_since_delivered"],
            )
            for each in found
        }

    def fields(self, event_id: str, where: str = "stream") -> dict[str, bytes]:
        """Return the fields of one event in the stream, the dead letters or the delayed set."""
        entries = self.delayed() if where == "delayed" else self._entries(where)
        (found,) = [fields for _, fields in entries if _id(fields) == event_id]
        return found

    def meta(self, event_id: str, where: str = "stream") -> Any:
        """Return the meta of one event."""
        return json.loads(self.fields(event_id, where)["meta"])

    def delayed(self) -> list[tuple[float, dict[str, bytes]]]:
        """Return due time in ms and fields of all delayed events."""
        members: Any = self.raw.zrange(self.keys.delayed, 0, -1, withscores=True)
        parts = [(score, unframe(member)[1:]) for member, score in members]
        return [(score, {name.decode(): value for name, value in _pairs(flat)}) for score, flat in parts]

    def totals(self) -> dict[str, int]:
        """Return the counts that are not 0; times, schema and pause are no counts."""
        found: Any = self.raw.hgetall(self.keys.stats)
        named = {name.decode(): value for name, value in found.items()}
        return {
            name: int(value)
            for name, value in named.items()
            if not re.search(r"_ms$|^schema$|^paused$|^lifetime$|^mourned$", name) and value != b"0"
        }

    def stat(self, name: str) -> int | None:
        """Return one number of the stats hash."""
        found: Any = self.raw.hget(self.keys.stats, name)
        return None if found is None else int(found)

    def consumers(self) -> set[str]:
        """Return the names of the group's consumers."""
        found: Any = self.raw.xinfo_consumers(self.keys.stream, GROUP)
        return {each["name"].decode() for each in found}

    def dump(self, *, ignoring: str = "") -> dict[str, Any]:
        """Return everything that the server holds of this queue, but for idle times and perhaps one number in stats."""
        names = sorted(key.decode() for key in self.raw.scan_iter(f"{self.keys.namespace}*", count=1000))
        found = {name: self._content(name) for name in names}
        if ignoring:
            found[self.keys.stats].pop(ignoring.encode(), None)
        return found

    def _content(self, name: str) -> Any:
        kind: Any = self.raw.type(name)
        if kind == b"stream":
            return self.raw.xrange(name), self._groups(name)
        read = {
            b"string": self.raw.get,
            b"hash": self.raw.hgetall,
            b"set": self.raw.smembers,
            b"list": lambda key: self.raw.lrange(key, 0, -1),
            b"zset": lambda key: self.raw.zrange(key, 0, -1, withscores=True),
        }
        return read[kind](name)

    def _groups(self, name: str) -> Any:
        groups: Any = self.raw.xinfo_groups(name)
        pending = {entry_id: held[:2] for entry_id, held in self.pending().items()} if name == self.keys.stream else {}
        kept = ("name", "consumers", "pending", "last-delivered-id")
        return [{key: group[key] for key in kept} for group in groups], pending

    def _has_group(self) -> bool:
        groups: Any = self.raw.xinfo_groups(self.keys.stream) if self.raw.exists(self.keys.stream) else []
        return GROUP.encode() in [group["name"] for group in groups]

    def _entries(self, where: str) -> Iterator[tuple[str, dict[str, bytes]]]:
        found: Any = self.raw.xrange(getattr(self.keys, where))
        for entry_id, fields in found:
            yield entry_id.decode(), {name.decode(): value for name, value in fields.items()}


def _id(fields: dict[str, bytes]) -> str:
    return fields.get("id", b"?").decode()


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
