"""Measuring other queues: what cannot be measured is reported, and ours is used as the others are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks import children, environments, harness, report, scenarios
from benchmarks.harness import run_scenario
from benchmarks.model import Case, Figures, Result, Scenario, Side
from benchmarks.peers import measures, streams_queue
from benchmarks.peers.contract import in_tasks, unacknowledged, undeleted
from streams_queue.embedded import EmbeddedServer
from tests.support.servers import CHECKOUT
from tests.support.waiting import wait_until

REQUIREMENTS = Path(measures.__file__).parent / "requirements"


def test_each_peer_has_a_module_and_an_environment() -> None:
    """One that was forgotten in one place would be missing without a word."""
    modules = {path.stem for path in REQUIREMENTS.parent.glob("*.py")} - {"__init__", "contract", "measures"}
    assert {path.stem for path in REQUIREMENTS.iterdir()} == set(measures.OTHERS)
    assert modules == {*measures.OTHERS, measures.OURS}


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.iterdir()), ids=lambda path: path.stem)
def test_what_is_measured_is_pinned_and_names_no_host(path: Path) -> None:
    """A figure is worth something if it can be measured again, by anybody."""
    for line in path.read_text("utf-8").splitlines():
        name, separator, version = line.partition("==")
        assert (separator, bool(version)) == ("==", True)
        assert not set(name + version) & set("/:@ ")


@pytest.mark.parametrize("name", [name for name in scenarios.names() if scenarios.is_about_peers(name)])
def test_ours_is_wanted_ahead_of_each_peer(name: str) -> None:
    """In all metrics but processor time."""
    _, scenario = scenarios.load(name)
    metrics = {metric for metric in scenario.units if "CPU" not in metric}
    assert {(target.metric, target.against) for target in scenario.targets} == {
        (metric, other) for metric in metrics for other in measures.OTHERS
    }
    assert {side.environment for side in scenario.sides.values()} == set(scenario.sides)


def test_an_environment_says_why_it_is_not_there(tmp_path: Path) -> None:
    """Not tried, tried in vain, ready."""
    with pytest.raises(environments.NotInstalledError, match="make bench-peers"):
        environments.interpreter("arq", tmp_path)
    (tmp_path / "arq.log").write_text("Collecting arq\nERROR: No matching distribution found for arq==0.28.0\n")
    with pytest.raises(environments.NotInstalledError, match="No matching distribution found for arq"):
        environments.interpreter("arq", tmp_path)
    (tmp_path / "arq").mkdir()
    (tmp_path / "arq" / ".ready").touch()
    assert environments.interpreter("arq", tmp_path) == str(tmp_path / "arq" / "bin" / "python")
    assert environments.interpreter("", tmp_path) == sys.executable


async def _never(_case: Case) -> Figures:
    raise AssertionError


def _run(side: Side) -> Result:
    """Measure a side that fails beside one that does not."""
    _, scenario = scenarios.load("import_time")
    sides = {"fails": side, "nothing": scenario.sides["nothing"]}
    small: Scenario = replace(scenario, sides=sides, targets=())
    return run_scenario("import_time", small, quick=True, runs=2, loop="asyncio")


@pytest.mark.integration
def test_a_peer_that_is_not_installed_is_reported_and_the_others_are_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not hidden: it stands in the table."""
    result = _run(Side(_never, environment="no-such-queue"))
    assert [(failure.side, failure.reason) for failure in result.failures] == [
        ("fails", "not installed; try: make bench-peers")
    ]
    assert {(row.side, row.runs) for row in result.rows} == {("nothing", 2)}
    report.show("import_time", "?", result)
    printed = capsys.readouterr().out
    assert "not measured" in printed
    assert "make bench-peers" in printed


@pytest.mark.integration
def test_a_peer_that_crashes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ends before it answers: the child finds no such side."""
    monkeypatch.setattr(children, "interpreter", lambda _environment: sys.executable)
    result = _run(Side(_never, environment="broken"))
    assert "ended with 1" in result.failures[0].reason
    assert {row.side for row in result.rows} == {"nothing"}


@pytest.mark.integration
def test_a_side_of_our_own_that_crashes_ends_the_run() -> None:
    """Only peers may be missing."""
    with pytest.raises(children.SideError, match="ended with 1"):
        _run(Side(_never))


class _Scripted:
    """A contender without processes: its figure is the backlog that it was given, and one of its runs may fail."""

    def __init__(self, _scenario: str, name: str, side: Side, _loop: str) -> None:
        self.name, self.side = name, side
        self._runs = 0

    def run(self, case: Case, *, fresh: bool) -> children.Run:
        self._runs += 1
        if self.name == "fails later" and self._runs == 3:
            raise children.SideError("ImportError: later")
        return children.Run({"seen": float(case.backlog)}, {}, {"python": "3"})

    def close(self) -> None:
        pass

    def abandon(self, _error: children.SideError) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Result:
    """Measure scripted contenders."""
    monkeypatch.setattr(harness, "Contender", _Scripted)
    sides = {
        "as the case says": Side(_never),
        "changed": Side(_never, changes={"backlog": 1_000}),
        "fails later": Side(_never, environment="peer"),
    }
    case = Case(backlog=5, events=1)
    scenario = Scenario(units={"seen": "events"}, cases=[case], quick_cases=[case], sides=sides)
    return run_scenario("backlog", scenario, quick=True, runs=3, loop="asyncio")


@pytest.mark.integration
def test_a_side_can_change_the_case_and_its_rows_say_so(scripted: Result) -> None:
    """What is measured and what is written down are the same."""
    assert [(row.side, row.median, row.backlog) for row in scripted.rows] == [
        ("as the case says", 5.0, 5),
        ("changed", 1_000.0, 1_000),
    ]


@pytest.mark.integration
def test_a_peer_that_fails_after_some_runs_has_no_figures(scripted: Result) -> None:
    """Two good runs and a bad one are not three runs; the reason stands in the table."""
    assert [(failure.side, failure.reason) for failure in scripted.failures] == [("fails later", "ImportError: later")]
    assert "fails later" not in {row.side for row in scripted.rows}


async def test_tasks_share_the_events_and_each_is_enqueued_once() -> None:
    """As many at once as there are tasks."""
    seen: list[Any] = []
    at_once = most = 0

    async def enqueue(event: dict[str, Any]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        seen.append(event["number"])
        at_once -= 1

    await in_tasks(enqueue, [{"number": number} for number in range(20)], tasks=5)
    assert sorted(seen) == list(range(20))
    assert most == 5


@pytest.fixture
def url() -> Any:
    """Start a server."""
    with EmbeddedServer() as server:
        yield server.url


@pytest.mark.integration
async def test_what_is_left_is_counted_by_the_queue_s_own_records(url: str) -> None:
    """Staged events are left until the last one is acknowledged; ours goes the way of all peers."""
    async with Redis.from_url(url) as client:
        assert await streams_queue.left(client) == 0
        async with streams_queue.produce(url) as producer:
            await producer.stage([{"number": number} for number in range(5)])
            await producer.enqueue({"number": 5})
        assert await streams_queue.left(client) == 6
        seen: list[int] = []

        async def handle(event: dict[str, Any]) -> None:
            seen.append(event["number"])

        async def nothing_is_left() -> bool:
            return await streams_queue.left(client) == 0

        async with streams_queue.work(url, handle, 2):
            await wait_until(nothing_is_left)
        assert sorted(seen) == list(range(6))


@pytest.mark.integration
async def test_streams_that_keep_what_is_done_are_counted_by_their_group(url: str) -> None:
    """All without a group; then what is pending, and what the group has not got."""
    async with Redis.from_url(url) as client:
        for _ in range(4):
            await client.xadd("kept", {"a": 1})
        assert await unacknowledged(client, "kept", "group") == 4
        await client.xgroup_create("kept", "group", "0")
        [[_, [first, _second]]] = await client.xreadgroup("group", "one", {"kept": ">"}, count=2)
        assert await unacknowledged(client, "kept", "group") == 4
        await client.xack("kept", "group", first[0])
        assert await unacknowledged(client, "kept", "group") == 3
        await client.xtrim("kept", maxlen=0)
        assert await undeleted(client, "kept", "group") == 1
        assert await undeleted(client, "nowhere", "group") == 0


@pytest.mark.integration
@pytest.mark.parametrize("measure", [measures.staging, measures.draining])
async def test_ours_is_measured_as_the_others_are(measure: Any, url: str) -> None:
    """All events, counted at both ends."""
    figures = await measure(measures.OURS, Case(events=200, concurrency=10, url=url))
    assert figures["throughput"] > 0


@pytest.mark.parametrize("scenario", ["peers_draining", "peers_idle_latency", "peers_staging"])
def test_a_scenario_loads_where_none_of_our_dependencies_is(scenario: str) -> None:
    """The environments of other queues have what those need."""
    missing = "import sys; sys.modules |= dict.fromkeys(('msgspec', 'tenacity', 'opentelemetry', 'yaml'))"
    used = f"import benchmarks.scenarios.{scenario}; from benchmarks.payloads import payloads; payloads('8 KB', 1)"
    subprocess.run([sys.executable, "-c", f"{missing}; {used}"], cwd=CHECKOUT, check=True)
