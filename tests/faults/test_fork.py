"""A process that forks with a queue in use, as `gunicorn --preload` and multiprocessing do."""

from __future__ import annotations

import pytest

from tests.conftest import MakeConfig, MakeQueue
from tests.support.builders import events
from tests.support.processes import Program, Programs
from tests.support.proxy import FlakyProxy
from tests.support.stored import StoredQueue
from tests.support.taking import take_numbers

pytestmark = pytest.mark.faults


def said(program: Program, who: str) -> list[object]:
    """Return what one of the two processes reported."""
    (values,) = [line[1] for line in program.journal if line[0] == who]
    return list(values)


async def test_a_fork_with_a_batch_in_flight_doubles_nothing(
    proxy: FlakyProxy, programs: Programs, make_config: MakeConfig, make_redis_queue: MakeQueue
) -> None:
    """Parent and child both enqueue after the fork: every True is one event, in the order of each of the two."""
    proxy.delay(0.1)
    program = programs("fork", config=make_config(proxy.url), part="produce")

    assert await program.ended() == 0, program.describe()

    assert ["in flight", True] in program.journal
    assert said(program, "parent") == [True] * 60
    assert said(program, "child") == [True] * 8
    numbers = await take_numbers(make_redis_queue(), 69)
    assert [number for number in numbers if number < 1000] == list(range(61))
    assert [number for number in numbers if number >= 1000] == list(range(1000, 1008))


async def test_a_forked_child_is_a_consumer_of_its_own(
    programs: Programs, make_config: MakeConfig, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """What the parent holds or has buffered is not handed out again by the child; nothing is lost or left behind."""
    await make_redis_queue().enqueue_many(events(3))
    program = programs("fork", config=make_config(prefetch=10), part="consume")

    assert await program.ended() == 0, program.describe()

    assert said(program, "parent") == [0]
    assert sorted(str(number) for number in said(program, "child")) == ["1", "2"]
    assert await stored.empty()
    assert await stored.consumers() == {}


@pytest.mark.slow
async def test_a_rollout_may_be_forked(
    programs: Programs, make_config: MakeConfig, make_redis_queue: MakeQueue, stored: StoredQueue
) -> None:
    """The child has two queues of its own, and leaves alone what the parent holds of either."""
    rollout = {"percentage": 100, "old": {"name": "old"}, "new": {}}
    config = make_config(type="rollout", rollout=rollout, prefetch=10)
    await make_redis_queue().enqueue_many(events(3))
    program = programs("fork", config=config, part="consume")

    assert await program.ended() == 0, program.describe()

    assert said(program, "parent") == [0]
    assert sorted(str(number) for number in said(program, "child")) == ["1", "2"]
    assert await stored.empty()
    assert await stored.consumers() == {}
