"""Reading: one read outstanding, a small buffer, and callers that wait for it.

A caller takes from the buffer. When it is empty the reader's task fetches, for all callers that wait: acks that are due
and the read go out together, and the read waits on its own connection until something comes. A caller that gives up
leaves the read alone; what it brings is for the next caller, or is released after a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from streams_queue.codec import Codec
from streams_queue.config import Settings
from streams_queue.errors import BackendError, BackendRejected
from streams_queue.messages import Delivery
from streams_queue.observer import Observers
from streams_queue.redis_client import Command, OnReply, Sink, passes
from streams_queue.redis_queue.channel import Channel
from streams_queue.redis_queue.commands import RawEntry, milliseconds
from streams_queue.redis_queue.entries import Broken, Newer, milliseconds_of, read_entry
from streams_queue.redis_queue.leases import Lease, Leases, Stage
from streams_queue.redis_queue.outage import Backoff
from streams_queue.redis_queue.prefetch import Prefetch
from streams_queue.redis_queue.settlements import Settlements
from streams_queue.redis_queue.size import LocalSize

logger = logging.getLogger(__name__)

# What is not handed out after this many seconds goes back, so that a hung handler holds nobody else's event.
STALE_AFTER = 1.0
# A read may end later than asked, when the server is busy with others.
READ_MARGIN = 1.0
MAX_BLOCK = 5.0
# How long an entry that only others can read is left to it before anybody looks again.
LEAVE_TO_NEWER = 30.0
_ADOPT_AT_ONCE = 500
_SPIN_PAUSE = 0.01
# A caller that waited for this queue or another one, and was given something by the other, may be back as soon as this.
_UNWANTED_AFTER = 0.02
# Event loops cannot wait for an infinite time.
_FOR_EVER = 1e8


@dataclass(eq=False, slots=True)
class _Waiter:
    """A caller that waits: for how many events, and until when by the event loop's clock."""

    woken: asyncio.Future[None]
    slots: int
    deadline: float


class _Arrival(NamedTuple):
    """How many events a read brought, of which size, when by the event loop's clock, and how many there were before."""

    events: int
    size_bytes: int
    at: float
    buffered: int


class Reader:
    """Fetches events for one session and hands them out.

    Attributes:
        block: The longest wait of one read, in seconds.
        on_hunger: Called when a caller begins to wait.
    """

    def __init__(
        self,
        channel: Channel,
        leases: Leases,
        settlements: Settlements,
        settings: Settings,
        *,
        codec: Codec,
        observers: Observers,
        size: LocalSize,
        session: object,
    ) -> None:
        self._channel = channel
        self._leases = leases
        self._settlements = settlements
        self._settings = settings
        self._codec = codec
        self._observers = observers
        self._size = size
        self._session = session
        self._prefetch = Prefetch(settings.prefetch)
        self._buffer: deque[Lease] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._demand = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stale_timer: asyncio.TimerHandle | None = None
        self._recover_at: list[float] = []
        self._client_id: int | None = None
        self._ack_is_known = False
        self._fetches = 0
        self._closed = False
        self._paused = False
        self._draining = False
        self._claims_first = False
        # The last read found nothing: not worth another one before somebody waits.
        self._has_run_dry = False
        self._handed_out = 0
        self.block = min(settings.lease / 3, MAX_BLOCK)
        self.on_hunger: Callable[[], None] = lambda: None

    # --- what callers see ---

    @property
    def buffered(self) -> int:
        """How many events are prefetched and not handed out."""
        return len(self._buffer)

    @property
    def oldest_buffered(self) -> str | None:
        """The entry id of the oldest prefetched event."""
        return min((lease.entry_id for lease in self._buffer), default=None, key=milliseconds_of)

    @property
    def is_reading(self) -> bool:
        """Whether a read is waiting on the server for events."""
        return self._settlements.is_idle

    @property
    def activity(self) -> tuple[int, int]:
        """How many events this session has handed out, and how often it fetched some: who is stuck does neither."""
        return self._handed_out, self._fetches

    def free_slots(self) -> int:
        """How many more events callers wait for than are there: what may be claimed, because it starts at once."""
        if self._closed or self._paused or self._leases.alone is not None:
            return 0
        wanted = sum(waiter.slots for waiter in self._waiters if not waiter.woken.done())
        return max(0, wanted - self._startable())

    async def take(self, max_events: int, timeout: float, max_bytes: float) -> list[Delivery]:
        """Return up to `max_events` deliveries, [] when nothing came within `timeout` seconds or the reader is closed.

        Beyond the first they have at most `max_bytes` of payload together.

        Redis: nothing while the buffer has events; else 1 round trip, which acknowledges what is finished and reads.
        Cancelled: Nothing is taken; the read goes on for the next caller.

        Raises:
            BackendRejected: The server refuses in a way that no retry mends.
            StateError: The queue's keys cannot be shared.
        """
        loop = asyncio.get_running_loop()
        if taken := self._hand_out(max_events, max_bytes):
            return taken
        deadline, fetches = loop.time() + timeout, self._fetches
        while not self._closed and (remaining := deadline - loop.time()) > 0:
            await self._wait(max_events, deadline, remaining)
            if taken := self._hand_out(max_events, max_bytes):
                return taken
        # However short the wait, the server has been asked once.
        return await self._look(max_events, max_bytes) if self._fetches == fetches else []

    async def _look(self, max_events: int, max_bytes: float) -> list[Delivery]:
        """Take what the server has at this moment, without waiting for more."""
        await self._ask(max_events)
        return self._hand_out(max_events, max_bytes)

    async def _ask(self, slots: int) -> None:
        """Ask the server once for what it has at this moment."""
        if self._channel.outage.is_on or self._closed or self._paused:
            return
        if self.is_reading:
            # The outstanding read has had all there was; after one more round trip its reply has arrived here, too.
            await self._round_trip()
        else:
            now = asyncio.get_running_loop().time()
            await self._wait(slots, now, self._channel.commands.timeout)

    def has_arrived(self) -> bool:
        """Whether there is an event here to be handed out at once."""
        return not self._paused and not self._closed and self._startable() > 0

    def take_arrived(self, max_events: int, max_bytes: float) -> list[Delivery]:
        """Return as `take` what is here already."""
        return self._hand_out(max_events, max_bytes)

    async def wait_for_arrival(self, slots: int, seconds: float) -> None:
        """Return when an event may be here, and after `seconds` at the latest; 0 asks the server once.

        Cancelled: Nothing is taken. A read that nobody waits for any more is ended, unless somebody soon does.
        """
        loop = asyncio.get_running_loop()
        try:
            if self.has_arrived() or self._closed:
                return
            if seconds > 0:
                await self._wait(slots, loop.time() + seconds, seconds)
            else:
                await self._ask(slots)
        finally:
            if self.is_reading and not self._waiters:
                loop.call_later(_UNWANTED_AFTER, self._end_unwanted_read)

    def _end_unwanted_read(self) -> None:
        # What it brought would lie here while its caller is busy with an event of another queue.
        if self.is_reading and not self._waiters and not self._closed:
            self._settlements.in_background(self._end_read(), "end a read that nobody waits for")

    async def _end_read(self) -> None:
        try:
            await self._ask_to_end_read()
        except BackendError as error:
            logger.debug("A read that nobody waits for goes on until its time is up (%s)", error)

    async def _round_trip(self) -> None:
        try:
            await self._channel.requests.call(("PING",), timeout=self._channel.commands.timeout)
        except BackendError as error:
            self._channel.failed(error)
        for _ in range(3):
            await asyncio.sleep(0)

    async def _wait(self, slots: int, deadline: float, at_most: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), slots, deadline)
        self._waiters.append(waiter)
        self._start()
        self._demand.set()
        self.on_hunger()
        timer = loop.call_later(min(at_most, _FOR_EVER), _wake, waiter)
        try:
            await waiter.woken
        finally:
            timer.cancel()
            self._waiters.remove(waiter)
            # Who was woken and gives up passes it on.
            self._wake_waiters()

    def _hand_out(self, max_events: int, max_bytes: float) -> list[Delivery]:
        """Move events from the buffer into the caller's hands; no await between this and the caller's return."""
        if self._paused or self._closed:
            return []
        taken: list[Delivery] = []
        buffer, leases, now, size_bytes = self._buffer, self._leases, time.monotonic(), 0
        while buffer and len(taken) < max_events and (self._all_may_start() or self._may_start(buffer[0])):
            size_bytes += _payload_bytes(buffer[0].fields)
            if taken and size_bytes > max_bytes:
                break
            lease = buffer.popleft()
            if lease.entry_id in leases and (delivery := self._read(lease)) is not None:
                leases.hand_out(lease, now)
                taken.append(delivery)
        if taken:
            self._size.add(-len(taken))
            self._handed_out += len(taken)
            if self._observers.watch_handed_out:
                for delivery in taken:
                    self._observers.handed_out(delivery)
        if len(buffer) <= self._prefetch.low_water and not self._has_run_dry:
            self._demand.set()
        return taken

    def _all_may_start(self) -> bool:
        """Whether no rule keeps any buffered event back, as is nearly always the case."""
        return self._leases.alone is None and not self._draining and not self._claims_first

    def _may_start(self, lease: Lease) -> bool:
        """Whether a buffered event may be handed out: not beside a suspect, nor before what is to be claimed."""
        if self._leases.alone is not None:
            return lease is self._leases.alone and self._leases.in_hand == 0
        return not self._draining and (lease.count > 1 or not self._claims_first)

    def _startable(self) -> int:
        """How many buffered events may be handed out."""
        return len(self._buffer) if self._all_may_start() else sum(map(self._may_start, self._buffer))

    # --- pausing and stopping ---

    def pause(self, paused: bool) -> None:
        """Stop or resume handing out, as an operator asked."""
        if paused != self._paused:
            self._paused = paused
            logger.info("Handing out is %s", "paused" if paused else "resumed", extra={"paused": paused})
            self._release_buffer()
            self.resume_reading()

    def drain(self, draining: bool) -> None:
        """Stop handing out until nothing is in hand, so that one suspicious event can run alone; or end that."""
        self._draining = draining
        if draining:
            self._release_buffer()
        self.resume_reading()

    def put_claims_first(self, claims_first: bool) -> None:
        """Let callers wait for what is about to be claimed, although events are prefetched; or end that."""
        if claims_first != self._claims_first:
            self._claims_first = claims_first
            self.resume_reading()

    async def recover(self) -> None:
        """A reply to another request was lost, and may have handed events to this consumer: look for them soon."""
        self._expect_recovery()
        await self._unblock()

    def _expect_recovery(self) -> None:
        # A reply may be lost with the connection, and the old read may still be served until its wait ends.
        now = asyncio.get_running_loop().time()
        self._recover_at = [now, now + self.block + READ_MARGIN]

    def resume_reading(self) -> None:
        """Look again at who waits and what is there."""
        self._demand.set()
        self._wake_waiters()

    @property
    def has_read(self) -> bool:
        """Whether this session has ever asked for events."""
        return self._task is not None

    async def stop(self) -> None:
        """End the read without losing what it may bring, and wake all callers."""
        self._closed = True
        if self._task is not None:
            await self._unblock()
            await asyncio.wait([self._task], timeout=READ_MARGIN)
        self.close()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the task that reads, if it runs."""
        return [] if self._task is None else [self._task]

    def take_buffer(self) -> list[Lease]:
        """Hand over what is prefetched, because nobody will ask for it any more."""
        left = list(self._buffer)
        self._buffer.clear()
        return left

    def close(self) -> None:
        """Stop at once."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._stale_timer is not None:
            self._stale_timer.cancel()
        for waiter in self._waiters:
            _wake(waiter)

    async def _unblock(self) -> None:
        """Ask the server to end the blocked read; where it may not be asked, the connection is closed instead."""
        self._demand.set()
        if not self.is_reading:
            return
        try:
            reply = await self._ask_to_end_read()
        except BackendError as error:
            reply = error
        if reply != 1:
            await self._channel.reader.close()

    async def _ask_to_end_read(self) -> Any:
        """Have the server end the read that waits; returns 1 if it did so, and its error if it refuses."""
        (reply,) = await self._channel.requests.call(
            ("CLIENT", "UNBLOCK", self._client_id or 0), timeout=self._channel.commands.timeout
        )
        return reply

    # --- the reader's task ---

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="streams_queue.reader")

    async def _run(self) -> None:
        backoff: Backoff | None = None
        while not self._closed:
            if not self._demand.is_set():
                await self._demand.wait()
            if not self._may_fetch():
                self._demand.clear()
                continue
            try:
                await self._fetch()
            except BackendError as error:
                backoff = backoff or self._channel.backoff()
                await self._failed(error, backoff)
            except Exception:
                logger.exception("Reading failed in a way that it should not; going on")
                self._expect_recovery()
                backoff = backoff or self._channel.backoff()
                await asyncio.sleep(backoff.next())
            else:
                backoff = None
                self._channel.outage.ended()
            self._wake_waiters()

    def _may_fetch(self) -> bool:
        if self._closed or self._paused or self._draining or self._leases.alone is not None:
            return False
        if self._buffer:
            return self._is_low()
        return any(not waiter.woken.done() for waiter in self._waiters)

    def _is_low(self) -> bool:
        """Whether to fetch while there is something left, so that the server works while the handlers do."""
        return not (self._has_run_dry or self._claims_first) and len(self._buffer) <= self._prefetch.low_water

    async def _fetch(self) -> None:
        """Acknowledge what is done and read what is new; wait for it as long as a caller does."""
        if not self._channel.is_usable():
            await self._channel.open()
        if self._paused:
            self._expire_looks()
            return
        loop = asyncio.get_running_loop()
        if self._recover_at and self._recover_at[0] <= loop.time():
            await self._recover()
            if self._buffer:
                return
        demand = sum(waiter.slots for waiter in self._waiters if not waiter.woken.done())
        ahead = len(self._buffer)
        if demand == 0 and not ahead:
            return
        count = self._prefetch.next_count(demand, loop.time(), ahead)
        block = 0.0 if ahead else self._longest_wait(loop.time())
        began = loop.time()
        await self._acknowledge_and_read(count, block)
        if self._has_run_dry and not ahead and loop.time() - began < block / 2:
            # Unblocked, or an emulator that never waits: an empty answer before its time must not make this loop spin.
            await asyncio.sleep(min(_SPIN_PAUSE, block))
        self._expire_looks()

    def _longest_wait(self, now: float) -> float:
        """Return how long the read may wait: for the most patient caller, until the next recovery, at most `block`."""
        deadlines = [waiter.deadline for waiter in self._waiters if not waiter.woken.done()]
        if not deadlines or min(deadlines) <= now:
            return 0.0
        longest = max(deadlines) - now
        if self._recover_at:
            longest = min(longest, max(0.001, self._recover_at[0] - now))
        return min(self.block, longest)

    async def _acknowledge_and_read(self, count: int, block: float) -> None:
        acks = self._settlements.take_acks()
        commands, link = self._channel.commands, self._channel.reader
        first: list[Command] = []
        sinks: list[Sink] = []
        if not link.is_open:
            first.append(("CLIENT", "ID"))
            sinks.append(OnReply(self._know_client))
        if acks:
            first.append(commands.ack([lease.entry_id for lease in acks], by_source=not self._ack_is_known))
            sinks.append(OnReply(self._observers.telling("ack", partial(self._judge_acks, acks))))
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sinks.append(OnReply(partial(self._came, done)))
        read = commands.read(count, max(1, milliseconds(block)) if block > 0 else None)
        try:
            await link.send(*first, read, to=sinks, timeout=commands.timeout)
        except BaseException:
            if acks:
                self._settlements.put_acks_back(acks)
            raise
        await self._until_read(done, block)

    def _know_client(self, reply: object) -> None:
        self._client_id = reply if isinstance(reply, int) else None

    def _judge_acks(self, acks: list[Lease], reply: object) -> None:
        """Forget the acks that went with a read, or send them again."""
        # A server that does not know the script learns it from its first use: no ack waits for a second attempt.
        self._ack_is_known = not isinstance(reply, BackendError)
        if self._ack_is_known:
            self._settlements.confirm_acks(acks)
        else:
            self._settlements.put_acks_back(acks)

    def _came(self, done: asyncio.Future[Any], reply: Any) -> None:
        """Let those who wait have what a read brought, within the same turn of the event loop; the rest can wait."""
        if not isinstance(reply, BackendError):
            self._fetches += 1
            self._has_run_dry = not reply
            leases = self._new(self._channel.commands.read_reply(reply))
            size_bytes = sum([_payload_bytes(lease.fields) for lease in leases])
            reply = _Arrival(len(leases), size_bytes, asyncio.get_running_loop().time(), len(self._buffer))
            self._leases.hold(*leases)
            self._buffer.extend(leases)
            self._wake_waiters()
        if not done.done():
            done.set_result(reply)

    async def _until_read(self, done: asyncio.Future[Any], block: float) -> None:
        self._settlements.is_idle = block > 0
        with self._observers.timing("read", waits=block > 0):
            try:
                reply = await self._channel.reader.reply(done, timeout=block + READ_MARGIN)
            finally:
                self._settlements.is_idle = False
            if isinstance(reply, BackendError):
                raise reply
        self._prefetch.fetched(*reply)
        self._watch_buffer()

    async def _failed(self, error: BackendError, backoff: Backoff) -> None:
        """After a failure: go on if that can help, else tell the callers."""
        self._channel.failed(error)
        lost_group = isinstance(error, BackendRejected) and error.code == "NOGROUP"
        if not (lost_group or passes(error)):
            self._fail_waiters(error)
            return
        self._expect_recovery()
        self._expire_looks()
        await asyncio.sleep(backoff.next())

    def _fail_waiters(self, error: BackendError) -> None:
        for waiter in self._waiters:
            if not waiter.woken.done():
                waiter.woken.set_exception(error)

    def _expire_looks(self) -> None:
        """Wake callers that only wanted one look."""
        now = asyncio.get_running_loop().time()
        for waiter in self._waiters:
            if waiter.deadline <= now:
                _wake(waiter)

    def _wake_waiters(self) -> None:
        if not self._waiters:
            return
        available = 0 if self._paused else self._startable()
        for waiter in self._waiters:
            if available <= 0:
                break
            _wake(waiter)
            available -= waiter.slots

    # --- arrivals ---

    async def _recover(self) -> None:
        """Fetch what the server handed to this consumer and a lost reply took along."""
        more = True
        while more:
            adopted = await self._channel.commands.adopt(
                self._channel.requests, self._leases.ids(), limit=_ADOPT_AT_ONCE
            )
            if adopted.entries:
                logger.info(
                    "Recovered %d events whose delivery had been lost on the way",
                    len(adopted.entries),
                    extra={"events": len(adopted.entries)},
                )
            if adopted.lost:
                self._observers.lost(adopted.lost, "deleted")
            self._arrived(adopted.entries)
            more = adopted.more
        self._recover_at.pop(0)

    def claimed(self, entries: Sequence[RawEntry], *, alone: bool) -> None:
        """Take over what crashed consumers left; it goes before what is buffered, and is never prefetched."""
        leases = self._new(entries)
        for lease in reversed(leases):
            lease.alone = alone
            self._buffer.appendleft(lease)
        self._leases.hold(*leases)
        self._watch_buffer()
        self._wake_waiters()

    def _arrived(self, entries: Sequence[RawEntry]) -> None:
        leases = self._new(entries)
        self._leases.hold(*leases)
        self._buffer.extend(leases)
        self._watch_buffer()

    def _new(self, entries: Iterable[RawEntry]) -> list[Lease]:
        """Return leases of entries that are not held here yet."""
        session, now, leases = self._session, time.monotonic(), []
        for entry_id, count, flat in entries:
            if held := self._leases.get(entry_id):
                # The group was made anew, and hands out again what is in hand here.
                held.count = count
            else:
                leases.append(Lease(session, entry_id, count, flat, since=now))
        return leases

    def _read(self, lease: Lease) -> Delivery | None:
        """Return what a caller gets; what cannot be handed out goes where it belongs."""
        read = read_entry(lease.entry_id, lease.count, lease.fields, self._codec, self._settings.max_event_bytes)
        lease.fields = ()
        if isinstance(read, Delivery):
            read.handle, lease.delivery = lease, read
            if read.deliveries <= self._settings.retry_policy.max_deliveries or lease.count > 1:
                return read
            read = Broken("max_retries", "handed out as often as allowed")
        self._divert(lease, read)
        return None

    def _divert(self, lease: Lease, read: Broken | Newer) -> None:
        """Send an entry that cannot be handed out to the dead letters, or leave it to a consumer that can read it."""
        deadline = asyncio.get_running_loop().time() + self._settings.enqueue_timeout
        if isinstance(read, Newer):
            what = "Entry %s has version %d and needs %s; it is left to others"
            logger.warning(
                what,
                lease.entry_id,
                read.version,
                read.needs,
                extra={"entry_id": lease.entry_id, "version": read.version},
            )
            later = self._settlements.nack(lease, delay=LEAVE_TO_NEWER, deadline=deadline, counted=False)
            self._settlements.in_background(later, f"leave entry {lease.entry_id} to others")
            return
        logger.warning(
            "Entry %s goes to the dead letters, %s: %s",
            lease.entry_id,
            read.reason,
            read.error,
            extra={"entry_id": lease.entry_id, "reason": read.reason, "error": read.error},
        )
        bury = self._settlements.dead_letter(lease, reason=read.reason, error=read.error, deadline=deadline)
        self._settlements.in_background(bury, f"bury entry {lease.entry_id}")

    # --- the buffer's age ---

    def _watch_buffer(self) -> None:
        if self._buffer and self._stale_timer is None:
            left = min(lease.since for lease in self._buffer) + STALE_AFTER - time.monotonic()
            self._stale_timer = asyncio.get_running_loop().call_later(left, self._release_stale)

    def _release_stale(self) -> None:
        self._stale_timer = None
        limit = time.monotonic() - STALE_AFTER + 0.001
        self._give_back([lease for lease in self._buffer if lease.since <= limit])
        self._buffer = deque(lease for lease in self._buffer if lease.since > limit)
        self._watch_buffer()

    def _release_buffer(self) -> None:
        self._give_back(list(self._buffer))
        self._buffer.clear()

    def _give_back(self, leases: Sequence[Lease]) -> None:
        leases = [lease for lease in leases if lease.stage is Stage.BUFFERED]
        if leases:
            deadline = asyncio.get_running_loop().time() + self._settings.enqueue_timeout
            self._settlements.in_background(
                self._settlements.release(leases, deadline=deadline), f"release {len(leases)} prefetched events"
            )


def _wake(waiter: _Waiter) -> None:
    if not waiter.woken.done():
        waiter.woken.set_result(None)


def _payload_bytes(flat: Sequence[bytes]) -> int:
    """Return how large the payload of an entry is; of one that we did not write, everything."""
    return len(flat[3]) if len(flat) == 6 else sum(map(len, flat))
