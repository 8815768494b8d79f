"""The spool when processes are killed, fork and share a directory, and when the server or the disk fails."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams_queue import ResilientQueue
from streams_queue.breaker import BreakerPolicy
from streams_queue.errors import BackendTimeout, SpoolError
from streams_queue.observer import Observer
from tests.conftest import LookAt, MakeConfig, ProxyTo, StartServer
from tests.support.builders import event, events, marker
from tests.support.processes import Program, Programs
from tests.support.proxy import FlakyProxy
from tests.support.stored import StoredQueue
from tests.support.taking import take_numbers
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.faults

Make = Callable[..., ResilientQueue]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The spool; made by whoever needs it first."""
    return tmp_path / "spool"


@pytest.fixture
def in_the_way(directory: Path) -> Path:
    """A file where the directory should be: even root cannot use that."""
    directory.write_text("in the way")
    return directory


@pytest.fixture
def nothing_logged() -> Iterator[None]:
    """Let pytest keep no log records: errors in them have tracebacks, and these hold the queue."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def config(make_config: MakeConfig, directory: Path) -> MakeConfig:
    """Make configurations with the spool and short times."""

    def make(url: str | None = None, *, max_held: int = 100_000, **section: Any) -> dict[str, Any]:
        fallback = {"spool": str(directory), "max_size": max_held}
        return make_config(url, **{"enqueue_timeout": 0.3, "max_size": 100_000, "fallback": fallback, **section})

    return make


@pytest.fixture
async def make(config: MakeConfig, start_server: StartServer, proxy_to: ProxyTo) -> AsyncIterator[Make]:
    """Make resilient queues over the spool, `make(url, lease=1)`, and clean them up before their servers stop."""
    made: list[ResilientQueue] = []

    def new(url: str | None = None, **section: Any) -> ResilientQueue:
        made.append(ResilientQueue(config(url, **section), breaker=BreakerPolicy(open_for=0.05, max_open_for=0.1)))
        return made[-1]

    yield new
    for queue in made:
        await queue.cleanup()


async def restored(queue: ResilientQueue) -> None:
    """Wait until Redis takes events directly again."""
    await wait_until(lambda: queue.using_redis, timeout=30)


async def everything(queue: Any, count: int) -> list[int]:
    """Take `count` events and see that there are no more."""
    numbers = await take_numbers(queue, count, timeout=30)
    # What Redis has handed out already may be counted in the spool for a moment.
    await wait_until(lambda: _is_empty(queue))
    return numbers


async def _is_empty(queue: Any) -> bool:
    return await queue.get_queue_depth() == 0 and queue.using_redis


def files(directory: Path) -> list[str]:
    """Name what is in the spool."""
    return sorted(path.name for path in directory.iterdir())


def accepted(program: Program) -> list[int]:
    """Return the numbers that a program was told to be accepted."""
    return [line[1] for line in program.journal if line[0] == "accepted"]


async def held(program: Program) -> int:
    """Wait until a program has enqueued everything; return how many events it holds."""
    await wait_until(
        lambda: not program.running or any(line[0] == "held" for line in program.journal), what=program.describe
    )
    assert program.running, program.describe()
    return int(next(line[1] for line in program.journal if line[0] == "held"))


# --- an outage -----------------------------------------------------------------------------------------------


async def test_events_wait_on_disk_and_go_to_redis_once_and_in_order(
    make: Make, start_server: StartServer, directory: Path
) -> None:
    """No local consumer gets them; afterwards the file is empty, and at the end it is gone."""
    server = start_server(appendonly="yes", appendfsync="always")
    queue = make(server.url)
    assert await queue.enqueue_many(events(3))
    await asyncio.to_thread(server.kill)
    for n in range(3, 10):
        assert await queue.enqueue(event(n))
    assert await queue.receive(1, timeout=0.05) == []
    health = await queue.check_health()
    assert (health["status"], health["held_locally"], health["held_durable"]) == ("degraded", 7, True)
    assert health["spool"] == str(directory)
    assert health["warning"] == f"7 events are held on disk in {directory} until Redis takes them"
    assert await queue.get_queue_depth() >= 7
    await asyncio.to_thread(server.restart)
    await restored(queue)
    assert await everything(queue, 10) == list(range(10))
    await wait_until(lambda: _is_healthy(queue))
    await queue.cleanup()
    assert files(directory) == []


async def test_the_words_are_logged_once_and_say_where_events_are(
    make: Make, proxy: FlakyProxy, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan's warning, and the truth about it."""
    proxy.refuse()
    queue = make(proxy.url)
    for n in range(3):
        await queue.enqueue(event(n))
    (line,) = [record.getMessage() for record in caplog.records if "Falling back to asyncio queue" in record.msg]
    assert f"events wait on disk in {directory}" in line


async def test_delays_ids_and_headers_survive(make: Make, proxy: FlakyProxy, stored: StoredQueue) -> None:
    """A second event with the same id is not added while the first is held, nor when it has moved."""
    proxy.refuse()
    queue = make(proxy.url)
    assert await queue.enqueue(event(1), event_id="one", headers={"a": "1"})
    assert await queue.enqueue(event(1), event_id="one")
    assert await queue.enqueue(event(2), delay=60)
    assert (await queue.check_health())["held_locally"] == 2
    proxy.restore()
    await restored(queue)
    assert await queue.enqueue(event(1), event_id="one")
    (delivery,) = await queue.receive(2, timeout=1)
    assert (delivery.event_id, dict(delivery.headers), delivery.deliveries) == ("one", {"a": "1"}, 1)
    stats = await queue.stats()
    assert (stats.delayed, stats.totals["duplicates"]) == (1, 1)
    (waiting,) = [each for each in await queue.peek(10) if each.state == "delayed"]
    assert waiting.payload == event(2)


async def test_what_is_held_is_bounded(make: Make, proxy: FlakyProxy, directory: Path) -> None:
    """The producer gets False; health says that there is no room left."""
    proxy.refuse()
    queue = make(proxy.url, max_held=3)
    receipts = await queue.enqueue_many(events(5))
    assert [receipt.held for receipt in receipts] == [True, True, True, False, False]
    assert not await queue.enqueue(event(5))
    assert (await queue.check_health())["status"] == "unhealthy"
    proxy.restore()
    await restored(queue)
    assert await everything(queue, 3) == [0, 1, 2]


async def test_a_full_server_takes_the_rest_later_in_order(make: Make, proxy: FlakyProxy) -> None:
    """What found no room stays at the front of the spool."""
    proxy.refuse()
    queue = make(proxy.url, max_size=4)
    queue.max_size = 4
    assert len(await queue.enqueue_many(events(4))) == 4
    queue.redis_queue.max_size = 2
    proxy.restore()
    await wait_until(lambda: queue.get_queue_size() == 4 and queue.redis_queue.get_queue_size() == 2)
    assert not queue.using_redis
    assert await take_numbers(queue, 2) == [0, 1]
    assert await take_numbers(queue, 2) == [2, 3]
    await restored(queue)
    # They were accepted long ago: that they had to wait is no refusal.
    assert (await queue.redis_queue.stats()).totals.get("rejected", 0) == 0


async def test_many_and_large_events_go_in_batches_that_a_server_takes(make: Make, proxy: FlakyProxy) -> None:
    """More than 500 events, and more than 4 MiB, in order."""
    proxy.refuse()
    queue = make(proxy.url)
    assert all(receipt.held for receipt in await queue.enqueue_many(events(1200)))
    large = [event(n, filler="x" * 1_500_000) for n in range(1200, 1206)]
    assert all(receipt.held for receipt in await queue.enqueue_many(large))
    proxy.restore()
    await restored(queue)
    assert await everything(queue, 1206) == list(range(1206))


# --- batches of unknown fate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_batch_of_unknown_fate_enters_whole_and_goes_first(make: Make, proxy: FlakyProxy, lost: str) -> None:
    """Several callers share it; whether Redis had it or not, each event is there once."""
    queue = make(proxy.url)
    assert await queue.enqueue(event(0))
    about = marker(1)
    if lost == "reply":
        trap = proxy.swallow_reply(lambda request, _: about in b"".join(request), then="refuse")
    else:
        trap = proxy.hold_request(lambda request: about in b"".join(request), then="refuse")
    assert await asyncio.gather(*(queue.enqueue(event(n)) for n in range(1, 5))) == [True] * 4
    assert trap.hit.is_set()
    assert await queue.enqueue(event(5))
    assert (await queue.check_health())["held_locally"] == 5
    proxy.restore()
    await restored(queue)
    assert await everything(queue, 6) == list(range(6))


async def test_a_batch_of_unknown_fate_survives_the_process(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs
) -> None:
    """Its reply was lost, its process is killed: the next one asks about it under the same producer and sequence."""
    trap = proxy.swallow_reply(lambda request, _: marker(1) in b"".join(request), then="refuse")
    program = programs("spool", config=config(proxy.url), numbers=[0, 1, 2])
    assert await held(program) == 2
    assert trap.hit.is_set()
    program.kill()
    queue = make()
    assert await queue.enqueue(event(3))
    await restored(queue)
    assert await everything(queue, 4) == [0, 1, 2, 3]


async def test_an_event_that_missed_its_durability_stays_in_the_spool(
    make: Make, start_server: StartServer, proxy_to: ProxyTo, look_at: LookAt
) -> None:
    """It is on the server, but on no replica: it is sent again, and recognised, until one has it."""
    server = start_server()
    proxy = proxy_to(server)
    proxy.refuse()
    queue = make(proxy.url, durability="replicated", min_replicas=1)
    assert await queue.enqueue(event(1))
    proxy.restore()
    stored = look_at(server)
    await wait_until(stored.length)
    assert (await queue.check_health())["held_locally"] == 1
    await asyncio.to_thread(start_server, replicaof=server)
    await restored(queue)
    assert await everything(queue, 1) == [1]


async def test_cancelled_callers_leave_whole_events_or_none(make: Make, proxy: FlakyProxy) -> None:
    """Cancelled before, while and after a commit is under way; those that were told True are all there."""
    proxy.refuse()
    queue = make(proxy.url)
    assert await queue.enqueue(event(0))
    told = {0}
    for n in range(1, 200):
        call = asyncio.create_task(queue.enqueue(event(n)))
        for _ in range(n % 4):
            await asyncio.sleep(0.0002 * (n % 7))
        call.cancel()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if outcome is True:
            told.add(n)
    count = (await queue.check_health())["held_locally"]
    proxy.restore()
    await restored(queue)
    numbers = await take_numbers(queue, count)
    assert told <= set(numbers)
    assert numbers == sorted(set(numbers))


# --- processes that are killed -------------------------------------------------------------------------------


async def test_a_process_killed_in_the_outage_loses_nothing_that_it_had_accepted(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs
) -> None:
    """Another process finds its file while Redis works, and lets it go before its own first event."""
    proxy.refuse()
    program = programs("spool", config=config(proxy.url), numbers=list(range(1000)), pause=0.001)
    await wait_until(lambda: len(accepted(program)) >= 50, what=program.describe)
    program.kill()
    told = accepted(program)
    queue = make()
    assert await queue.enqueue(event(5000))
    await restored(queue)
    depth = await queue.get_queue_depth()
    numbers = await everything(queue, depth)
    # The one that was on its way when the process died may be there as well.
    assert numbers in ([*told, 5000], [*told, len(told), 5000])


@pytest.mark.parametrize(
    "die_at", ["before the batch is recorded", "before it is sent", "before the reply", "after the reply"]
)
async def test_a_process_killed_on_the_way_back_doubles_nothing(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs, directory: Path, die_at: str
) -> None:
    """Whoever adopts the file sends the batch under the same producer and sequence; new events go behind it."""
    proxy.refuse()
    program = programs("spool", config=config(proxy.url), numbers=[0, 1, 2], die_at=die_at)
    if die_at == "before the reply":
        assert await held(program) == 3
        proxy.restore()
        trap = proxy.swallow_reply(lambda request, _: marker(1) in b"".join(request), then="silence")
        assert await asyncio.to_thread(trap.hit.wait, 10)
        program.kill()
    elif die_at == "after the reply":
        assert await held(program) == 3
        proxy.restore()
    assert await program.ended() == -9
    proxy.restore()
    queue = make()
    assert await queue.enqueue(event(3))
    await restored(queue)
    assert await everything(queue, 4) == [0, 1, 2, 3]
    await queue.cleanup()
    assert files(directory) == []


async def test_left_events_are_found_while_another_process_runs(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new event and no restart is needed."""
    monkeypatch.setattr("streams_queue.resilient_queue.spool_thread._LOOK_EVERY", (0.05, 0.1))
    queue = make()
    assert await queue.enqueue(event(0))
    proxy.refuse()
    program = programs("spool", config=config(proxy.url), numbers=[1, 2])
    assert await held(program) == 2
    program.kill()
    await wait_until(lambda: queue.redis_queue.get_queue_size() == 3, timeout=8)
    assert await everything(queue, 3) == [0, 1, 2]


async def test_a_server_that_comes_back_empty_gets_what_is_held(make: Make, start_server: StartServer) -> None:
    """It has forgotten every producer; what was in the spool is there once all the same."""
    server = start_server()
    queue = make(server.url)
    assert await queue.enqueue(event(0))
    await asyncio.to_thread(server.kill)
    for n in range(1, 5):
        assert await queue.enqueue(event(n))
    await asyncio.to_thread(server.restart)
    await restored(queue)
    assert set(await everything(queue, 4)) == {1, 2, 3, 4}


# --- several queues on one directory -------------------------------------------------------------------------


async def test_four_processes_share_a_directory(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs, directory: Path
) -> None:
    """Two of them are killed in the outage and adopted by whoever comes first: each event is there exactly once."""
    proxy.refuse()
    numbers = [list(range(first, first + 100)) for first in (0, 1000, 2000, 3000)]
    producers = [programs("spool", config=config(proxy.url), numbers=part) for part in numbers]
    for producer in producers:
        assert await held(producer) == 100
    for producer in producers[:2]:
        producer.kill()
    proxy.restore()
    for producer in producers[2:]:
        assert await producer.ended() == 0, producer.describe()
    queue = make()
    assert await queue.enqueue(event(9999))
    await restored(queue)
    got = await everything(queue, 401)
    assert sorted(got) == sorted([*(n for part in numbers for n in part), 9999])
    for part in numbers:
        assert [n for n in got if n in set(part)] == part
    await queue.cleanup()
    assert files(directory) == []


@pytest.mark.slow
async def test_four_processes_that_start_at_once_share_what_dead_ones_left(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs, directory: Path
) -> None:
    """All of them reach for the same files at the same moment; whoever gets one brings it to Redis, once."""
    proxy.refuse()
    numbers = [list(range(first, first + 50)) for first in (0, 1000, 2000, 3000)]
    dead = [programs("spool", config=config(proxy.url), numbers=part) for part in numbers]
    for program in dead:
        assert await held(program) == 50
    for program in dead:
        program.kill()
    proxy.restore()
    living = [programs("spool", config=config(proxy.url), numbers=[9000 + n]) for n in range(4)]
    for program in living:
        assert await program.ended() == 0, program.describe()
    queue = make()
    got = await everything(queue, 204)
    assert sorted(got) == sorted([*(n for part in numbers for n in part), *range(9000, 9004)])
    for part in numbers:
        assert [n for n in got if n in set(part)] == part
    await queue.cleanup()
    assert files(directory) == []


@pytest.mark.slow
async def test_thirty_seconds_without_redis(
    config: MakeConfig, make: Make, start_server: StartServer, programs: Programs, directory: Path
) -> None:
    """Four producers, 200 events a second; one of them is killed in the middle, and another goes on for it."""
    server = start_server(appendonly="yes", appendfsync="always")

    def producer(first: int, count: int) -> Program:
        numbers = list(range(first, first + count))
        return programs("spool", config=config(server.url), numbers=numbers, pause=0.0195)

    producers = [producer(first, 1800) for first in (0, 10_000, 20_000, 30_000)]
    await wait_until(lambda: all(len(accepted(each)) > 50 for each in producers))
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(15)
    producers[0].kill()
    producers.append(producer(40_000, 900))
    await asyncio.sleep(15)
    await asyncio.to_thread(server.restart)
    for each in producers[1:]:
        assert await each.ended() == 0, each.describe()
    told = [number for each in producers for number in accepted(each)]
    queue = make(server.url)
    got: list[int] = []
    while deliveries := await queue.receive(500, timeout=2):
        await queue.ack(*deliveries)
        got += [delivery.payload["n"] for delivery in deliveries]
    assert set(told) <= set(got)
    assert len(got) == len(set(got))
    # At most the one that was on its way when its process died.
    assert len(set(got) - set(told)) <= 1
    for thousands in range(0, 50_000, 10_000):
        part = [number for number in got if thousands <= number < thousands + 10_000]
        assert part == sorted(part)
    await queue.cleanup()
    assert files(directory) == []


async def test_two_queues_of_one_process_have_a_file_each(make: Make, proxy: FlakyProxy, directory: Path) -> None:
    """Neither takes the other's for one that was left behind, however long they look."""
    proxy.refuse()
    first, second = make(proxy.url), make(proxy.url)
    assert [await queue.enqueue(event(n)) for n, queue in enumerate([first, second, first, second])] == [True] * 4
    assert len([name for name in files(directory) if name.endswith(".spool")]) == 2
    for queue in (first, second):
        await queue._holding.look()
        assert (await queue.check_health())["held_locally"] == 2
    proxy.restore()
    await restored(first)
    await restored(second)
    numbers = await everything(first, 4)
    assert [n for n in numbers if n % 2 == 0] == [0, 2]
    assert [n for n in numbers if n % 2] == [1, 3]


async def test_queues_of_other_names_do_not_mix(make: Make, proxy: FlakyProxy) -> None:
    """They may share a directory."""
    proxy.refuse()
    one = make(proxy.url, name="one")
    assert await one.enqueue(event(1))
    await one.cleanup()
    proxy.restore()
    two = make(name="two")
    assert await two.enqueue(event(2))
    assert await everything(two, 1) == [2]
    again = make(name="one")
    assert await everything(again, 1) == [1]


async def test_cleanup_leaves_the_rest_to_the_next_process(
    make: Make, proxy: FlakyProxy, directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is still away: the log says how many events are where, and the next queue moves them."""
    monkeypatch.setattr("streams_queue.resilient_queue.queue._DRAIN_AT_CLEANUP", 0.2)
    proxy.refuse()
    queue = make(proxy.url)
    assert await queue.enqueue_many(events(3))
    await queue.cleanup()
    assert f"3 events stay in {directory} until the next process moves them" in caplog.text
    assert not await queue.enqueue(event(9))
    following = make()
    assert await following.enqueue(event(3))
    await restored(following)
    assert await everything(following, 4) == [0, 1, 2, 3]


async def test_a_queue_that_was_closed_before_its_first_use_leaves_nothing(make: Make, directory: Path) -> None:
    """Neither does a call that comes too late."""
    queue = make()
    await queue.cleanup()
    assert not await queue.enqueue(event(1))
    assert await queue.receive(1, timeout=0) == []
    assert not await asyncio.to_thread(directory.exists)


def test_a_queue_outlives_its_event_loop_and_ends_when_it_is_forgotten(
    config: MakeConfig, proxy: FlakyProxy, directory: Path, nothing_logged: None
) -> None:
    """What was held in one loop goes to Redis in the next; dropped without cleanup it lets go of its file."""
    queue = ResilientQueue(config(proxy.url), breaker=BreakerPolicy(open_for=0.05, max_open_for=0.1))
    proxy.refuse()
    asyncio.run(_enqueue_two(queue, 0))
    asyncio.run(_enqueue_two(queue, 2))
    proxy.restore()
    assert asyncio.run(_take_when_restored(queue, 5)) == [0, 1, 2, 3, 9]
    proxy.refuse()
    asyncio.run(_enqueue_two(queue, 10))
    del queue
    gc.collect()
    wait_until_sync(lambda: not any(thread.name == "streams_queue.spool" for thread in threading.enumerate()))
    proxy.restore()
    following = ResilientQueue(config(proxy.url))
    assert asyncio.run(_take_when_restored(following, 3)) == [10, 11, 9]
    assert files(directory) == []


async def _enqueue_two(queue: ResilientQueue, first: int) -> None:
    assert [await queue.enqueue(event(number)) for number in (first, first + 1)] == [True, True]


async def _take_when_restored(queue: ResilientQueue, count: int) -> list[int]:
    assert await queue.enqueue(event(9))
    await restored(queue)
    numbers = await everything(queue, count)
    if count == 3:
        await queue.cleanup()
    return numbers


async def test_observers_are_told_once_of_what_is_held(config: MakeConfig, proxy: FlakyProxy) -> None:
    """When it is on disk, not again when it moves; of what had no room as well."""
    told: list[tuple[str, Any]] = []

    class Watcher(Observer):
        def accepted(self, count: int) -> None:
            told.append(("accepted", count))

        def rejected(self, count: int) -> None:
            told.append(("rejected", count))

        def fallback_off(self, drained: int) -> None:
            told.append(("moved", drained))

    proxy.refuse()
    breaker = BreakerPolicy(open_for=0.05, max_open_for=0.1)
    async with ResilientQueue(config(proxy.url, max_held=2), observers=[Watcher()], breaker=breaker) as queue:
        await queue.enqueue_many(events(3))
        proxy.restore()
        await restored(queue)
    assert told == [("accepted", 2), ("rejected", 1), ("moved", 2)]


# --- forks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["exit", "collect", "enqueue"])
async def test_a_forked_child_never_touches_what_its_parent_holds(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs, directory: Path, way: str
) -> None:
    """It ends, collects garbage or enqueues itself, while the parent goes on; then each event is there once."""
    proxy.refuse()
    program = programs("spool_fork", config=config(proxy.url), way=way)
    assert await held(program) == 20
    assert ["child", 0] in program.journal, program.describe()
    program.kill()
    proxy.restore()
    queue = make()
    assert await queue.enqueue(event(99))
    await restored(queue)
    children = [1000, 1001] if way == "enqueue" else []
    numbers = await everything(queue, 21 + len(children))
    assert [n for n in numbers if n < 1000] == [*range(20), 99]
    assert [n for n in numbers if n >= 1000] == children
    await queue.cleanup()
    assert files(directory) == []


# --- the disk ------------------------------------------------------------------------------------------------


async def test_a_directory_that_cannot_be_used_is_named_and_nothing_is_swallowed(
    make: Make,
    proxy: FlakyProxy,
    in_the_way: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While Redis works events go there, and health warns; in an outage the producer is told; mended, it works."""
    monkeypatch.setattr("streams_queue.resilient_queue.spool_thread._LOOK_EVERY", (0.05, 0.1))
    directory = in_the_way
    queue = make(proxy.url)
    assert await queue.enqueue(event(0))
    health = await queue.check_health()
    assert health["status"] == "degraded"
    assert f"the spool {directory} cannot be used: [Errno 17] File exists" in health["warning"]
    proxy.refuse()
    proxy.cut()
    # The fate of this one may be unknown, since its connection broke.
    with pytest.raises((SpoolError, BackendTimeout), match=f"the spool {directory} cannot be used: .*File exists"):
        await queue.enqueue(event(1))
    for n in (2, 3):
        with pytest.raises(SpoolError, match=f"the spool {directory} cannot be used: .*File exists"):
            await queue.enqueue_many([event(n), event(n)])
    assert (await queue.check_health())["status"] == "unhealthy"
    assert sum(record.getMessage().startswith(f"the spool {directory} cannot") for record in caplog.records) == 1
    await asyncio.to_thread(directory.unlink)
    assert await queue.enqueue(event(4))
    proxy.restore()
    await restored(queue)
    assert {0, 4} <= set(await take_numbers(queue, await queue.get_queue_depth()))
    await wait_until(lambda: _is_healthy(queue))


async def _is_healthy(queue: ResilientQueue) -> bool:
    return (await queue.check_health())["status"] == "healthy"


async def test_an_outage_ends_although_the_spool_could_hold_nothing(
    make: Make, proxy: FlakyProxy, in_the_way: Path
) -> None:
    """With nothing held nobody but the recovery task asks the server."""
    queue = make(proxy.url)
    proxy.refuse()
    with pytest.raises(SpoolError):
        await queue.enqueue(event(0))
    assert not queue.using_redis
    proxy.restore()
    await restored(queue)


async def test_an_event_of_unknown_fate_that_cannot_be_kept_says_so(
    make: Make, proxy: FlakyProxy, in_the_way: Path
) -> None:
    """Neither True nor False would be honest; the error names the fate and the directory."""
    queue = make(proxy.url)
    trap = proxy.swallow_reply(lambda request, _: marker(1) in b"".join(request), then="refuse")
    with pytest.raises(BackendTimeout, match=f"outcome is unknown.*{in_the_way}.*File exists"):
        await queue.enqueue(event(1))
    assert trap.hit.is_set()


async def test_a_full_disk_is_refused_and_what_was_accepted_before_is_there(
    config: MakeConfig, make: Make, proxy: FlakyProxy, programs: Programs, directory: Path
) -> None:
    """The process may write no file beyond 300 KB: a real refusal by the system; no event is half there."""
    proxy.refuse()
    program = programs("spool_full", config=config(proxy.url), limit_bytes=300_000, count=100, size_bytes=10_000)
    assert await program.ended() == 0, program.describe()
    told = accepted(program)
    refused = [line[1:] for line in program.journal if line[0] == "refused"]
    assert told == list(range(len(told)))
    assert len(told) >= 10
    assert len(refused) >= 10
    assert all(str(directory) in reason and "cannot be used" in reason for _, reason in refused)
    proxy.restore()
    queue = make()
    assert await queue.enqueue(event(1000))
    await restored(queue)
    assert await everything(queue, len(told) + 1) == [*told, 1000]


async def test_a_file_that_cannot_be_read_is_set_aside_and_stops_no_other(
    make: Make, proxy: FlakyProxy, directory: Path, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator may look at it; what else is in the directory goes to Redis."""
    proxy.refuse()
    first = make(proxy.url)
    assert await first.enqueue(event(1))
    await first.cleanup()
    damaged = directory / f"{namespace}+events+0123.spool"
    damaged.write_bytes(b"This is no database. " * 1000)
    proxy.restore()
    queue = make()
    assert await queue.enqueue(event(2))
    await restored(queue)
    assert await everything(queue, 2) == [1, 2]
    assert f"{damaged} cannot be read (file is not a database)" in caplog.text
    await queue.cleanup()
    assert files(directory) == [f"{damaged.name}.corrupt"]


async def test_a_file_that_is_deleted_under_way_does_not_take_new_events_along(
    make: Make, proxy: FlakyProxy, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is written to a deleted file would die with the process; what is in it still goes to Redis."""
    proxy.refuse()
    queue = make(proxy.url)
    assert await queue.enqueue(event(1))
    await asyncio.to_thread(shutil.rmtree, directory)
    assert await queue.enqueue(event(2))
    assert "was deleted; the 1 events in it die with this process" in caplog.text
    assert len([name for name in files(directory) if name.endswith(".spool")]) == 1
    proxy.restore()
    await restored(queue)
    assert await everything(queue, 2) == [1, 2]
