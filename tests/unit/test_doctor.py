"""The doctor's judgement, without a server: what was seen goes in, findings come out."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import streams_queue.doctor.findings
from streams_queue import load_config
from streams_queue.config import Settings
from streams_queue.doctor import Level, Seen, Unusable, findings_about
from streams_queue.doctor.seen import Consumer, OnServer, Server
from tests.support.builders import queue_config

CHECKOUT = Path(__file__).resolve().parents[2]
INFO = {"maxmemory": str(2**30), "used_memory": "1000000", "maxmemory_policy": "noeviction", "aof_enabled": "1"}
WELL = Server(address="here:6379", info=INFO, config={"save": "", "appendfsync": "everysec", "timeout": "0"})


def settings(**queue: Any) -> Settings:
    """Return GitBridge's settings, with some of them changed."""
    return load_config(queue_config(type="redis", redis_url="redis://here", **{"timeout": 30, "lease": 15, **queue}))


def server(**seen: Any) -> Server:
    """Return a server that is well but for what is given; `info` and `config` are added to what is there."""
    merged = {name: {**getattr(WELL, name), **seen.pop(name)} for name in ("info", "config") if name in seen}
    return dataclasses.replace(WELL, **merged, **seen)


def found(on: Server = WELL, queue: OnServer | None = None, **config: Any) -> list[tuple[str, str]]:
    """Return level and name of what is found."""
    seen = Seen(server=on, queue=queue or OnServer())
    return [(str(each.level), each.check) for each in findings_about(seen, settings(**config))]


def test_nothing_is_said_about_what_is_well() -> None:
    """An empty queue, one at work, and a user who sees little."""
    busy = OnServer(
        waiting=10, in_flight=5, groups=("processors",), schema="1", consumers=(Consumer(name="c", pending=5, idle=1),)
    )
    assert found() == found(queue=busy) == found(server(), busy) == []
    assert found(Server(address="here:6379")) == []


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (server(lacks=("something",)), ("error", "version")),
        (server(mode="cluster"), ("error", "mode")),
        (server(mode="sentinel"), ("error", "mode")),
        (server(is_primary=False), ("error", "replica")),
        (server(refusal="MISCONF"), ("error", "writes")),
        (server(info={"maxmemory_policy": "volatile-lru"}), ("error", "eviction")),
        (server(info={"aof_enabled": "0"}), ("error", "persistence")),
        (server(info={"aof_enabled": "0"}, config={"save": "60 1"}), ("warning", "persistence")),
        (dataclasses.replace(server(info={"aof_enabled": "0"}), config={}), ("warning", "persistence")),
        (server(config={"appendfsync": "no"}), ("warning", "fsync")),
        (server(info={"aof_last_write_status": "err"}), ("error", "disk")),
        (server(info={"rdb_last_bgsave_status": "err"}), ("error", "disk")),
        (server(config={"timeout": "15"}), ("warning", "idle-timeout")),
        (server(round_trip=0.6), ("warning", "round-trip")),
        (server(clock_ahead=-2.1), ("warning", "clock")),
        (server(info={"maxmemory": "0"}), ("warning", "memory-limit")),
        (server(info={"maxmemory": str(150 * 2**20)}), ("warning", "memory")),
        (server(info={"maxmemory": str(50 * 2**20)}), ("error", "memory")),
    ],
)
def test_each_fault_of_a_server_is_found(on: Server, expected: tuple[str, str]) -> None:
    """And nothing beside it."""
    assert found(on) == [expected]


@pytest.mark.parametrize(
    ("queue", "config", "expected"),
    [
        (OnServer(denied={"eval": "no permissions to run the 'eval' command"}), {}, ("error", "permissions")),
        (OnServer(types={"gitbridge:{events}": "list"}), {}, ("error", "key-type")),
        (OnServer(schema="2"), {}, ("error", "schema")),
        (OnServer(schema="rubbish"), {}, ("error", "schema")),
        (OnServer(groups=("processors", "auditors")), {}, ("error", "other-group")),
        (OnServer(schema="1", waiting=3), {}, ("warning", "group")),
        (OnServer(expired=1), {}, ("warning", "stuck")),
        (OnServer(paused="intake"), {}, ("warning", "paused")),
        (OnServer(waiting=3, oldest_waiting=16.0), {}, ("warning", "no-consumer")),
        (OnServer(waiting=8, delayed=1), {"max_size": 10}, ("warning", "full")),
        (OnServer(waiting=8, in_flight=2), {"max_size": 10}, ("error", "full")),
        (OnServer(dead=8000), {}, ("warning", "dead-letters")),
        (OnServer(dead=10_000), {}, ("error", "dead-letters")),
        (OnServer(dead=10_000), {"dead_letter": {"when_full": "drop"}}, ("warning", "dead-letters")),
        (OnServer(old_lists={"gitbridge:events": 1}), {}, ("warning", "old-list")),
        (OnServer(), {"enqueue_timeout": 10}, ("warning", "enqueue-timeout")),
        (OnServer(), {"durability": "fsynced"}, ("error", "durability")),
        (OnServer(), {"durability": "replicated"}, ("error", "durability")),
    ],
)
def test_each_fault_of_a_queue_is_found(queue: OnServer, config: dict[str, Any], expected: tuple[str, str]) -> None:
    """And nothing beside it."""
    assert found(queue=queue, **config) == [expected]


@pytest.mark.parametrize(
    ("queue", "config"),
    [
        (OnServer(waiting=3, oldest_waiting=14.0), {}),
        (OnServer(waiting=3, oldest_waiting=60.0, consumers=(Consumer(name="c", pending=1, idle=3.0),)), {}),
        (OnServer(waiting=7), {"max_size": 10}),
        (OnServer(), {"max_size": 0}),
        (OnServer(dead=7999), {}),
        (OnServer(), {"durability": "replicated", "min_replicas": 0}),
    ],
)
def test_what_is_nearly_a_fault_is_none(queue: OnServer, config: dict[str, Any]) -> None:
    """Just under each bound."""
    assert found(queue=queue, **config) == []


@pytest.mark.parametrize(
    ("code", "check"), [("", "unreachable"), ("WRONGPASS", "login"), ("NOAUTH", "login"), ("LOADING", "refused")]
)
def test_a_server_that_cannot_be_asked_is_one_error(code: str, check: str) -> None:
    """With the reason, by the server's word."""
    (finding,) = findings_about(Unusable(address="here:6379", code=code, error="its word"), settings())
    assert (finding.level, finding.check) == (Level.ERROR, check)
    assert "its word" in finding.what


def test_the_worst_comes_first() -> None:
    """Errors before warnings."""
    levels = [level for level, _ in found(server(clock_ahead=9.0), OnServer(paused="intake", schema="2"))]
    assert levels == ["error", "warning", "warning"]


def test_each_finding_is_in_the_reference() -> None:
    """Its name, and nothing else, in the table of docs/reference/doctor.md."""
    source = Path(streams_queue.doctor.findings.__file__).read_text("utf-8")
    made = set(re.findall(r'_(?:error|warning)\)?\(\s*"([a-z-]+)"', source))
    page = (CHECKOUT / "docs" / "reference" / "doctor.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == made
