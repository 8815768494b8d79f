"""Durability levels: what the server's answers mean."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from streams_queue.config import load_config
from streams_queue.errors import BackendRejected, ConfigError, NotDurable
from streams_queue.redis_client import from_reply, worth_retrying
from streams_queue.redis_queue.durability import Fsynced, Replicated, connected_replicas, level_of
from streams_queue.resilient_queue.recovery import goes_local
from tests.support.builders import queue_config


def role(*offsets: int) -> list[Any]:
    """Return a primary's reply to ROLE, with a replica for each acknowledged offset."""
    return [b"master", 100, [[b"127.0.0.1", b"%d" % (7000 + i), b"%d" % each] for i, each in enumerate(offsets)]]


@pytest.mark.parametrize(
    ("reply", "connected"),
    [
        (role(), 0),
        (role(100, 12), 2),
        (role(100, 0), 1),  # one that still loads its copy
        ([b"slave", b"127.0.0.1", 7000, b"connected", 100], 0),
        ([b"sentinel", [b"main"]], 0),
    ],
)
def test_a_replica_counts_once_it_has_acknowledged_something(reply: list[Any], connected: int) -> None:
    """Being listed is not enough, and who is no primary has none."""
    assert connected_replicas(reply) == connected


def test_all_connected_replicas_are_wanted_and_at_least_min_replicas() -> None:
    """What is connected is seen with every answer, and counts for that answer and for the next wait."""
    level = Replicated(2)
    assert level.wait(50) == (("WAIT", 2, 50), ("ROLE",))

    assert level.missing([2, role(9, 9, 9)]) == "2 of 3 replicas have it (3 connected)"
    assert level.wait(50) == (("WAIT", 3, 50), ("ROLE",))
    assert level.missing([2, role(9, 9)]) == ""
    assert level.missing([1, role(9)]) == "1 of 2 replicas have it (1 connected)"


def test_a_server_that_does_not_say_how_many_replicas_there_are_leaves_min_replicas() -> None:
    """What was seen before is not forgotten."""
    level = Replicated(1)
    denied = BackendRejected("no permissions to run the 'role' command", code="NOPERM")
    assert level.missing([1, denied]) == ""
    assert level.missing([0, denied]) == "0 of 1 replicas have it (0 connected)"


@pytest.mark.parametrize(
    ("reply", "missing"),
    [
        ([1, 1], ""),
        ([1, 2], ""),
        ([0, 1], "the server has not written it to disk"),
        ([1, 0], "only 0 of 1 replicas have written it to disk"),
    ],
)
def test_fsynced_needs_the_servers_disk_and_those_of_min_replicas(reply: list[int], missing: str) -> None:
    """Both counts of WAITAOF have to be high enough."""
    assert Fsynced(1).missing([reply]) == missing


@pytest.mark.parametrize(
    ("queue", "wait"),
    [
        ({}, None),
        ({"durability": "accepted", "min_replicas": 3}, None),
        ({"durability": "replicated"}, ("WAIT", 1, 9)),
        ({"durability": "replicated", "min_replicas": 0}, ("WAIT", 0, 9)),
        ({"durability": "replicated", "min_replicas": 2}, ("WAIT", 2, 9)),
        ({"durability": "fsynced"}, ("WAITAOF", 1, 0, 9)),
        ({"durability": "fsynced", "min_replicas": 2}, ("WAITAOF", 1, 2, 9)),
    ],
)
def test_the_configuration_says_what_is_waited_for(queue: dict[str, Any], wait: tuple[Any, ...] | None) -> None:
    """By default nothing; a replica with `replicated`, the server's own disk with `fsynced`."""
    level = level_of(load_config(queue_config(type="redis", **queue)))

    assert (level and level.wait(9)[0]) == wait


@pytest.mark.parametrize(
    ("queue", "problem"),
    [
        ({"durability": "wait"}, "queue.durability: durability must be one of accepted, replicated, fsynced"),
        ({"min_replicas": -1}, "queue.min_replicas: min_replicas must be non-negative"),
        (
            {"type": "asyncio", "durability": "fsynced"},
            "queue.durability: durability needs a server, and an asyncio queue has none",
        ),
    ],
)
def test_a_wrong_level_is_a_configuration_error(queue: dict[str, Any], problem: str) -> None:
    """A typo must not turn into a weaker promise."""
    with pytest.raises(ConfigError) as raised:
        load_config(queue_config(**queue))

    assert raised.value.problems == (problem,)


def test_a_replica_refuses_for_now() -> None:
    """It has no code for it; after a failover the server to ask is another one."""
    refusal = from_reply(ResponseError("WAIT cannot be used with replica instances. Please also note that …"))

    assert isinstance(refusal, BackendRejected)
    assert (refusal.code, refusal.passing, worth_retrying(refusal)) == ("READONLY", True, True)


def test_what_is_not_durable_is_no_case_for_the_local_queue() -> None:
    """The server holds the event, whatever else is missing."""
    assert not goes_local(NotDurable())


def test_an_error_about_a_part_of_a_call_can_say_what_came_before() -> None:
    """Receipts and the count of the durable ones grow at the front."""
    error = NotDurable("why", ["c", "d"], durable=1).after(["a", "b"])

    assert str(error) == "why"
    assert (error.receipts, error.durable, error.receipt) == (("a", "b", "c", "d"), 3, "d")
    assert NotDurable().receipt is None
