"""Connections that the other end resets while nothing is under way on them, as proxies do with idle ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from streams_queue import RedisEventQueue
from tests.conftest import MakeConfig
from tests.support.builders import event
from tests.support.proxy import FlakyProxy
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.faults]

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def new_uvloop() -> asyncio.AbstractEventLoop:
    """Make uvloop's loop, or skip the test where it is not installed."""
    uvloop = pytest.importorskip("uvloop")
    return uvloop.new_event_loop()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_uvloop])
def test_every_verb_survives_a_reset_of_its_idle_connection(
    new_loop: NewLoop, proxy: FlakyProxy, make_config: MakeConfig
) -> None:
    """A write to a dead transport is an error of another kind on every event loop; callers notice none of them."""

    async def use() -> None:
        queue = RedisEventQueue(make_config(proxy.url))

        async def cut() -> None:
            proxy.cut("reset")
            await wait_until(lambda: not proxy.connections())
            for _ in range(
                10
            ):  # rounds of the loop, which hears of it in the next and closes its transports in the one after
                await asyncio.sleep(0)

        assert await queue.enqueue(event(0))
        await cut()
        assert await queue.enqueue(event(1))
        await cut()
        (delivery,) = await queue.receive(timeout=5)
        await cut()
        await queue.ack(delivery)
        await cut()
        assert (await queue.stats()).waiting == 1
        await queue.cleanup()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(use())
