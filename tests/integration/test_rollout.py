"""A rollout over real servers: where events go, that each is held once, and that one queue does not need the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams_queue import QueueFactory, RolloutQueue, Worker, check_redis_health
from streams_queue.errors import BackendError, BackendUnavailable, EncodeError, NotDurable, StateError
from streams_queue.messages import ReceiptStatus
from streams_queue.rollout_queue.routing import position
from tests.conftest import MakeConfig, ProxyTo, StartServer
from tests.support.proxy import FlakyProxy
from tests.support.taking import receive_exactly, take
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

MakeRollout = Callable[..., RolloutQueue]
REPOS = [f"octocat/repo-{number}" for number in range(200)]
OLD_REPO = next(repo for repo in REPOS if position(repo) >= 50)
NEW_REPO = next(repo for repo in REPOS if position(repo) < 50)


def push(repo: str, number: int = 0) -> dict[str, Any]:
    """Return an event of a repository, as GitHub names it."""
    return {"event_type": "push", "repository": {"full_name": repo}, "n": number}


@pytest.fixture
async def make(make_config: MakeConfig, start_server: StartServer, proxy_to: ProxyTo) -> AsyncIterator[MakeRollout]:
    """Make rollouts, `make(50)`; `old` and `new` are the two queues' own keys, other keys are for both."""
    made: list[RolloutQueue] = []

    def new(
        percentage: float, *, old: dict[str, Any] | None = None, new: dict[str, Any] | None = None, **section: Any
    ) -> RolloutQueue:
        rollout = {"percentage": percentage, "old": old or {}, "new": {"name": "new", **(new or {})}}
        made.append(RolloutQueue(make_config(type="rollout", rollout=rollout, **section)))
        return made[-1]

    yield new
    for queue in made:
        await queue.cleanup()


async def held(queue: RolloutQueue) -> tuple[int, int]:
    """Return how many events wait in the old and in the new queue."""
    return (await queue.old_queue.stats()).waiting, (await queue.new_queue.stats()).waiting


# --- where events go ---


@pytest.mark.parametrize("percentage", [0, 50, 100])
async def test_a_repositorys_events_are_all_in_one_queue(make: MakeRollout, percentage: int) -> None:
    """By the share, whichever way they come in; the rest are in the other one."""
    queue = make(percentage)
    events = [push(repo, n) for n in range(2) for repo in REPOS]
    await queue.enqueue_many(events[:300])
    for each in events[300:]:
        assert await queue.enqueue(each)
    for side in (queue.old_queue, queue.new_queue):
        for seen in await side.peek(500):
            goes = position(seen.payload["repository"]["full_name"]) < percentage
            assert side is (queue.new_queue if goes else queue.old_queue)
    assert sum(await held(queue)) == 400


async def test_the_share_may_be_changed_at_run_time(make: MakeRollout) -> None:
    """For this process, and only to what is a percentage."""
    queue = make(0)
    await queue.enqueue(push(OLD_REPO))
    queue.percentage = 100
    await queue.enqueue(push(OLD_REPO))
    assert await held(queue) == (1, 1)
    with pytest.raises(ValueError, match="from 0 to 100"):
        queue.percentage = 101


async def test_one_bad_payload_keeps_the_whole_call_out_of_both_queues(make: MakeRollout) -> None:
    """Also when the good ones belong to the other queue."""
    queue = make(50)
    with pytest.raises(EncodeError):
        await queue.enqueue_many([push(OLD_REPO), {**push(NEW_REPO), "when": float("nan")}])
    assert await held(queue) == (0, 0)


async def test_receipts_are_in_the_order_of_the_call(make: MakeRollout) -> None:
    """Whichever queue they come from."""
    queue = make(50)
    events = [push(repo, n) for n, repo in enumerate(REPOS)]
    receipts = await queue.enqueue_many(events, event_ids=[f"id-{n}" for n in range(len(REPOS))])
    assert [receipt.event_id for receipt in receipts] == [f"id-{n}" for n in range(len(REPOS))]
    assert {receipt.status for receipt in receipts} == {ReceiptStatus.ACCEPTED}


async def test_a_call_tells_of_the_first_event_that_is_not_as_durable_as_asked_for(make: MakeRollout) -> None:
    """The new queue waits for a replica that is not there: its event is held, and the old queue's are as well."""
    queue = make(50, new={"durability": "replicated", "min_replicas": 1}, enqueue_timeout=0.5)
    events = [push(OLD_REPO, 0), push(NEW_REPO, 1), push(OLD_REPO, 2)]
    for status in (ReceiptStatus.ACCEPTED, ReceiptStatus.DUPLICATE):
        with pytest.raises(NotDurable) as raised:
            await queue.enqueue_many(events, event_ids=["a", "b", "c"])
        assert [receipt.status for receipt in raised.value.receipts] == [status] * 3
        assert raised.value.durable == 1
    assert await held(queue) == (2, 1)


# --- each event once ---


@pytest.mark.parametrize(
    "kinds", [("redis", "redis"), ("asyncio", "redis"), ("redis", "resilient"), ("resilient", "redis")]
)
@pytest.mark.parametrize(("first", "then"), [(0, 100), (100, 0)])
async def test_an_event_id_is_held_once_when_the_share_changes_between_two_sends(
    make: MakeRollout, first: int, then: int, kinds: tuple[str, str]
) -> None:
    """The second send says that it is a duplicate, also after the event was processed, and is counted once."""
    queue = make(first, old={"type": kinds[0]}, new={"type": kinds[1]})
    assert await queue.enqueue(push(OLD_REPO), event_id="a")
    assert await queue.enqueue(push(OLD_REPO), event_id="b")
    queue.percentage = then
    for _ in range(2):
        (receipt,) = await queue.enqueue_many([push(OLD_REPO)], event_ids=["a"])
        assert receipt.status is ReceiptStatus.DUPLICATE
    assert await held(queue) == ((2, 0) if first == 0 else (0, 2))
    await take(queue, 2)
    assert await queue.enqueue(push(OLD_REPO), event_id="a")
    stats = await queue.stats()
    assert (stats.waiting, stats.totals["enqueued"], stats.totals["duplicates"]) == (0, 2, 3)


async def test_of_processes_with_different_shares_one_gets_its_way(make: MakeRollout) -> None:
    """400 ids, each sent at the same moment by one that goes to the old queue and one that goes to the new one."""
    low, high = make(0), make(100)
    few = asyncio.Semaphore(2)

    async def send(number: int) -> None:
        async with few:
            sends = [queue.enqueue(push(OLD_REPO, number), event_id=f"id-{number}") for queue in (low, high)]
            assert await asyncio.gather(*(sends if number % 2 else reversed(sends))) == [True, True]

    await asyncio.gather(*map(send, range(400)))
    old, new = await held(low)
    assert old + new == 400
    numbers = [payload["n"] for payload in await take(low, 400)]
    assert sorted(numbers) == list(range(400))
    assert min(old, new) > 0


@pytest.mark.parametrize("then", [0, 100])
async def test_a_process_killed_between_ceding_and_sending_leaves_nothing_lost(make: MakeRollout, then: int) -> None:
    """Its sender was told nothing, and tries again: the event goes to the new queue, whatever the share is by now."""
    queue = make(then)
    assert await queue.old_queue.cede(["a"]) == [True]
    assert await queue.enqueue(push(OLD_REPO), event_id="a")
    assert await held(queue) == (0, 1)


async def test_an_id_whose_event_the_new_queue_refused_may_go_to_the_old_one(make: MakeRollout) -> None:
    """Full, or out of reach and not sent: going back to 0 % lets the sender's next attempt in."""
    full = make(100, new={"max_size": 0})
    assert not await full.enqueue(push(OLD_REPO), event_id="a")
    full.percentage = 0
    assert await full.enqueue(push(OLD_REPO), event_id="a")
    assert await held(full) == (1, 0)


async def test_an_id_whose_event_never_reached_the_new_server_may_go_to_the_old_one(
    make: MakeRollout, start_server: StartServer
) -> None:
    """The new server is down: what was certainly not sent there does not belong to it."""
    server = start_server()
    queue = make(100, new={"redis_url": server.url}, enqueue_timeout=0.5)
    server.kill()
    with pytest.raises(BackendUnavailable):
        await queue.enqueue(push(OLD_REPO), event_id="a")
    queue.percentage = 0
    assert await queue.enqueue(push(OLD_REPO), event_id="a")
    assert (await queue.old_queue.stats()).waiting == 1


async def test_an_event_whose_fate_is_unknown_stays_with_the_new_queue(make: MakeRollout, proxy: FlakyProxy) -> None:
    """Its reply was swallowed: sent again at 0 %, it is recognised where it is."""
    queue = make(100, new={"redis_url": proxy.url}, enqueue_timeout=0.5)
    assert await queue.enqueue(push(OLD_REPO, 1))
    proxy.swallow_reply(lambda request, _: b'"n":2' in b"".join(request), then="refuse")
    with pytest.raises(BackendError):
        await queue.enqueue(push(OLD_REPO, 2), event_id="a")
    queue.percentage = 0
    with pytest.raises(BackendError):
        await queue.enqueue(push(OLD_REPO, 2), event_id="a")
    proxy.restore()
    assert await queue.enqueue(push(OLD_REPO, 2), event_id="a")
    assert await held(queue) == (0, 2)


async def test_one_queue_under_two_addresses_is_found_out(make: MakeRollout, redis_url: str) -> None:
    """Else what is ceded would be a duplicate where it is sent, and held nowhere."""
    other_way = redis_url.replace("127.0.0.1", "localhost")
    assert other_way != redis_url
    queue = make(100, new={"name": "events", "redis_url": other_way})
    with pytest.raises(StateError, match="one queue"):
        await queue.enqueue(push(OLD_REPO), event_id="a")


# --- reading both ---


async def test_the_old_queue_goes_first_and_the_new_one_is_not_starved(make: MakeRollout) -> None:
    """With events in both, three of four come from the old one until it is empty."""
    queue = make(50)
    await queue.enqueue_many([push(OLD_REPO, n) for n in range(60)] + [push(NEW_REPO, n) for n in range(60)])
    repos = [payload["repository"]["full_name"] for _ in range(40) for payload in await take(queue, 1)]
    assert 24 <= repos.count(OLD_REPO) <= 36
    rest = await take(queue, 80)
    for repo in (OLD_REPO, NEW_REPO):
        assert [each["n"] for each in rest if each["repository"]["full_name"] == repo] == list(range(60))[
            repos.count(repo) :
        ]


@pytest.mark.parametrize("kind", ["redis", "asyncio", "resilient"])
@pytest.mark.parametrize("repo", [OLD_REPO, NEW_REPO], ids=["old", "new"])
async def test_an_event_in_either_queue_wakes_a_waiting_caller_at_once(make: MakeRollout, repo: str, kind: str) -> None:
    """A read that waits for one queue does not hold up what comes in the other."""
    queue = make(50, old={"type": kind})
    for n in range(5):
        waiting = asyncio.create_task(queue.receive(timeout=30))
        await asyncio.wait({waiting}, timeout=0.1)
        began = time.monotonic()
        await queue.enqueue(push(repo, n))
        (delivery,) = await waiting
        assert time.monotonic() - began < 0.3
        assert delivery.payload["n"] == n
        await queue.ack(delivery)


async def test_a_caller_with_an_event_of_one_queue_holds_none_of_the_other(make: MakeRollout) -> None:
    """The read that waited for the other queue is ended: its next event goes to whoever is free, in order."""
    busy, free = make(50, lease=15), make(50, lease=15)
    waiting = asyncio.create_task(busy.receive(timeout=30))
    await asyncio.wait({waiting}, timeout=0.2)
    await free.enqueue(push(OLD_REPO))
    assert len(await waiting) == 1
    reader = busy.new_queue._session.reader  # type: ignore[attr-defined]
    await wait_until(lambda: not reader.is_reading, timeout=1)
    await free.enqueue_many([push(NEW_REPO, n) for n in range(5)])
    assert [payload["n"] for payload in await take(free, 5)] == list(range(5))
    assert (await free.new_queue.stats()).totals["released"] == 0


async def test_what_a_crash_left_in_one_queue_runs_again_while_the_other_one_is_busy(make: MakeRollout) -> None:
    """A consumer that never runs out of new events sweeps the old queue all the same."""
    crashed, queue = make(50, lease=0.5), make(50, lease=0.5)
    await crashed.enqueue(push(OLD_REPO))
    await receive_exactly(crashed, 1)
    crashed.old_queue._session.abandon()  # type: ignore[attr-defined]
    await queue.enqueue_many([push(NEW_REPO, n) for n in range(9000)])
    began, taken = time.monotonic(), 0
    while True:
        assert time.monotonic() - began < 10
        (delivery,) = await queue.receive(1)
        await queue.ack(delivery)
        if delivery.payload["repository"]["full_name"] == OLD_REPO:
            break
        taken += 1
        await asyncio.sleep(0.002)
    assert delivery.deliveries == 2
    assert time.monotonic() - began < 0.5 + 1.5
    assert taken < 9000


# --- one without the other ---


@pytest.mark.parametrize(
    ("down", "how"),
    [
        ("old", "kill"),
        pytest.param("old", "pause", marks=pytest.mark.slow),
        pytest.param("new", "kill", marks=pytest.mark.slow),
        ("new", "pause"),
    ],
)
async def test_a_server_that_is_away_does_not_stop_the_other_queue(
    make: MakeRollout, start_server: StartServer, down: str, how: str
) -> None:
    """Events for the other one go in and come out promptly; figures and health say what is known."""
    server = start_server()
    queue = make(50, **{down: {"redis_url": server.url}}, enqueue_timeout=0.9)
    repos = {"old": OLD_REPO, "new": NEW_REPO}
    gone, works = repos.pop(down), next(iter(repos.values()))
    await queue.enqueue(push(gone, 0))
    assert (await queue.stats()).waiting == 1
    await asyncio.to_thread(getattr(server, how))

    for n in range(1, 11):
        assert await queue.enqueue(push(works, n), event_id=f"id-{n}")
    with pytest.raises(BackendError):
        await queue.enqueue(push(gone, 11))
    with pytest.raises(BackendError) as raised:
        await queue.enqueue_many([push(works, 12), push(gone, 13), push(works, 14)])
    assert [receipt.held for receipt in raised.value.receipts] == [True]
    began = time.monotonic()
    assert [payload["n"] for payload in await take(queue, 12)] == [*range(1, 11), 12, 14]
    assert time.monotonic() - began < 3
    assert (await queue.stats()).waiting == 1
    health = await queue.check_health()
    assert (health["status"], health["redis_connected"]) == ("degraded", False)
    assert health["error"].startswith(f"{down}: ")

    if how == "pause":
        server.resume()
        (payload,) = await take(queue, 1)
        assert payload["n"] == 0


async def test_a_queue_that_refuses_for_good_does_not_stop_the_other_one(
    make: MakeRollout, raw: Any, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody wrote a string where the old stream was: logged once, and the new events are handed out."""
    await raw.set(f"{namespace}:{{events}}", "somebody else's")
    queue = make(100)
    await queue.enqueue_many([push(NEW_REPO, n) for n in range(5)])
    assert [payload["n"] for payload in await take(queue, 5)] == list(range(5))
    assert await queue.receive(timeout=1.5) == []
    lines = [each for each in caplog.records if "The old queue of a rollout hands out nothing" in each.getMessage()]
    assert len(lines) == 1


async def test_when_both_refuse_the_caller_is_told(make: MakeRollout, raw: Any, namespace: str) -> None:
    """There is nothing to go on with."""
    await raw.set(f"{namespace}:{{events}}", "somebody else's")
    await raw.set(f"{namespace}:{{new}}", "somebody else's")
    with pytest.raises(BackendError):
        await make(50).receive(timeout=5)


# --- steering both ---


async def test_an_operators_verbs_reach_both_queues(make: MakeRollout) -> None:
    """Dead letters are listed page by page, old ones first, and put back or deleted where they are."""
    queue = make(50)
    await queue.enqueue_many([push(repo, n) for n in range(3) for repo in (OLD_REPO, NEW_REPO)])
    assert len(await queue.peek()) == 6
    assert await queue.purge() == 6
    seen, after = [], None
    while page := await queue.dead_letters(2, after=after):
        seen += page
        after = page[-1].dead_id
    assert [letter.payload["repository"]["full_name"] for letter in seen] == [OLD_REPO] * 3 + [NEW_REPO] * 3
    assert await queue.redrive(seen[0].dead_id, seen[5].dead_id, "old:1-1") == 2
    assert await held(queue) == (1, 1)
    assert await queue.purge_dead(seen[1].dead_id, seen[4].dead_id, who="octocat") == 2
    assert await queue.redrive(count=2) == 2
    assert await held(queue) == (2, 2)
    await queue.pause()
    assert [(await side.stats()).paused for side in (queue.old_queue, queue.new_queue)] == [True, True]
    await queue.resume()
    assert len(await take(queue, 4)) == 4


async def test_a_worker_settles_events_of_both_queues(make: MakeRollout) -> None:
    """In whichever queue they came from, retries included."""
    queue = make(50, retry_policy={"max_retries": 1, "base_delay": 0.01})
    await queue.enqueue_many([push(repo, n) for n, repo in enumerate(REPOS)])
    seen: dict[int, int] = {}

    async def handle(event: dict[str, Any]) -> None:
        seen[event["n"]] = seen.get(event["n"], 0) + 1
        if seen[event["n"]] == 1 and event["n"] % 10 == 0:
            raise ValueError("the first time")

    worker = Worker(queue, handle)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(seen) == 200 and all(seen[n] == (2 if n % 10 == 0 else 1) for n in seen))
    worker.stop()
    await running
    totals = (await queue.stats()).totals
    assert (totals["acked"], totals["retried"], totals["dead"]) == (200, 20, 0)


async def test_the_factory_and_the_health_check_know_it(make: MakeRollout, make_config: MakeConfig) -> None:
    """By the same configuration."""
    rollout = {"percentage": 5, "old": {"type": "asyncio"}, "new": {"name": "new"}}
    config = make_config(type="rollout", rollout=rollout)
    async with QueueFactory.create_queue(config) as queue:
        assert isinstance(queue, RolloutQueue)
    health = await check_redis_health(config)
    assert (health["status"], health["percentage"], health["redis_connected"]) == ("healthy", 5, True)
