"""Several batches on the way at a time, over a server that loses replies, refuses and forgets at random."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams_queue.config import load_config
from streams_queue.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from streams_queue.messages import Receipt
from streams_queue.observer import Observers
from streams_queue.redis_client import expire_in
from streams_queue.redis_queue.commands import BatchReply, StreamCommands
from streams_queue.redis_queue.outage import Backoff, Outage
from streams_queue.redis_queue.producer import WINDOW, NewEvent, Producer
from streams_queue.redis_queue.size import LocalSize
from tests.support.builders import redis_config

SETTINGS = load_config(redis_config("redis://localhost", enqueue_timeout=30))
OOM = BackendRejected("OOM command not allowed", code="OOM", passing=True)
LOADING = BackendRejected("LOADING the dataset", code="LOADING", passing=True)
# What happens to a command: it is answered; it is refused; the connection breaks before or after it was carried out; or
# nothing is heard, and what was sent arrives when its successors have.
FATES = ("answered", "refused", "loading", "breaks before", "breaks after", "breaks much later", "silence")


@dataclass
class ModelServer:
    """What lua/enqueue.lua does, in a few lines: `written` is the stream."""

    written: list[str] = field(default_factory=list)
    records: dict[tuple[str, int], list[Any]] = field(default_factory=dict)

    def run(self, command: tuple[Any, ...]) -> list[Any]:
        keys = command[2]
        producer, sequence, settled = command[3 + keys + 1 : 3 + keys + 4]
        ids = command[3 + keys + 11 :: 3]
        last = max((number for name, number in self.records if name == producer), default=-1)
        if known := self.records.get((producer, sequence)):
            return [b"replayed", -1, known[0], last]
        if last > sequence:
            return [b"stale", -1, b"", last]
        if settled < sequence - 1 and last < sequence - 1:
            return [b"gap", -1, b"", last]
        words = " ".join(f"1-{len(self.written) + at}" for at in range(len(ids))).encode()
        self.written += ids
        self.records = {key: value for key, value in self.records.items() if key[0] != producer or key[1] > settled}
        self.records[producer, sequence] = [words]
        return [b"ok", len(self.written), words, last]


class Connection:
    """Carries commands to the server in order, each with the next fate; a task of the test lets it work."""

    def __init__(self, server: ModelServer, next_fate: Callable[[], str]) -> None:
        self.server, self.next_fate = server, next_fate
        self.sent: list[tuple[tuple[Any, ...], Any]] = []
        self.late: list[list[tuple[Any, ...]]] = []
        self.most_at_once = 0
        self.is_open = self.is_silent = False

    def post(self, command: tuple[Any, ...], *, to: list[Any]) -> None:
        self.sent.append((command, to[0]))
        self.most_at_once = max(self.most_at_once, len(self.sent))

    async def run_command(self, _script: Any, command: tuple[Any, ...], *, timeout: float) -> Any:
        self.is_open = True
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.post(command, to=[reply])
        timer = expire_in(timeout, reply)
        try:
            answer = await reply
        except BackendTimeout:
            await self.close()
            raise
        finally:
            timer.cancel()
        if isinstance(answer, BackendError):
            raise answer
        return answer

    def work(self) -> None:
        """Carry out the next command."""
        if not self.sent or self.is_silent:
            return
        fate = self.next_fate()
        if fate == "silence":
            self.is_silent = True
            return
        if fate.startswith("breaks"):
            through = {"breaks before": 0, "breaks after": 1, "breaks much later": len(self.sent)}[fate]
            for command, _ in self.sent[:through]:
                self.server.run(command)
            self.fail()
            return
        command, reply = self.sent.pop(0)
        answer = {"refused": OOM, "loading": LOADING}.get(fate) or self.server.run(command)
        if not reply.done():
            reply.set_result(answer)
        if self.late:
            for command in self.late.pop(0):
                self.server.run(command)

    def fail(self) -> None:
        """Break: nobody learns what became of what was sent."""
        if self.is_silent:
            self.late.append([command for command, _ in self.sent])
        self.is_open = self.is_silent = False
        sent, self.sent = self.sent, []
        for _, reply in sent:
            if not reply.done():
                reply.set_exception(BackendTimeout("the connection broke"))
                reply.exception()

    async def close(self) -> None:
        self.fail()


class FakeChannel:
    """What a producer needs of a channel, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.producer = connection
        self.commands = StreamCommands(SETTINGS, "me", timeout=2.0)
        self.outage, self.intake = Outage("server", "is away"), Outage("server", "is full")
        self.last_held = self.held_before = 0
        self.lifetime = "one"
        self.is_open = False

    async def open(self, *, deadline: float | None = None) -> None:
        await asyncio.sleep(0)
        self.is_open = True

    def failed(self, _error: BackendError) -> None:
        self.is_open = False

    def backoff(self) -> Backoff:
        return Backoff(0.0)


def make_producer(connection: Connection) -> Producer:
    """Make a producer over a connection, for callers that wait for ever."""
    producer = Producer(
        FakeChannel(connection),  # type: ignore[arg-type]
        Observers(),
        SETTINGS,
        size=LocalSize(),
        attempt_timeout=0.005,
        level=None,
    )
    producer.max_size = 10_000
    return producer


async def put(producer: Producer, number: int) -> str:
    """Enqueue one event and say what its caller is told."""
    deadline = asyncio.get_running_loop().time() + 60
    try:
        (receipt,) = await producer.add([NewEvent(f"e{number}", b"{}", b"{}")], deadline)
    except BackendTimeout:
        return "unknown"
    except (BackendRejected, BackendUnavailable):
        return "refused"
    assert isinstance(receipt, Receipt)
    return "held" if receipt.held else "full"


async def put_all(producer: Producer, connection: Connection, groups: list[int], start: int = 0) -> list[str]:
    """Enqueue events one by one, in groups that come at the same moment, while the connection works."""
    callers: list[asyncio.Task[str]] = []
    for size in groups:
        callers += [asyncio.create_task(put(producer, start + len(callers) + n)) for n in range(size)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.work()
    while not all(caller.done() for caller in callers):
        await asyncio.sleep(0)
        connection.work()
    return [caller.result() for caller in callers]


@settings(deadline=None, max_examples=200)
@given(
    fates=st.lists(st.sampled_from(FATES), min_size=2, max_size=20).map(lambda fates: ["answered", *fates]),
    groups=st.lists(st.integers(1, 90), min_size=1, max_size=4),
)
@example(fates=["answered", "breaks after", "refused", "refused"], groups=[40, 40])
@example(fates=["answered", "breaks before", "refused", "answered"], groups=[90])
@example(fates=["answered", "silence", "answered", "answered"], groups=[90, 90])
async def test_whatever_happens_each_event_is_there_once_and_in_order(fates: list[str], groups: list[int]) -> None:
    """Held means there, refused means not there, unknown may be either; and nothing overtakes anything."""
    left = iter(fates)
    server = ModelServer()
    connection = Connection(server, lambda: next(left, "answered"))
    producer = make_producer(connection)

    told = await put_all(producer, connection, [1]) + await put_all(producer, connection, groups, start=1)

    numbers = [int(event_id[1:]) for event_id in server.written]
    assert numbers == sorted(set(numbers)), "once, and in the order of the calls"
    there = set(numbers)
    assert {n for n, word in enumerate(told) if word == "held"} <= there
    assert not {n for n, word in enumerate(told) if word == "refused"} & there
    assert "full" not in told
    assert not producer._calls()


async def test_a_crowd_shares_batches_that_are_on_the_way_together() -> None:
    """The server has the next ones while the first is answered; a lone caller waits for nobody."""
    server = ModelServer()
    connection = Connection(server, lambda: "answered")
    producer = make_producer(connection)
    assert await put_all(producer, connection, [1]) == ["held"]

    assert set(await put_all(producer, connection, [200])) == {"held"}

    assert connection.most_at_once == WINDOW
    batches = {sequence for _, sequence in server.records}
    assert len(batches) <= WINDOW, "what is settled is forgotten"
    assert max(batches) < 12, "and not one batch for each event"


@pytest.mark.parametrize("behind", ["refused", "answered"])
async def test_who_is_refused_is_told_so_and_not_that_nobody_knows(behind: str) -> None:
    """One batch is refused, and with it those behind it, which the server does not write either; then once more."""
    server = ModelServer()
    fates = ["answered", "refused", *[behind] * 3, "refused", *["answered"] * 50]
    connection = Connection(server, iter(fates).__next__)
    producer = make_producer(connection)

    assert await put_all(producer, connection, [1]) == ["held"]
    assert set(await put_all(producer, connection, [100])) == {"refused"}

    assert server.written == ["e0"]


async def test_what_is_to_be_kept_when_its_fate_is_unknown_goes_alone() -> None:
    """The fallback takes over one batch, not several that depend on each other."""
    server = ModelServer()
    connection = Connection(server, lambda: "answered")
    producer = make_producer(connection)
    producer.keep_unresolved = True

    await put_all(producer, connection, [1, 200])

    assert connection.most_at_once == 1


@pytest.mark.parametrize("fate", ["refused", "breaks after"])
async def test_closing_tells_everybody(fate: str) -> None:
    """Callers of batches on the way and of those that form learn that the outcome is unknown."""
    connection = Connection(ModelServer(), iter(["answered", fate]).__next__)
    producer = make_producer(connection)
    await put_all(producer, connection, [1])
    callers = [asyncio.create_task(put(producer, n)) for n in range(1, 200)]
    await asyncio.sleep(0)

    producer.close()

    assert {await caller for caller in callers} == {"unknown"}


def test_a_reply_is_taken_apart() -> None:
    """One word per event."""
    assert StreamCommands.enqueue_reply([b"ok", 3, b"1-1 F", -1]) == BatchReply("ok", 3, ["1-1", "F"], -1)
    with pytest.raises(BackendRejected):
        StreamCommands.enqueue_reply(OOM)
