"""Several batches on their way to a real server when something breaks: once each, and in order."""

from __future__ import annotations

import asyncio

import pytest

from streams_queue.errors import BackendRejected, BackendTimeout
from streams_queue.redis_queue.producer import PIECE_EVENTS, WINDOW
from tests.conftest import MakeClient, MakeQueue, StartServer
from tests.support.builders import Keys, event, events, marker
from tests.support.proxy import FlakyProxy, request_with
from tests.support.stored import StoredQueue
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.faults]

# One goes alone; three batches of a crowd follow before it is answered; the rest has to wait.
CROWD = 130


@pytest.mark.parametrize("lost", [1, 20, 50, 90])
@pytest.mark.parametrize("then", ["close", "silence"])
async def test_a_lost_reply_among_several_doubles_nothing_and_changes_no_order(
    lost: int, then: str, proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Whichever batch it is: those behind it have been written, and all of them are sent again."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=6)
    assert await queue.enqueue(event(0))
    trap = proxy.swallow_reply(request_with(marker(lost)), then)  # type: ignore[arg-type]

    held = await asyncio.gather(*(queue.enqueue(event(number)) for number in range(1, CROWD)))

    assert trap.hit.is_set()
    assert all(held)
    assert await stored.numbers() == list(range(CROWD))


async def test_a_request_that_is_held_back_holds_back_those_behind_it(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """It is delivered when all has long been sent again: nothing is written twice."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=6)
    assert await queue.enqueue(event(0))
    trap = proxy.hold_request(request_with(marker(40)), "silence")

    held = await asyncio.gather(*(queue.enqueue(event(number)) for number in range(1, CROWD)))
    trap.deliver()
    assert await queue.enqueue(event(CROWD))

    assert all(held)
    assert await stored.numbers() == list(range(CROWD + 1))


async def test_of_a_call_that_is_cancelled_only_what_was_on_its_way_is_written(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """Four pieces were; those behind them are not sent for nobody."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=6)
    assert await queue.enqueue(event(0))
    trap = proxy.hold_request(request_with(marker(40)), "silence")

    call = asyncio.create_task(queue.enqueue_many(events(1000, start=1)))
    await asyncio.to_thread(trap.hit.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    trap.deliver()
    assert await queue.enqueue(event(2000))

    *written, last = await stored.numbers()
    assert (written, last) == (list(range(len(written))), 2000)
    assert len(written) <= 1 + WINDOW * PIECE_EVENTS


async def test_a_call_that_fails_in_the_middle_says_what_became_of_its_first_events(
    proxy: FlakyProxy, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The reply to its third piece is lost, and nobody can be asked again."""
    queue = make_redis_queue(proxy.url, enqueue_timeout=1)
    assert await queue.enqueue(event(0))
    proxy.swallow_reply(request_with(marker(2 * PIECE_EVENTS + 50)), "refuse")

    with pytest.raises(BackendTimeout) as told:
        await queue.enqueue_many(events(1000, start=1))

    assert len(told.value.receipts) == 2 * PIECE_EVENTS
    assert all(receipt.held for receipt in told.value.receipts)
    assert (await stored.numbers())[: 2 * PIECE_EVENTS] == list(range(2 * PIECE_EVENTS))


async def test_a_server_that_dies_under_a_crowd_loses_and_doubles_nothing(
    start_server: StartServer, make_redis_queue: MakeQueue, make_client: MakeClient, keys: Keys
) -> None:
    """Killed with batches on the way, and back with what it had acknowledged and perhaps more."""
    server = start_server(appendonly="yes", appendfsync="always")
    queue = make_redis_queue(server.url, enqueue_timeout=10)
    assert await queue.enqueue(event(0))
    sent = 0

    async def enqueue(number: int) -> bool:
        nonlocal sent
        sent += 1
        return await queue.enqueue(event(number))

    crowd = [asyncio.create_task(enqueue(number)) for number in range(1, 3000)]
    await wait_until(lambda: sent > 500)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)

    assert all(await asyncio.gather(*crowd))
    assert await StoredQueue(make_client(server.url), keys).numbers() == list(range(3000))


async def test_a_crowd_that_is_refused_is_told_so_and_leaves_nothing(
    start_server: StartServer, make_redis_queue: MakeQueue, make_client: MakeClient, keys: Keys
) -> None:
    """With no memory left, the server refuses the first batch and does not look at the others."""
    server = start_server(maxmemory_policy="noeviction")
    queue = make_redis_queue(server.url)
    assert await queue.enqueue(event(0))
    server.command("CONFIG", "SET", "maxmemory", "1")

    crowd = [asyncio.create_task(queue.enqueue(event(number))) for number in range(1, CROWD)]
    told = await asyncio.gather(*crowd, return_exceptions=True)
    server.command("CONFIG", "SET", "maxmemory", "0")

    assert all(isinstance(word, BackendRejected) and word.code == "OOM" for word in told)
    assert [receipt.held for receipt in await queue.enqueue_many(events(2, start=1))] == [True, True]
    assert await StoredQueue(make_client(server.url), keys).numbers() == [0, 1, 2]
