"""What goes to the server for each verb, and what its replies mean; no server is asked."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.config import load_config
from streams_queue.errors import BackendRejected
from streams_queue.redis_client import call, script
from streams_queue.redis_queue.commands import (
    Adopted,
    BatchReply,
    Figures,
    Held,
    Maintained,
    Opened,
    StreamCommands,
    milliseconds,
)
from streams_queue.redis_queue.size import LocalSize
from tests.support.builders import Keys, redis_config

KEYS = Keys("gitbridge")


class FakeLink:
    """Answers every script with the same reply and remembers what it was asked."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.name, self.keys, self.args, self.timeout = "", list[str](), list[Any](), 0.0

    async def run(self, wanted: Any, keys: Any, args: Any = (), *, timeout: float) -> Any:
        return await self.run_command(wanted, call(wanted, keys, args), timeout=timeout)

    async def run_command(self, wanted: Any, command: Any, *, timeout: float) -> Any:
        verb, digest, count, *rest = command
        assert (verb, digest) == ("EVALSHA", wanted.sha)
        self.name, self.keys, self.args, self.timeout = wanted.name, rest[:count], rest[count:], timeout
        return self.reply


@pytest.fixture
def commands() -> StreamCommands:
    """The commands of one consumer, with numbers that can be told from each other."""
    section = {
        "max_size": 99,
        "lease": 7.5,
        "dedup_window": 40,
        "retry_policy": {"max_retries": 5, "base_delay": 1, "max_delay": 33},
        "dead_letter": {"max_size": 77, "when_full": "drop"},
    }
    settings = load_config(redis_config("redis://localhost", **section))
    return StreamCommands(settings, "me", timeout=2.0)


# --- milliseconds ---


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (1, 1000), (0.001, 1), (0.0001, 1), (1e-12, 1), (1.5, 1500), (0.0015, 2), (86400.0, 86_400_000)],
)
def test_seconds_become_whole_milliseconds_rounded_up(seconds: float, expected: int) -> None:
    """Nothing above 0 becomes 0, which the server would read as no delay, or as for ever."""
    assert milliseconds(seconds) == expected
    assert isinstance(milliseconds(seconds), int)


@given(st.floats(0, 1e9))
def test_no_delay_is_shortened_and_none_grows_by_a_millisecond(seconds: float) -> None:
    """Up to the last bit of the number itself."""
    found = milliseconds(seconds)
    assert seconds * 1000 <= found <= seconds * 1000 + 1
    assert (found == 0) == (seconds == 0)


@given(st.integers(0, 10**9))
def test_whole_milliseconds_stay_as_they_are(count: int) -> None:
    """Within what rounding of the division may add: never below, at most one above."""
    assert count <= milliseconds(count / 1000) <= count + 1
    assert math.isclose(milliseconds(count / 1000), count, abs_tol=1)


# --- reading ---


def test_a_read_waits_only_when_it_is_told_how_long(commands: StreamCommands) -> None:
    """BLOCK 0 would wait for ever."""
    head = ("XREADGROUP", "GROUP", "processors", "me", "COUNT", 5)
    assert commands.read(5, None) == (*head, "STREAMS", KEYS.stream, ">")
    assert commands.read(5, 250) == (*head, "BLOCK", 250, "STREAMS", KEYS.stream, ">")


@pytest.mark.parametrize("nothing", [None, [], b""])
def test_an_answer_without_entries_is_an_empty_list(nothing: Any) -> None:
    """Whether time ran out or nothing was there."""
    assert list(StreamCommands.read_reply(nothing)) == []


def test_new_entries_have_been_delivered_once() -> None:
    """Their order is the stream's."""
    entries = [[b"1-1", [b"id", b"a"]], [b"2-1", [b"id", b"b"]]]
    assert list(StreamCommands.read_reply([[b"q", entries]])) == [("1-1", 1, [b"id", b"a"]), ("2-1", 1, [b"id", b"b"])]


# --- settling ---


def test_an_ack_goes_by_digest_or_by_source(commands: StreamCommands) -> None:
    """To be sent together with a read."""
    tail = (2, KEYS.stream, KEYS.stats, "processors", "1-1", "2-1")
    assert commands.ack(["1-1", "2-1"], by_source=False) == ("EVALSHA", script("ack").sha, *tail)
    assert commands.ack(["1-1", "2-1"], by_source=True) == ("EVAL", script("ack").source, *tail)


async def test_a_failed_event_is_put_off_in_milliseconds(commands: StreamCommands) -> None:
    """Owner, entry, fence, delay, and whether it counts."""
    link = FakeLink(b"held")
    assert await commands.nack(link, "1-1", 3, delay=0.0001, counted=True) == "held"
    assert (link.name, link.keys) == ("nack", [KEYS.stream, KEYS.delayed, KEYS.stats])
    assert (link.args, link.timeout) == (["processors", "me", "1-1", 3, 1, 1], 2.0)


async def test_a_burial_carries_the_limits_of_the_dead_letters(commands: StreamCommands) -> None:
    """And how long an event stays delayed where they are full."""
    link = FakeLink(b"refused")
    assert await commands.dead_letter(link, "1-1", 3, reason="r", error="e") == "refused"
    assert link.keys == [KEYS.stream, KEYS.delayed, KEYS.dead, KEYS.stats]
    assert link.args == ["processors", "me", "1-1", 3, "r", "e", 77, "drop", 33_000]


async def test_several_events_travel_as_pairs(commands: StreamCommands) -> None:
    """Entry id and fence in turn; one word comes back for each."""
    link = FakeLink([b"held", b"gone"])
    held = [("1-1", 1), ("2-1", 4)]
    assert await commands.release(link, held) == ["held", "gone"]
    assert (link.name, link.args) == ("release", ["processors", "me", "1-1", 1, "2-1", 4])
    assert await commands.extend(link, held, timeout=0.5) == ["held", "gone"]
    assert (link.name, link.keys, link.timeout) == ("extend", [KEYS.stream, KEYS.stats], 0.5)
    assert link.args == ["processors", "me", 7500, "1-1", 1, "2-1", 4]


async def test_what_was_adopted_keeps_its_counts(commands: StreamCommands) -> None:
    """With how many were lost, and whether there is more."""
    link = FakeLink([[[b"1-1", 3, [b"id", b"a"]]], 2, 1])
    found = await commands.adopt(link, ["9-9"], limit=5)
    assert found == Adopted([("1-1", 3, [b"id", b"a"])], 2, True)
    assert link.args == ["processors", "me", 5, "9-9"]


# --- housekeeping ---


async def test_housekeeping_sends_all_limits_in_milliseconds(commands: StreamCommands) -> None:
    """In the order of the script's header; the reply has a name for each figure."""
    reply = [[[b"1-1", 2, [b"id", b"a"]]], 1, 0, 1, 0, 1500, b"delivery", 9, 2, [b"x", b"\xff"], 3, 4, 1, [b"7-1"]]
    link = FakeLink(reply)

    found = await commands.maintain(
        link,
        slots=6,
        empty=True,
        go_on=False,
        interval=0.8,
        prune_after=300.0,
        look_anyway=True,
        disowned=["7-7"],
    )

    assert link.args == ["processors", "me", 7500, 6, 1, 800, 0, 6, 77, "drop", 33_000, 300_000, 1, "7-7"]
    assert found == Maintained(
        entries=[("1-1", 2, [b"id", b"a"])],
        swept=True,
        alone=False,
        more=True,
        waits_alone=False,
        next_due=1.5,
        paused="delivery",
        held=9,
        lost=2,
        buried=["x", "\N{REPLACEMENT CHARACTER}"],
        promoted=3,
        refused=4,
        strays=True,
        taken_over=["7-1"],
    )


@pytest.mark.parametrize(("next_due_ms", "expected"), [(-1, None), (0, 0.0), (1, 0.001)])
async def test_due_now_is_not_nothing_due(next_due_ms: int, expected: float | None, commands: StreamCommands) -> None:
    """0 means at once, below 0 that nothing is delayed."""
    link = FakeLink([[], 0, 0, 0, 0, next_due_ms, b"", 0, 0, [], 0, 0, 0, []])
    found = await commands.maintain(
        link,
        slots=0,
        empty=False,
        go_on=True,
        interval=1,
        prune_after=1,
        look_anyway=False,
        disowned=[],
    )
    assert found.next_due == expected


# --- opening and looking ---


@pytest.mark.parametrize("lost", [0, 1])
async def test_opening_says_if_the_state_was_lost(lost: int, commands: StreamCommands) -> None:
    """And how much the queue holds, and which group it has; what the client knew goes along."""
    link = FakeLink([lost, 12, 1, b"this one", b"intake"])
    opened = await commands.open(link, lifetime="that one", new_lifetime="another", held=15)
    assert opened == Opened(bool(lost), 12, "this one", "intake")
    assert link.args == ["processors", 1, "that one", "another", 15]


async def test_leaving_names_the_producer(commands: StreamCommands) -> None:
    """Its record goes with it."""
    link = FakeLink(0)
    assert await commands.leave(link, "p7") is False
    assert (link.keys, link.args) == ([KEYS.stream, f"{KEYS.stream}:producer:p7"], ["processors", "me"])


async def test_figures_have_names(commands: StreamCommands) -> None:
    """The stats hash becomes a mapping."""
    link = FakeLink([5, 2, 1, 3, 4, b"9-1", 1234, [b"enqueued", b"7", b"paused", b"intake"], b""])
    found = await commands.figures(link)
    assert found == Figures(5, 2, 1, 3, 4, "9-1", 1234, {"enqueued": "7", "paused": "intake"}, None)


async def test_figures_say_why_the_server_takes_no_writes(commands: StreamCommands) -> None:
    """The error of the write that the script tried, as any other error reply; Redis 6.2 leaves the dash before it."""
    link = FakeLink([5, 2, 1, 3, 4, b"9-1", 1234, [], b"-OOM command not allowed when used memory > 'maxmemory'."])
    refused = (await commands.figures(link)).refused
    assert isinstance(refused, BackendRejected)
    assert (refused.code, refused.passing) == ("OOM", True)


async def test_peek_tells_waiting_from_delayed(commands: StreamCommands) -> None:
    """Due times come as text and become numbers."""
    link = FakeLink([[[b"1-1", [b"id", b"a"]]], [[b"1500.5", [b"id", b"b"]]]])
    assert await commands.peek(link, 9) == ([("1-1", 0, [b"id", b"a"])], [(1500.5, [b"id", b"b"])])


async def test_what_is_in_flight_has_names(commands: StreamCommands) -> None:
    """Names and ids become text; the fields stay as they are."""
    entry = [b"1-1", b"me", 70, 2, [b"id", b"a"]]
    link = FakeLink([1234, [[b"me", 1, 60]], [entry]])
    found = await commands.in_flight(link, 9, first="-", payloads=False)
    assert found == Held(1234, [("me", 1, 60)], [("1-1", ("me", 70, 2), [b"id", b"a"])])
    assert (link.keys, link.args) == ([KEYS.stream], ["processors", "-", 9, 0])
    await commands.in_flight(link, 1, first="1-1", payloads=True)
    assert link.args == ["processors", "1-1", 1, 1]


async def test_the_operators_verbs_take_ids_and_limits(commands: StreamCommands) -> None:
    """Redrive, purge and purge_dead, with their replies."""
    link = FakeLink([2, 1])
    assert await commands.redrive(link, 99, ["1-1"]) == (2, True)
    assert link.args == [99, "1-1"]
    assert await commands.purge(link, 5) == (2, True)
    assert link.args == ["processors", 5, 77, "drop"]
    link.reply = [b"1-1", b"2-1"]
    assert await commands.dead_ids(link, 7) == ["1-1", "2-1"]
    assert (link.keys, link.args) == ([KEYS.dead], [7])
    link.reply = 3
    assert await commands.purge_dead(link, ["1-1"]) == 3
    assert (link.keys, link.args) == ([KEYS.dead, KEYS.stats], ["1-1"])


def test_dead_letters_are_listed_behind_the_last_one_seen(commands: StreamCommands) -> None:
    """Exclusively, so that no page shows one twice."""
    assert commands.list_dead(10, None) == ("XRANGE", KEYS.dead, "-", "+", "COUNT", 10)
    assert commands.list_dead(10, "5-1") == ("XRANGE", KEYS.dead, "(5-1", "+", "COUNT", 10)


def test_a_pause_is_a_word_or_nothing(commands: StreamCommands) -> None:
    """Resuming removes the field."""
    assert commands.set_paused("intake") == ("HSET", KEYS.stats, "paused", "intake")
    assert commands.set_paused("") == ("HDEL", KEYS.stats, "paused")
    assert commands.count_rejected(3) == ("HINCRBY", KEYS.stats, "rejected", 3)


# --- producing ---


async def enqueued(commands: StreamCommands, bucket: int | None) -> tuple[FakeLink, BatchReply]:
    """Send one batch."""
    link = FakeLink([b"ok", 2, b"1-1 D", -1])
    command = commands.enqueue_command(
        producer_id="p7",
        sequence=3,
        settled=1,
        max_size=99,
        specials="2,,digest;",
        bucket=bucket,
        events=["a", b"{}", b"{}", "b", b"{}", b"{}"],
    )
    reply = await commands.enqueue(link, command, timeout=0.7)
    return link, reply


async def test_a_batch_without_event_ids_needs_no_buckets(commands: StreamCommands) -> None:
    """Five keys; the reply's words are taken apart."""
    link, reply = await enqueued(commands, None)
    producer = f"{KEYS.stream}:producer:p7"
    assert link.keys == [KEYS.stream, KEYS.delayed, KEYS.dead, KEYS.stats, producer]
    head = ["processors", "p7", 3, 1, 99, "reject", 24 * 3600 * 1000, 60_000, 77, "drop", "2,,digest;"]
    assert link.args == [*head, "a", b"{}", b"{}", "b", b"{}", b"{}"]
    assert (reply, link.timeout) == (BatchReply("ok", 2, ["1-1", "D"], -1), 0.7)


async def test_buckets_cover_the_window_and_one_more_on_either_side(commands: StreamCommands) -> None:
    """The current one first, to which new ids go; each lives as long as it may be looked at."""
    link, _ = await enqueued(commands, 100)
    assert link.keys[5:] == [f"{KEYS.stream}:dedup:{bucket}" for bucket in (100, 101, 99, 98, 97, 96)]
    assert 60_000 in link.args


# --- the sync size ---


def test_the_local_size_never_falls_below_zero() -> None:
    """Acknowledging what another process added is no debt."""
    size = LocalSize()
    size.add(2)
    size.add(-5)
    size.add(1)
    assert size.value == 1


def test_the_local_size_believes_the_server() -> None:
    """`at_most` only lowers it, `set` replaces it."""
    size = LocalSize()
    size.add(5)
    size.at_most(9)
    assert size.value == 5
    size.at_most(3)
    assert size.value == 3
    size.set(8)
    assert size.value == 8
