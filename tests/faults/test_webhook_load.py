"""The webhook receiver of the docs under load, with Redis away in the middle: its answers, and what they are worth."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.processes import Programs
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from tests.support.webhook_receiver import CONFIG, SECRET, WebhookReceiver

pytestmark = [pytest.mark.integration, pytest.mark.faults]
ANSWERS = {"valid": 202, "repeated": 202, "bad_signature": 401, "no_id": 400, "no_json": 400}
SLOWEST = 1.0


@dataclass(frozen=True)
class Request:
    """One request: when it was due, what it was and what became of it; times in seconds."""

    due: float
    latency: float
    kind: str
    delivery_id: str
    status: int


@dataclass(frozen=True)
class Load:
    """How much comes in, for how long, and when Redis is away; seconds after the start.

    Attributes:
        rate: Requests per second.
        seconds: How long.
        away: From when to when Redis is away.
        how: `kill` breaks its connections and refuses new ones; `stop` lets everybody wait.
        spool: Whether what comes in meanwhile is held on disk, or else in the receiver's memory.
    """

    rate: float
    seconds: float
    away: tuple[float, float]
    how: str = "kill"
    spool: bool = True


@pytest.fixture
def example(tmp_path: Path, start_server: StartServer) -> Iterator[tuple[WebhookReceiver, RedisServer]]:
    """The example, and the server that it uses, which has on disk what it has answered for."""
    server = start_server(appendonly="yes", appendfsync="always")
    made = WebhookReceiver(server.url, tmp_path)
    yield made, server
    made.end()


async def take_away(server: RedisServer, load: Load, requests_started: float) -> None:
    """Take the server away, and bring it back, at the times that the load says."""
    loop = asyncio.get_running_loop()
    leaves, returns = (server.kill, server.start) if load.how == "kill" else (server.pause, server.resume)
    for action, at in ((leaves, load.away[0]), (returns, load.away[1])):
        await asyncio.sleep(requests_started + at - loop.time())
        await asyncio.to_thread(action)


async def send(load: Load, port: int, server: RedisServer, programs: Programs) -> list[Request]:
    """Send the load while the server goes and comes back; return what became of each request."""
    sender = programs(
        "post_webhooks", port=port, secret=SECRET, rate=load.rate, seconds=load.seconds, seed=int(load.rate)
    )
    await sender.until(1, 60)
    await take_away(server, load, asyncio.get_running_loop().time())
    assert await sender.ended(load.seconds + 60) == 0, sender.describe()
    return [Request(*each) for each in sender.journal[1][1]]


def percentile(latencies: list[float], percent: int) -> float:
    """Return the latency that so many percent do not exceed."""
    return statistics.quantiles(latencies, n=100, method="inclusive")[percent - 1]


def figures(load: Load, requests: list[Request]) -> str:
    """Say how the load was answered, for the record."""
    lines = []
    for name, (start, end) in {"all": (0.0, load.seconds), "away": load.away}.items():
        chosen = [each for each in requests if ANSWERS[each.kind] == 202 and start <= each.due < end]
        taken = [each.latency for each in chosen if each.status == 202]
        if len(taken) < 2:
            lines.append(f"{name}: {len(taken)} of {len(chosen)} taken")
            continue
        p50, p99 = percentile(taken, 50), percentile(taken, 99)
        lines.append(
            f"{name}: {len(taken)} of {len(chosen)} taken, p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, "
            f"max {max(taken) * 1000:.0f} ms"
        )
    return f"{load}\n" + "\n".join(lines) + f"\n{Counter((each.kind, each.status) for each in requests)}"


def check_answers(load: Load, requests: list[Request]) -> None:
    """Nearly all valid webhooks are taken while Redis is away, soon; each other answer is the right one."""
    assert len(requests) == int(load.rate * load.seconds)
    wrong = Counter((each.kind, each.status) for each in requests if each.status not in {ANSWERS[each.kind], 503})
    assert wrong == Counter()
    valid = [each for each in requests if each.kind == "valid" and load.away[0] <= each.due < load.away[1]]
    assert len(valid) > 0.8 * load.rate * (load.away[1] - load.away[0])
    taken = [each for each in valid if each.status == 202]
    assert len(taken) >= 0.99 * len(valid), figures(load, requests)
    assert percentile([each.latency for each in valid], 99) <= SLOWEST, figures(load, requests)
    assert percentile([each.latency for each in requests], 99) <= SLOWEST, figures(load, requests)


async def check_effects(example: WebhookReceiver, requests: list[Request]) -> None:
    """Every delivery that was answered 202 has its effects, and they happened once."""
    taken = {each.delivery_id for each in requests if each.status == 202}
    sent = {each.delivery_id for each in requests if ANSWERS[each.kind] == 202}
    await wait_until(lambda: taken <= example.effects().keys(), 60, what=lambda: len(taken - example.effects().keys()))
    effects = example.effects()
    assert effects.keys() <= sent
    assert set(effects.values()) == {1}


def without_spool(directory: Path) -> Path:
    """Return the example's configuration without its spool."""
    lines = CONFIG.read_text("utf-8").splitlines(keepends=True)
    changed = directory / "without_spool.yaml"
    changed.write_text("".join(line for line in lines if not line.lstrip().startswith("spool:")), "utf-8")
    return changed


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(rate=100, seconds=12, away=(4, 8), how="stop"), id="stopped", marks=pytest.mark.slow),
        pytest.param(
            Load(rate=100, seconds=12, away=(4, 8), spool=False), id="killed-without-a-spool", marks=pytest.mark.slow
        ),
        pytest.param(Load(rate=200, seconds=30, away=(10, 20)), id="killed", marks=pytest.mark.slow),
        pytest.param(Load(rate=500, seconds=60, away=(20, 40)), id="full-load", marks=pytest.mark.load),
    ],
)
async def test_webhooks_are_taken_while_redis_is_away(
    example: tuple[WebhookReceiver, RedisServer], programs: Programs, load: Load
) -> None:
    """Under load Redis goes and comes back: valid webhooks are taken all the while, and have their effects once."""
    parts, server = example
    if not load.spool:
        parts.environment["STREAMS_QUEUE_CONFIG"] = str(without_spool(parts.directory))
    options = ("--no-access-log", "--timeout-keep-alive", "75")
    receiver = await asyncio.to_thread(parts.start_receiver, *options)
    parts.start_worker()
    requests = await send(load, receiver.port, server, programs)
    print(figures(load, requests))
    check_answers(load, requests)
    await check_effects(parts, requests)
