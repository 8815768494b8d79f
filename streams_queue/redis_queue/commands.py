"""The stream commands: what each Lua script and the blocking read take, and what their replies mean.

Nothing here waits, retries or decides; every method is one command for a link, or one round trip over it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streams_queue.config import Settings
from streams_queue.errors import BackendError
from streams_queue.keys import QueueKeys
from streams_queue.observer import Observers
from streams_queue.redis_client import Argument, Command, Link, call, from_reply, script, with_source

# The layout of keys and fields that this release reads and writes.
SCHEMA = 1

PRODUCER_TTL_MS = 24 * 3600 * 1000
# A dedup window is cut into this many buckets; one more is read on either side, for clocks that differ.
DEDUP_BUCKETS = 4

# What the script is told of a full queue where the caller tries again: it refuses, and does not count that.
_WAITS = "block"

# The current bucket first.
_AROUND = (0, 1, *range(-1, -DEDUP_BUCKETS - 1, -1))

RawEntry = tuple[str, int, list[bytes]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What `open` found.

    Attributes:
        state_lost: Whether this is not the group that this client knew, and nobody had noticed.
        held: How many events the queue holds.
        lifetime: By which the group is known again.
        paused: What an operator has paused: `intake`, `delivery`, both, or nothing.
    """

    state_lost: bool
    held: int
    lifetime: str
    paused: str


@dataclass(slots=True)
class BatchReply:
    """What became of a batch: see lua/enqueue.lua for `status` and `results`."""

    status: str
    held: int
    results: list[str]
    stored_sequence: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """Entries that the server had handed to this consumer without its knowledge."""

    entries: list[RawEntry]
    lost: int
    more: bool


@dataclass(frozen=True, slots=True)
class Maintained:
    """What a round of housekeeping did; see lua/maintain.lua."""

    entries: list[RawEntry]
    swept: bool
    alone: bool
    more: bool
    waits_alone: bool
    next_due: float | None
    paused: str
    held: int
    lost: int
    buried: list[str]
    promoted: int
    refused: int
    strays: bool
    taken_over: list[str]


@dataclass(frozen=True, slots=True)
class Figures:
    """One consistent look at a queue; `totals` is the stats hash, `refused` why the server takes no writes now."""

    entries: int
    pending: int
    delayed: int
    dead: int
    consumers: int
    oldest_waiting: str
    now_ms: int
    totals: dict[str, str]
    refused: BackendError | None


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds what; see lua/in_flight.lua. Consumers: name, pending, idle in ms. Entries: id, holder, fields."""

    now_ms: int
    consumers: list[tuple[str, int, int]]
    entries: list[tuple[str, tuple[str, int, int], list[bytes]]]


class StreamCommands:
    """Speaks for one consumer of one queue.

    Args:
        settings: Of the queue.
        consumer: The name under which the server knows this consumer.
        timeout: Seconds that one round trip may take.
        observers: Are told how long each round trip took.
    """

    def __init__(
        self, settings: Settings, consumer: str, *, timeout: float, observers: Observers | None = None
    ) -> None:
        self._settings = settings
        self.observers = observers or Observers()
        self.keys = QueueKeys(settings.namespace, settings.name)
        self.consumer = consumer
        self.timeout = timeout
        self._owner: tuple[str, str] = (settings.group, consumer)
        self._dead_limits: tuple[Argument, ...] = (settings.dead_letter.max_size, settings.dead_letter.when_full)
        self._max_delay_ms = milliseconds(settings.retry_policy.max_delay)
        self._dedup_ttl_ms = milliseconds(settings.dedup_window * (DEDUP_BUCKETS + 2) / DEDUP_BUCKETS)
        self._bucket_width = max(settings.dedup_window, 0.001) / DEDUP_BUCKETS

    async def _run(
        self, link: Link, name: str, keys: Sequence[str], args: Sequence[Argument] = (), *, timeout: float
    ) -> Any:
        with self.observers.timing(name):
            return await link.run(script(name), keys, args, timeout=timeout)

    # --- opening and leaving ---

    async def open(self, link: Link, *, lifetime: str, new_lifetime: str, held: int) -> Opened:
        """Check the keys and create the group if it is missing. Redis: 1 round trip.

        Args:
            link: On which to ask.
            lifetime: Of the group that this client knows; empty the first time.
            new_lifetime: For a group that has to be created; the same when this is repeated.
            held: How many events the queue held, as far as this client knows.
        """
        keys = self.keys
        lost, found, _, lives, paused = await self._run(
            link,
            "open",
            (keys.stream, keys.delayed, keys.dead, keys.stats),
            (self._settings.group, SCHEMA, lifetime, new_lifetime, held),
            timeout=self.timeout,
        )
        return Opened(bool(lost), found, _word(lives), _word(paused))

    async def leave(self, link: Link, producer_id: str) -> bool:
        """Remove the consumer and the producer's memory; False if entries are still pending for it."""
        keys = (self.keys.stream, self.keys.producer(producer_id))
        return bool(await self._run(link, "leave", keys, self._owner, timeout=self.timeout))

    # --- producing ---

    def bucket(self) -> int:
        """Return the bucket in which event ids are kept at this moment."""
        return int(time.time() / self._bucket_width)

    def enqueue_command(
        self,
        *,
        producer_id: str,
        sequence: int,
        settled: int,
        max_size: int,
        specials: str,
        bucket: int | None,
        events: Sequence[Argument],
        counts_rejected: bool = True,
        ttl_ms: int = PRODUCER_TTL_MS,
    ) -> Command:
        """Return the command that writes one batch.

        Args:
            producer_id: Whose batch it is.
            sequence: Its number.
            settled: The last batch of the same producer that is known to be written, or will never be; those between
                it and this one have to be there.
            max_size: How many events the queue may hold.
            specials: What lua/enqueue.lua is to know of delays and event ids.
            bucket: For the ids, given if any event is deduplicated.
            events: Id, payload and meta in turn.
            counts_rejected: Whether what has no room is counted as rejected.
            ttl_ms: How long the server knows the producer again after this batch.
        """
        names = self.keys
        keys = [names.stream, names.delayed, names.dead, names.stats, names.producer(producer_id)]
        if bucket is not None:
            keys += self._around(names.dedup, bucket)
        overflow = self._settings.overflow
        return call(
            script("enqueue"),
            keys,
            (
                self._settings.group,
                producer_id,
                sequence,
                settled,
                max_size,
                _WAITS if overflow == "reject" and not counts_rejected else overflow,
                ttl_ms,
                self._dedup_ttl_ms,
                *self._dead_limits,
                specials,
                *events,
            ),
        )

    @staticmethod
    def enqueue_reply(reply: Any) -> BatchReply:
        """Return what became of a batch. Raises the error that a reply is."""
        if isinstance(reply, BackendError):
            raise reply
        status, held, words, stored = reply
        return BatchReply(status.decode(), held, words.decode().split(), stored)

    async def enqueue(self, link: Link, command: Command, *, timeout: float) -> BatchReply:
        """Send one batch. Redis: 1 round trip."""
        with self.observers.timing("enqueue"):
            return self.enqueue_reply(await link.run_command(script("enqueue"), command, timeout=timeout))

    async def cede(self, link: Link, digests: Sequence[str], *, refused: bool) -> list[bool]:
        """Leave event ids to another queue; False for each that this queue has. Redis: 1 round trip.

        Args:
            link: On which to ask.
            digests: Of at most 500 ids.
            refused: Whether this queue has just refused their events as duplicates.
        """
        names, bucket = self.keys, self.bucket()
        keys = [names.stats, *self._around(names.dedup, bucket), *self._around(names.ceded, bucket)]
        args: tuple[Argument, ...] = (self._dedup_ttl_ms, int(refused), *digests)
        return [answer == 1 for answer in await self._run(link, "cede", keys, args, timeout=self.timeout)]

    async def take_back(self, link: Link, digests: Sequence[str]) -> int:
        """Take at most 500 ceded ids back; returns how many are free again. Redis: 1 round trip, never repeated."""
        names, bucket = self.keys, self.bucket()
        keys = [*self._around(names.dedup, bucket), *self._around(names.ceded, bucket)]
        free: int = await self._run(link, "take_back", keys, digests, timeout=self.timeout)
        return free

    @staticmethod
    def _around(name: Callable[[int], str], bucket: int) -> list[str]:
        """Return the keys of all buckets that hold ids which are known at this moment, the current one first."""
        return [name(bucket + offset) for offset in _AROUND]

    # --- consuming ---

    def read(self, count: int, block_ms: int | None) -> Command:
        """Return the command that reads new entries; `block_ms` is at least 1, or None not to wait."""
        waiting: Command = () if block_ms is None else ("BLOCK", block_ms)
        return ("XREADGROUP", "GROUP", *self._owner, "COUNT", count, *waiting, "STREAMS", self.keys.stream, ">")

    @staticmethod
    def read_reply(reply: Any) -> Iterator[RawEntry]:
        """Yield the entries of a read; every new entry has been delivered once."""
        return ((entry[0].decode(), 1, entry[1]) for entry in (reply[0][1] if reply else ()))

    def ack(self, entry_ids: Sequence[str], *, by_source: bool) -> Command:
        """Return the command that acknowledges and deletes at most 1000 entries."""
        keys = (self.keys.stream, self.keys.stats)
        command = call(script("ack"), keys, (self._settings.group, *entry_ids))
        return with_source(script("ack"), command) if by_source else command

    async def ack_now(self, link: Link, entry_ids: Sequence[str]) -> None:
        """Acknowledge and delete at most 1000 entries. Redis: 1 round trip."""
        keys = (self.keys.stream, self.keys.stats)
        await self._run(link, "ack", keys, (self._settings.group, *entry_ids), timeout=self.timeout)

    async def nack(self, link: Link, entry_id: str, count: int, *, delay: float, counted: bool) -> str:
        """Put an event back after `delay` seconds; returns held, lost or gone."""
        keys = (self.keys.stream, self.keys.delayed, self.keys.stats)
        args = (*self._owner, entry_id, count, milliseconds(delay), int(counted))
        return _word(await self._run(link, "nack", keys, args, timeout=self.timeout))

    async def release(self, link: Link, held: Sequence[tuple[str, int]]) -> list[str]:
        """Give at most 500 events back; returns held, lost or gone for each."""
        keys = (self.keys.stream, self.keys.stats)
        return _words(await self._run(link, "release", keys, (*self._owner, *_flat(held)), timeout=self.timeout))

    async def extend(self, link: Link, held: Sequence[tuple[str, int]], *, timeout: float) -> list[str]:
        """Renew at most 500 leases; returns held, lost or gone for each."""
        keys = (self.keys.stream, self.keys.stats)
        args = (*self._owner, milliseconds(self._settings.lease), *_flat(held))
        return _words(await self._run(link, "extend", keys, args, timeout=timeout))

    async def dead_letter(self, link: Link, entry_id: str, count: int, *, reason: str, error: str) -> str:
        """Bury an event; returns held, refused, lost or gone."""
        keys = (self.keys.stream, self.keys.delayed, self.keys.dead, self.keys.stats)
        args = (*self._owner, entry_id, count, reason, error, *self._dead_limits, self._max_delay_ms)
        return _word(await self._run(link, "dead_letter", keys, args, timeout=self.timeout))

    async def adopt(self, link: Link, known: Sequence[str], *, limit: int) -> Adopted:
        """Fetch what is pending for this consumer and not among `known`."""
        keys = (self.keys.stream, self.keys.stats)
        entries, lost, more = await self._run(link, "adopt", keys, (*self._owner, limit, *known), timeout=self.timeout)
        return Adopted(_raw(entries), lost, bool(more))

    async def maintain(
        self,
        link: Link,
        *,
        slots: int,
        empty: bool,
        go_on: bool,
        interval: float,
        prune_after: float,
        look_anyway: bool,
        disowned: Sequence[str],
    ) -> Maintained:
        """Promote what is due and claim what crashed consumers left, at most `slots` events.

        With `look_anyway` the pending entries are swept also if there is no free slot, to learn whether to make one.
        """
        names, settings = self.keys, self._settings
        reply = await self._run(
            link,
            "maintain",
            (names.stream, names.delayed, names.dead, names.stats),
            (
                *self._owner,
                milliseconds(settings.lease),
                slots,
                int(empty),
                milliseconds(interval),
                int(go_on),
                settings.retry_policy.max_deliveries,
                *self._dead_limits,
                self._max_delay_ms,
                milliseconds(prune_after),
                int(look_anyway),
                *disowned,
            ),
            timeout=self.timeout,
        )
        entries, swept, alone, more, waits_alone, next_due, paused, held, lost, buried, promoted, refused, *own = reply
        return Maintained(
            entries=_raw(entries),
            swept=bool(swept),
            alone=bool(alone),
            more=bool(more),
            waits_alone=bool(waits_alone),
            next_due=None if next_due < 0 else next_due / 1000,
            paused=_word(paused),
            held=held,
            lost=lost,
            buried=_words(buried),
            promoted=promoted,
            refused=refused,
            strays=bool(own[0]),
            taken_over=_words(own[1]),
        )

    # --- looking and operating ---

    async def report(self, link: Link, ttl: float) -> bool:
        """Take, keep or (`ttl` 0) give up the office of reporting for the queue; whether this consumer holds it."""
        args = (self.consumer, milliseconds(ttl))
        return bool(await self._run(link, "report", (self.keys.reporter,), args, timeout=self.timeout))

    async def figures(self, link: Link) -> Figures:
        """Return all figures in one round trip."""
        names = self.keys
        keys = (names.stream, names.delayed, names.dead, names.stats)
        reply = await self._run(link, "stats", keys, (self._settings.group,), timeout=self.timeout)
        entries, pending, delayed, dead, consumers, oldest, now_ms, flat, error = reply
        totals = dict(zip(_words(flat[::2]), _words(flat[1::2]), strict=True))
        refused = from_reply(Exception(_word(error))) if error else None
        return Figures(entries, pending, delayed, dead, consumers, _word(oldest), now_ms, totals, refused)

    async def peek(self, link: Link, count: int) -> tuple[list[RawEntry], list[tuple[float, list[bytes]]]]:
        """Return waiting entries and delayed events (due in milliseconds), at most `count` together."""
        keys = (self.keys.stream, self.keys.delayed)
        waiting, delayed = await self._run(link, "peek", keys, (self._settings.group, count), timeout=self.timeout)
        return [(entry[0].decode(), 0, entry[1]) for entry in waiting], [(float(due), flat) for due, flat in delayed]

    async def in_flight(self, link: Link, count: int, *, first: str, payloads: bool) -> Held:
        """Return all consumers, and at most `count` pending entries from `first` (`-`: the oldest) on."""
        args = (self._settings.group, first, count, int(payloads))
        reply = await self._run(link, "in_flight", (self.keys.stream,), args, timeout=self.timeout)
        now_ms, consumers, entries = reply
        return Held(
            now_ms,
            [(_word(name), pending, idle_ms) for name, pending, idle_ms in consumers],
            [
                (entry_id.decode(), (_word(name), idle_ms, deliveries), flat)
                for entry_id, name, idle_ms, deliveries, flat in entries
            ],
        )

    def list_dead(self, count: int, after: str | None) -> Command:
        """Return the command that lists dead letters, oldest first."""
        return ("XRANGE", self.keys.dead, "-" if after is None else f"({after}", "+", "COUNT", count)

    async def dead_ids(self, link: Link, count: int) -> list[str]:
        """Return the ids of the oldest dead letters."""
        return _words(await self._run(link, "dead_ids", (self.keys.dead,), (count,), timeout=self.timeout))

    async def redrive(self, link: Link, max_size: int, dead_ids: Sequence[str]) -> tuple[int, bool]:
        """Put at most 500 dead letters back, all different; returns how many went, and whether the queue is full."""
        names = self.keys
        keys = (names.stream, names.delayed, names.dead, names.stats)
        redriven, full = await self._run(link, "redrive", keys, (max_size, *dead_ids), timeout=self.timeout)
        return redriven, bool(full)

    async def purge(self, link: Link, limit: int) -> tuple[int, bool]:
        """Bury at most `limit` waiting and delayed events; returns how many, and if the dead letters are full."""
        names = self.keys
        keys = (names.stream, names.delayed, names.dead, names.stats)
        args = (self._settings.group, limit, *self._dead_limits)
        moved, full = await self._run(link, "purge", keys, args, timeout=self.timeout)
        return moved, bool(full)

    async def purge_dead(self, link: Link, dead_ids: Sequence[str]) -> int:
        """Delete at most 1000 dead letters, or all if no id is given; returns how many there were."""
        deleted: int = await self._run(
            link, "purge_dead", (self.keys.dead, self.keys.stats), dead_ids, timeout=self.timeout
        )
        return deleted

    def count_rejected(self, count: int) -> Command:
        """Return the command that counts events that were refused after waiting for room."""
        return ("HINCRBY", self.keys.stats, "rejected", count)

    def set_paused(self, paused: str) -> Command:
        """Return the command that pauses `intake`, `delivery`, both (comma between), or nothing."""
        if paused:
            return ("HSET", self.keys.stats, "paused", paused)
        return ("HDEL", self.keys.stats, "paused")


def milliseconds(seconds: float) -> int:
    """Return seconds as whole milliseconds, rounded up, so that nothing above 0 becomes 0."""
    return -int(-seconds * 1000 // 1)


def _flat(held: Iterable[tuple[str, int]]) -> list[Argument]:
    return [value for pair in held for value in pair]


def _word(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _words(values: Iterable[bytes]) -> list[str]:
    return [_word(value) for value in values]


def _raw(entries: Iterable[Any]) -> list[RawEntry]:
    return [(entry_id.decode(), count, flat) for entry_id, count, flat in entries]
