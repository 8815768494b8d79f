"""SyncQueue in programs of several threads: they die with events in hand, fork, are interrupted, and just end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from tests.conftest import MakeConfig, MakeQueue, StartServer
from tests.support.builders import events
from tests.support.processes import Program, Programs
from tests.support.stored import StoredQueue

pytestmark = pytest.mark.faults


def told(program: Program, what: str) -> list[Any]:
    """Return all lines of the journal that begin with this word."""
    return [line[1:] for line in program.journal if line[0] == what]


async def test_threads_that_die_with_events_lose_none(
    programs: Programs, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """Eight threads produce and take 4000 events, fifty of them end with one in hand: each is handled once."""
    program = programs("sync_threads", part="work", config=make_config(lease=15), events=4000, threads=8, dies_every=20)

    assert await program.ended() == 0, program.describe()

    ((accepted, handled, deaths),) = told(program, "did")
    assert sorted(accepted) == list(range(4000))
    assert Counter(handled) == Counter(accepted)
    assert deaths == 50
    assert await stored.empty()
    assert await stored.consumers() == {}


async def test_a_fork_while_threads_are_in_calls_loses_nothing_in_either_process(
    programs: Programs, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """Parent and child both go on with eight threads: what each was told True for is handled once, by either."""
    program = programs("sync_threads", part="fork", config=make_config(lease=15), events=2000, threads=8)

    assert await program.ended() == 0, program.describe()

    assert told(program, "child ended with") == [[0]]
    did = told(program, "did")
    assert len(did) == 2
    accepted = [number for numbers, _, _ in did for number in numbers]
    handled = [number for _, numbers, _ in did for number in numbers]
    assert sorted(accepted) == list(range(4000))
    assert Counter(handled) == Counter(accepted)
    assert told(program, "seen again") == [[False]]
    assert await stored.empty()
    assert await stored.consumers() == {}


async def test_a_fork_while_another_thread_hands_a_call_over_leaves_no_lock_held(
    programs: Programs, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """The child has none of those threads, and leaves alone what they hold in the parent."""
    program = programs("sync_threads", part="fork in a hand-over", config=make_config(lease=15))

    assert await program.ended(20) == 0, program.describe()

    assert program.journal == [["child", True, 1], ["parent", 0]]
    assert await stored.empty()


async def test_a_storm_of_interrupts_loses_nothing(
    programs: Programs, make_config: MakeConfig, stored: StoredQueue
) -> None:
    """KeyboardInterrupt wherever dequeue may be hit by it: every event is handled, and none acknowledged unseen."""
    program = programs("sync_threads", part="interrupted", config=make_config(lease=15), events=2000)

    assert await program.ended() == 0, program.describe()

    ((handled,),) = told(program, "handled")
    assert Counter(handled) == Counter(range(2000))
    ((interrupts,),) = told(program, "interrupts")
    assert interrupts > 20
    assert await stored.empty()


async def test_the_end_of_the_interpreter_gives_back_and_does_not_hang(
    programs: Programs, make_config: MakeConfig, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """A program that just ends, with an event in hand and threads that wait, is gone at once; the event waits again."""
    await make_redis_queue().enqueue_many(events(1))
    program = programs("sync_threads", part="leave", config=make_config(lease=15))
    await program.until(1)
    started = time.monotonic()
    program.go()

    assert await program.ended() == 0, program.describe()

    assert time.monotonic() - started < 2
    assert program.errors == []
    assert await stored.pending() == []
    assert await stored.numbers() == [0]


async def test_the_end_of_the_interpreter_does_not_wait_for_a_dead_server(
    programs: Programs, make_config: MakeConfig, make_redis_queue: MakeQueue, start_server: StartServer
) -> None:
    """With the server gone it takes a few seconds, and says nothing but that it could not leave in order."""
    server = start_server()
    await make_redis_queue(server.url).enqueue_many(events(1))
    program = programs("sync_threads", part="leave", config=make_config(server.url, lease=15))
    await program.until(1)
    server.stop()
    started = time.monotonic()
    program.go()

    assert await program.ended() == 0, program.describe()

    assert time.monotonic() - started < 6
    assert "Traceback" not in "".join(program.errors)
