"""What config/ ships to run servers and workers: it is valid, it fits together, and its way to stop loses nothing."""

from __future__ import annotations

import asyncio
import configparser
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml

from streams_queue import QueueFactory, QueueStats
from tests.conftest import StartServer
from tests.support.builders import events, queue_config
from tests.support.logins import PASSWORD
from tests.support.waiting import wait_until_sync

CONFIG = Path(__file__).resolve().parents[2] / "config"
UNITS = sorted((CONFIG / "systemd").glob("*.service"))
# What the supervisor gives processes that do not end by themselves, after the handlers' time is over.
MARGIN = 20
COMMAND = [sys.executable, "-c", "from streams_queue.cli import main; main()"]
HANDLER = """
import asyncio, os

journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def handle(event: dict) -> None:
    os.write(journal, f"begun {event['n']}\\n".encode())
    await asyncio.sleep(0.3)
    os.write(journal, f"finished {event['n']}\\n".encode())
"""


def unit(name: str) -> dict[str, str]:
    """Return the section [Service] of a unit."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(CONFIG / "systemd" / name, encoding="utf-8")
    return dict(parser["Service"])


def option(words: list[str], name: str) -> str:
    """Return the value of an option in a command line."""
    return words[words.index(name) + 1]


def compose() -> dict[str, Any]:
    """Return the services of the compose file."""
    return dict(yaml.safe_load((CONFIG / "compose.yaml").read_text("utf-8"))["services"])


def kubernetes() -> list[dict[str, Any]]:
    """Return what the Kubernetes file declares."""
    return list(yaml.safe_load_all((CONFIG / "kubernetes" / "worker.yaml").read_text("utf-8")))


def container() -> dict[str, Any]:
    """Return the container of the Deployment."""
    (found,) = kubernetes()[0]["spec"]["template"]["spec"]["containers"]
    return dict(found)


# --- valid ---


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd")
@pytest.mark.parametrize("shipped", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(shipped: Path, tmp_path: Path) -> None:
    """Without an error or a warning; only the programs, which are not installed here, are others."""
    text, program = shipped.read_text("utf-8"), shlex.split(unit(shipped.name)["ExecStart"])[0]
    copy = tmp_path / shipped.name
    copy.write_text(text.replace(program, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    copy.write_text(copy.read_text().replace("KillMode=", "KilMode="))
    broken = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, check=False
    )
    assert "KilMode" in broken.stderr


def test_compose_takes_its_file(tmp_path: Path) -> None:
    """By the schema of the Compose Specification, which refuses what it does not know."""
    assert _by_schema(CONFIG / "compose.yaml") == 0
    broken = tmp_path / "compose.yaml"
    broken.write_text((CONFIG / "compose.yaml").read_text("utf-8").replace("stop_grace_period", "stop_grace_perod"))
    assert _by_schema(broken) == 1


def _by_schema(file: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", check_jsonschema.__name__, "--builtin-schema", "vendor.compose-spec", file],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode


def test_kubernetes_takes_its_file() -> None:
    """By the schemas of its API, strictly: what they do not know is refused."""
    for declared in kubernetes():
        kubernetes_validate.validate(declared, kubernetes_validate.latest_version(), strict=True)
    broken = kubernetes()[0]
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 100
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


# --- fits together ---


def test_whatever_stops_a_worker_gives_its_handlers_time() -> None:
    """More than their timeout, and what closing may take after it."""
    ours = unit("streams-queue-worker.service")
    worker = compose()["worker"]
    pod = kubernetes()[0]["spec"]["template"]["spec"]
    given = {
        "systemd": (float(ours["TimeoutStopSec"]), shlex.split(ours["ExecStart"])),
        "compose": (float(worker["stop_grace_period"].removesuffix("s")), worker["command"]),
        "kubernetes": (float(pod["terminationGracePeriodSeconds"]), container()["args"]),
    }
    for seconds, words in given.values():
        assert seconds >= float(option(words, "--handler-timeout")) + MARGIN
    assert worker["stop_signal"] == ours["KillSignal"] == "SIGTERM"


def test_probes_ask_where_the_worker_answers() -> None:
    """The port of the probes is that of --metrics-port; ready is asked, and alive does not depend on the server."""
    found = container()
    (port,) = found["ports"]
    assert str(port["containerPort"]) == option(found["args"], "--metrics-port")
    assert option(found["args"], "--metrics-host") == "0.0.0.0"
    asked = {name: found[name]["httpGet"] for name in ("readinessProbe", "startupProbe", "livenessProbe")}
    assert {probe["port"] for probe in asked.values()} == {port["name"]}
    assert [probe["path"] for probe in asked.values()] == ["/readyz", "/healthz", "/healthz"]
    worker = compose()["worker"]
    assert f":{option(worker['command'], '--metrics-port')}/readyz" in worker["healthcheck"]["test"][-1]


def test_everything_mounted_is_shipped_or_told_to_be_made() -> None:
    """The compose file's own files are beside it; what it says to make is under secrets/."""
    sources = [mount.split(":")[0] for service in compose().values() for mount in service.get("volumes", ())]
    files = [source for source in sources if source.startswith("./")]
    assert [file for file in files if not file.startswith("./secrets/") and not (CONFIG / file).exists()] == []


# --- stopping loses nothing ---


@pytest.fixture
def fleet(tmp_path: Path, start_server: StartServer) -> Iterator[subprocess.Popen[str]]:
    """Workers with 1000 events before them, started with the options of the unit."""
    url = start_server(appendonly="yes").url
    config = queue_config(type="redis", redis_url=url, lease=15)
    (tmp_path / "webhook_config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "deployed.py").write_text(HANDLER)
    (tmp_path / "journal").touch()

    async def fill() -> None:
        async with QueueFactory.create_queue(config) as queue:
            await queue.enqueue_many(events(1000))

    asyncio.run(fill())
    _, command, handler, *options = shlex.split(unit("streams-queue-worker.service")["ExecStart"])
    assert (command, handler) == ("worker", "gitbridge.tasks:handle")
    options[options.index("--config") + 1] = str(tmp_path / "webhook_config.yaml")
    process = subprocess.Popen(
        [*COMMAND, command, "deployed:handle", *options],
        cwd=tmp_path,
        env={**os.environ, "JOURNAL": str(tmp_path / "journal")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    for each in (*_family(process.pid),):
        each.kill()
    process.communicate(timeout=10)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def journal_of(folder: Path) -> Counter[str]:
    """Return how often each thing has happened."""
    return Counter((folder / "journal").read_text().splitlines())


@pytest.mark.integration
def test_workers_stopped_as_the_unit_says_lose_nothing(fleet: subprocess.Popen[str], tmp_path: Path) -> None:
    """In the midst of work: what was begun is finished, once; the rest waits, and no process is left."""
    ours = unit("streams-queue-worker.service")
    wait_until_sync(
        lambda: sum(line.startswith("finished") for line in journal_of(tmp_path)) >= 20 or fleet.poll() is not None, 60
    )
    assert fleet.poll() is None
    family = _family(fleet.pid)
    assert ours["KillMode"] == "mixed"
    # So the main process gets it, and no other.
    fleet.send_signal(getattr(signal, ours["KillSignal"]))
    assert fleet.wait(float(ours["TimeoutStopSec"])) == 0
    assert [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    happened = journal_of(tmp_path)
    assert set(happened.values()) == {1}
    begun = {line.split()[1] for line in happened if line.startswith("begun")}
    assert begun == {line.split()[1] for line in happened if line.startswith("finished")}
    stats = asyncio.run(_stats(tmp_path))
    assert (stats.waiting + len(begun), stats.in_flight, stats.delayed, stats.dead) == (1000, 0, 0, 0)
    assert 20 <= len(begun) < 1000


async def _stats(folder: Path) -> QueueStats:
    async with QueueFactory.create_queue(folder / "webhook_config.yaml") as queue:
        return await queue.stats()


@pytest.mark.integration
def test_a_server_stopped_as_the_unit_says_loses_nothing(start_server: StartServer, tmp_path: Path) -> None:
    """With the shipped configuration and the unit's signal; it is there again with all that it had accepted."""
    ours = unit("streams-queue-server.service")
    users = (CONFIG / "redis" / "users-7.2.acl").read_text("utf-8").replace("CHANGE-ME-TOO", "chief")
    (tmp_path / "users.acl").write_text(users.replace("CHANGE-ME", PASSWORD))
    server = start_server("valkey-9.1", include=CONFIG / "redis" / "redis.conf", aclfile=tmp_path / "users.acl")
    url = f"redis://gitbridge:{PASSWORD}@127.0.0.1:{server.port}/0"
    config = queue_config(type="redis", redis_url=url)

    async def fill() -> None:
        async with QueueFactory.create_queue(config) as queue:
            await queue.enqueue_many(events(500))

    async def left() -> int:
        async with QueueFactory.create_queue(config) as queue:
            return (await queue.stats()).waiting

    asyncio.run(fill())
    assert ours["KillMode"] == "mixed"
    process = psutil.Process(server.pid)
    process.send_signal(getattr(signal, ours["KillSignal"]))
    assert process.wait(float(ours["TimeoutStopSec"])) == 0
    server.restart()
    assert asyncio.run(left()) == 500
