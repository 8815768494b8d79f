"""The server forgets everything while workers run."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streams_queue.errors import LeaseLost
from tests.conftest import LookAt, MakeQueue, StartServer
from tests.support.builders import event, events
from tests.support.recording import Recorder
from tests.support.stored import StoredQueue
from tests.support.taking import receive_exactly, take_numbers
from tests.support.waiting import wait_until
from tests.support.working import working

pytestmark = pytest.mark.faults


async def test_a_running_worker_survives_flushall(
    start_server: StartServer,
    make_redis_queue: MakeQueue,
    look_at: LookAt,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FLUSHALL under an idle worker: the loss is logged and counted, the group comes back, the next events are run."""
    server, recorder = start_server(), Recorder()
    producer, queue = make_redis_queue(server.url), make_redis_queue(server.url, observers=(recorder,))
    handled: list[int] = []

    async def handle(payload: dict[str, Any]) -> None:
        handled.append(payload["n"])

    async with working(queue, handle):
        await producer.enqueue_many(events(3))
        await wait_until(lambda: handled == [0, 1, 2])
        with caplog.at_level(logging.WARNING, "streams_queue"):
            server.command("FLUSHALL")
            await wait_until(lambda: recorder.states_lost, what="the loss was not reported")
        await producer.enqueue_many(events(3, start=3))
        await wait_until(lambda: handled == [0, 1, 2, 3, 4, 5], what=lambda: f"handled {handled}")

    assert len(recorder.states_lost) == 1
    assert any(
        record.levelno >= logging.WARNING for record in caplog.records if record.name.startswith("streams_queue")
    )
    assert (await producer.stats()).totals["state_lost"] == 1
    assert (await look_at(server).group())["name"] == b"processors"


async def test_flushall_under_a_handler_lets_it_finish(start_server: StartServer, make_redis_queue: MakeQueue) -> None:
    """What is in hand when the server forgets it counts as done when it is done; giving it back is refused."""
    server, recorder = start_server(), Recorder()
    queue = make_redis_queue(server.url, lease=1.0, observers=(recorder,))
    await queue.enqueue_many(events(2))
    first, second = await receive_exactly(queue, 2)
    server.command("FLUSHALL")

    await queue.ack(first)
    with pytest.raises(LeaseLost):
        await queue.nack(second)
    await queue.enqueue(event(2))

    assert await take_numbers(queue, 1) == [2]
    assert (await queue.stats()).in_flight == 0


async def test_a_restart_without_data_is_survived_too(start_server: StartServer, make_redis_queue: MakeQueue) -> None:
    """A server that comes back empty (scripts gone as well) is set up again by producer and consumer alike."""
    server, recorder = start_server(), Recorder()
    producer, queue = (make_redis_queue(server.url, observers=(recorder,)) for _ in range(2))
    handled: list[int] = []

    async def handle(payload: dict[str, Any]) -> None:
        handled.append(payload["n"])

    async with working(queue, handle):
        await producer.enqueue(event(0))
        await wait_until(lambda: handled == [0])
        server.restart(empty=True)
        assert await producer.enqueue(event(1))
        await wait_until(lambda: handled == [0, 1], what=lambda: f"handled {handled}")

    assert len(recorder.states_lost) == 1, "reported by whoever notices first, and by nobody else"


async def test_a_loss_is_reported_whoever_comes_first(start_server: StartServer, make_redis_queue: MakeQueue) -> None:
    """A process that starts after the loss sets the queue up again; the one that knew of events reports them, once."""
    server, recorder, others = start_server(), Recorder(), Recorder()
    queue, witness = make_redis_queue(server.url, observers=(recorder,)), make_redis_queue(server.url)
    await queue.enqueue_many(events(5))
    assert await take_numbers(queue, 1) == [0]
    await witness.stats()
    server.restart(empty=True)

    newcomer = make_redis_queue(server.url, observers=(others,))
    await newcomer.enqueue(event(5))
    assert await newcomer.receive(timeout=0)
    await queue.enqueue(event(6))

    assert recorder.losses == [(4 - 1, "state_lost")], "what the newcomer has brought makes up for one"
    assert (len(recorder.states_lost), others.states_lost, others.losses) == (1, [], [])
    totals = (await witness.stats()).totals
    assert (totals["state_lost"], totals["lost"]) == (1, 3)


@pytest.mark.parametrize(("held", "in_hand"), [(0, 0), (4, 0), (4, 2)], ids=["nothing", "waiting", "in hand"])
async def test_the_count_of_what_was_lost(
    held: int, in_hand: int, start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """What the queue held and did not hold afterwards: accepted and not settled, also what was in hand."""
    server, recorder = start_server(), Recorder()
    queue = make_redis_queue(server.url, observers=(recorder,))
    await queue.enqueue_many(events(3))
    assert await take_numbers(queue, 3) == [0, 1, 2]
    await queue.enqueue_many(events(held, start=3)) if held else None
    taken = await receive_exactly(queue, in_hand) if in_hand else []
    server.command("FLUSHALL")

    await queue.ack(*taken)
    assert await queue.enqueue(event(9))
    await take_numbers(queue, 1)

    assert sum(count for count, _ in recorder.losses) == held - in_hand
    assert (await queue.check_health())["status"] == "healthy"


async def test_what_was_forgotten_of_the_last_second_is_reported_and_the_rest_runs_again(
    start_server: StartServer, make_redis_queue: MakeQueue
) -> None:
    """The server comes back with an older append-only file: lost batches are counted, forgotten acks undone."""
    server, recorder = start_server(appendonly="yes", appendfsync="always"), Recorder()
    queue = make_redis_queue(server.url, observers=(recorder,))
    await queue.enqueue_many(events(3))
    (first,) = await receive_exactly(queue, 1)
    with server.rewinding():
        await queue.ack(first)
        (second,) = await receive_exactly(queue, 1)
        await queue.enqueue_many(events(2, start=3))
        await queue.enqueue(event(5))

    await queue.ack(second)
    assert await queue.enqueue(event(6))

    assert [count for count, _ in recorder.losses] == [3]
    assert recorder.states_lost == []
    assert sorted(await take_numbers(queue, 3)) == [0, 2, 6]
    await wait_until(lambda: is_empty(queue))


async def is_empty(queue: Any) -> bool:
    """Tell whether every event is settled."""
    stats = await queue.stats()
    return stats.waiting + stats.in_flight + stats.delayed == 0


async def test_an_evicted_stream_is_reported_and_replaced(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """Only the stream is gone, as after an eviction: reported as lost, and what comes next is processed."""
    recorder = Recorder()
    queue = make_redis_queue(observers=(recorder,))
    await queue.enqueue_many(events(3))
    assert await take_numbers(queue, 1) == [0]
    await stored.raw.delete(stored.keys.stream)

    assert await queue.enqueue(event(3))
    assert (await take_numbers(queue, 1))[-1] == 3
    await wait_until(lambda: recorder.states_lost)


async def test_entries_deleted_behind_the_groups_back_are_counted_as_lost(
    make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """XDEL by hand of an event in flight whose consumer died: noticed by the sweep, counted, and nothing hangs."""
    recorder = Recorder()
    queue = make_redis_queue(lease=1.0, observers=(recorder,))
    await queue.enqueue_many(events(2))
    await stored.raw.xreadgroup(stored.keys.group, "ghost", {stored.keys.stream: ">"}, count=1)
    (entry_id, *_) = await stored.entry_ids()
    await stored.raw.xdel(stored.keys.stream, entry_id)

    assert await take_numbers(queue, 1) == [1]
    assert await queue.receive(timeout=2.5) == []
    assert (await queue.stats()).totals["lost"] == 1
    assert [count for count, _ in recorder.losses] == [1]
    assert await stored.pending() == []


async def test_batches_that_a_failover_forgot_are_reported(make_redis_queue: MakeQueue, stored: StoredQueue) -> None:
    """A lagging replica takes over: what had been accepted and is gone is counted as lost, and work goes on."""
    recorder = Recorder()
    queue = make_redis_queue(observers=(recorder,))
    await queue.enqueue(event(0))
    (record,) = [key async for key in stored.raw.scan_iter(f"{stored.keys.stream}:producer:*", count=1000)]
    remembered, entry_ids = await stored.raw.dump(record), await stored.entry_ids()
    await queue.enqueue_many(events(2, start=1))
    await queue.enqueue(event(3))
    forgotten = [entry_id for entry_id in await stored.entry_ids() if entry_id not in entry_ids]
    await stored.raw.xdel(stored.keys.stream, *forgotten)
    await stored.raw.restore(record, 60_000, remembered, replace=True)

    assert await queue.enqueue(event(4))

    assert [count for count, _ in recorder.losses] == [3]
    assert await take_numbers(queue, 2) == [0, 4]
