"""What is measured of every queue, in the same way and counted at both ends."""

from __future__ import annotations

import asyncio
import importlib
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio import Redis

from benchmarks.counting import MiscountError, Watch, latencies, wait_for
from benchmarks.model import Case, Figures, Measure, Side, Taken, Target
from benchmarks.payloads import payloads
from benchmarks.peers.contract import Event, Peer

if TYPE_CHECKING:
    from benchmarks.peers import ardiq, arq, faststream, saq, streams_queue, streaq, taskiq

    _KEEP_THE_CONTRACT: tuple[Peer, ...] = (ardiq, arq, faststream, saq, streaq, streams_queue, taskiq)

OURS = "streams_queue"
OTHERS = ("ardiq", "arq", "faststream", "saq", "streaq", "taskiq")
_READY = "ready"
_WARM_UP = 20
_SPACING = (0.008, 0.012)
_POLL = 0.001
_PATIENCE = 300.0


def sides(measure: Callable[[str, Case], Any], partner: Callable[[str, Case], Any] | None = None) -> dict[str, Side]:
    """Return ours and all others, each to be measured in its own environment."""
    return {
        name: Side(_of(measure, name), None if partner is None else _of(partner, name), environment=name)
        for name in (OURS, *OTHERS)
    }


def _of(measure: Callable[[str, Case], Any], name: str) -> Measure:
    return partial(measure, name)


def targets(metric: str, *, more: bool) -> Iterable[Target]:
    """Return that ours is wanted ahead of each other queue."""
    for other in OTHERS:
        yield Target(side=OURS, metric=metric, against=other, at_least=1 if more else None, at_most=None if more else 1)


def _peer(name: str) -> Peer:
    return cast(Peer, importlib.import_module(f"benchmarks.peers.{name}"))


async def staging(name: str, case: Case) -> Figures:
    """Enqueue all events; the clock stops when the server holds them."""
    peer, events = _peer(name), payloads(case.payload, case.events)
    async with Redis.from_url(case.url) as client, peer.produce(case.url) as producer:
        watch = Watch(client)
        await watch.start()
        await producer.stage(events)
        held = await peer.left(client)
        if held != case.events:
            raise MiscountError(f"the server holds {held} events, not {case.events}")
        return await watch.stop(case.events)


async def draining(name: str, case: Case) -> Figures:
    """Handle all events; the clock stops when all handlers have run and the queue says that nothing is left."""
    peer = _peer(name)
    handled, all_handled = 0, asyncio.Event()

    async def handle(_event: Event) -> None:
        nonlocal handled
        handled += 1
        if handled == case.events:
            all_handled.set()

    async with Redis.from_url(case.url) as client:
        async with peer.produce(case.url) as producer:
            await producer.stage(payloads(case.payload, case.events))
        watch = Watch(client)
        await watch.start()
        async with asyncio.timeout(_PATIENCE), peer.work(case.url, handle, case.concurrency):
            await all_handled.wait()
            await _until_nothing_is_left(peer, client)
            figures = await watch.stop(case.events)
        if handled != case.events:
            raise MiscountError(f"{handled} events were handled, not {case.events}")
        return figures


async def idle_producer(name: str, case: Case) -> Figures:
    """Wait until the consumer is there, then send event after event with its time of departure."""
    async with Redis.from_url(case.url) as client:
        await wait_for(lambda: client.get(_READY))
    source = random.Random(1)
    async with _peer(name).produce(case.url) as producer:
        for event in payloads(case.payload, case.events + _WARM_UP):
            await asyncio.sleep(source.uniform(*_SPACING))
            await producer.enqueue(event | {"sent": time.monotonic()})
    return {}


async def idle_consumer(name: str, case: Case) -> Taken:
    """Take the time from departure to handler, which both processes read from the same clock."""
    peer = _peer(name)
    sample: list[float] = []
    all_handled = asyncio.Event()

    async def handle(event: Event) -> None:
        sample.append(time.monotonic() - event["sent"])
        if len(sample) == case.events + _WARM_UP:
            all_handled.set()

    working = peer.work(case.url, handle, case.concurrency)
    async with Redis.from_url(case.url) as client, asyncio.timeout(_PATIENCE), working:
        await client.set(_READY, 1)
        await all_handled.wait()
        await _until_nothing_is_left(peer, client)
    taken = sample[_WARM_UP:]
    return Taken(latencies(taken, "latency"), {"latency": [1000 * seconds for seconds in taken]})


async def _until_nothing_is_left(peer: Peer, client: Any) -> None:
    while await peer.left(client):  # noqa: ASYNC110 - it is on the server
        await asyncio.sleep(_POLL)
