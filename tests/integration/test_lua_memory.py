"""With no memory left: what needs none on balance runs to its end, what needs some is refused whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.conftest import StartServer
from tests.support.builders import Keys
from tests.support.scripts_alone import GROUP, ME, OTHER, ScriptsAlone, look

pytestmark = pytest.mark.integration


@pytest.fixture
def alone(start_server: StartServer, keys: Keys) -> Iterator[ScriptsAlone]:
    """A queue on a server of its own: `a` is held by this consumer, `b` was left behind, `c` waits."""
    with redis.Redis(port=start_server().port, socket_timeout=10) as raw:
        scripts = ScriptsAlone(raw, keys)
        scripts.open()
        scripts.enqueue("a", "b", "c")
        scripts.read(1)
        scripts.claim(*scripts.read(1, OTHER), OTHER, idle_ms=60_000)
        raw.config_set("maxmemory", 1)
        yield scripts


def held(alone: ScriptsAlone) -> str:
    """Return the entry id of `a`."""
    return next(iter(alone.pending()))


def test_events_are_settled(alone: ScriptsAlone) -> None:
    """A retry is written although there is no room for it: its own entry goes in the same step."""
    assert alone.run("nack", GROUP, ME, held(alone), 1, 60_000, 1) == b"held"
    assert alone.look() == look("c", [("b", OTHER, 1)], "a", enqueued=3, retried=1)


def test_events_are_given_back(alone: ScriptsAlone) -> None:
    """At the end of the line, as ever."""
    assert alone.run("release", GROUP, ME, held(alone), 1) == [b"held"]
    assert alone.look() == look("c a", [("b", OTHER, 1)], enqueued=3, released=1)


def test_events_are_buried(alone: ScriptsAlone) -> None:
    """What can never be processed does not stay in flight for want of memory."""
    assert alone.run("dead_letter", GROUP, ME, held(alone), 1, "rejected", "", 100, "refuse", 1000) == b"held"
    assert alone.look() == look("c", [("b", OTHER, 1)], dead=[("a", "rejected")], enqueued=3, died=1)


def test_what_a_crashed_consumer_left_is_claimed(alone: ScriptsAlone) -> None:
    """Housekeeping leaves its times behind, and needs no more than that."""
    arguments: tuple[Any, ...] = (GROUP, ME, 1000, 10, 1, 0, 0, 4, 100, "refuse", 1000, 10**15, 0)
    entries = alone.run("maintain", *arguments)[0]
    assert [fields[1] for _, _, fields in entries] == [b"b"]
    assert alone.look() == look("c", [("a", ME, 1), ("b", ME, 2)], enqueued=3, reclaimed=1)


def test_a_batch_is_refused_whole(alone: ScriptsAlone) -> None:
    """Nothing of it is written or remembered, so that it may come again."""
    before = alone.dump()
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        alone.enqueue("d", "e", specials="1,1000,;")
    assert alone.dump() == before


def test_a_full_queue_says_so(alone: ScriptsAlone) -> None:
    """The answer to a batch of which nothing is accepted needs no memory."""
    assert alone.enqueue("d", max_size=3)[:3] == [b"ok", 3, b"F"]
