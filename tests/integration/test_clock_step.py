"""The clocks that tests step: what the helpers promise holds on every server, and on the emulator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from tests.conftest import StartServer
from tests.support.clock_step import FakeredisClock, ServerClock

HOURS = 7200.0


def ahead(seconds_and_micros: Any) -> float:
    """Return by how much a server's TIME is ahead of ours."""
    seconds, micros = seconds_and_micros
    return float(seconds) + micros / 1e6 - time.time()


def test_a_server_follows_its_stepped_clock(start_server: StartServer, tmp_path: Path) -> None:
    """TIME and the idle times of pending entries jump with it; what lies in its future has been idle for no time."""
    clock = ServerClock(tmp_path)
    server = start_server(clock=clock)
    server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    server.command("XADD", "s", "*", "field", "value")
    server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")

    clock.step(HOURS)
    assert ahead(server.command("TIME")) == pytest.approx(HOURS, abs=1)
    assert idle_ms(server) >= HOURS * 1000
    clock.step(-2 * HOURS)
    assert ahead(server.command("TIME")) == pytest.approx(-HOURS, abs=1)
    assert idle_ms(server) == 0


def idle_ms(server: Any) -> int:
    """Return for how long the one pending entry has been idle."""
    ((_, _, idle, _),) = server.command("EVAL", "return redis.call('XPENDING', 's', 'g', '-', '+', 1)", 0)
    return int(idle)


def test_fakeredis_follows_its_stepped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """TIME, in Lua too, and the idle times of pending entries jump with it; this process's own time does not."""
    clock, begun = FakeredisClock(monkeypatch), time.time()
    client = fakeredis.FakeRedis()
    client.xgroup_create("s", "g", "0", mkstream=True)
    client.xadd("s", {"field": "value"})
    client.xreadgroup("g", "c", {"s": ">"})

    clock.step(HOURS)

    assert ahead(client.time()) == pytest.approx(HOURS, abs=1)
    lua: Any = client.eval("return redis.call('TIME')", 0)
    assert ahead([int(part) for part in lua]) == pytest.approx(HOURS, abs=1)
    (entry,) = client.xpending_range("s", "g", "-", "+", 1)
    assert entry["time_since_delivered"] >= HOURS * 1000
    assert time.time() - begun < HOURS
