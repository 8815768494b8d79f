"""The page about rolling back by hand: its commands are run, in its order, while a service goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.builders import redis_config
from tests.support.processes import CHECKOUT, SCRIPTS
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration

PAGE = (CHECKOUT / "docs" / "how-to" / "roll-back-by-hand.md").read_text("utf-8")
BLOCK = re.compile(r"^```shell\n(.*?)^```", re.MULTILINE | re.DOTALL)
STEPS = [
    "Update configuration to use `asyncio` queue",
    "Drain Redis queue",
    "Process remaining items",
    "Switch to asyncio implementation",
]
SYSTEMCTL = """#!/bin/sh
test "$*" = "restart gitbridge" || exit 1
old=$(tail -n 1 service.pid)
kill -TERM "$old"
while kill -0 "$old" 2>/dev/null; do sleep 0.02; done
nohup {python} app.py >service.log 2>&1 &
while test "$(tail -n 1 service.pid)" = "$old"; do sleep 0.02; done
"""


class Service:
    """The service in its folder, and a shell there."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        shutil.copy(SCRIPTS / "service.py", folder / "app.py")
        config = redis_config(redis_url, namespace=f"back{uuid.uuid4().hex[:10]}")
        (folder / "webhook_config.yaml").write_text(yaml.safe_dump(config))
        commands = folder / "bin"
        commands.mkdir()
        (commands / "systemctl").write_text(SYSTEMCTL.format(python=sys.executable))
        (commands / "systemctl").chmod(0o755)
        self.environ = {**os.environ, "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.first = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=self.environ)

    def run(self, block: str) -> str:
        """Run a block of the page; it must end well. Returns what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def journal(self, name: str) -> list[str]:
        """Return the ids in a journal."""
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def end(self) -> None:
        """Stop what runs of it."""
        self.first.poll()
        try:
            os.kill(int(self.journal("service.pid")[-1]), signal.SIGKILL)
        except (ProcessLookupError, IndexError):
            pass
        self.first.kill()
        self.first.wait(10)


@pytest.fixture
def service(tmp_path: Path, redis_url: str) -> Iterator[Service]:
    """A service that takes in events and works on them."""
    service = Service(tmp_path, redis_url)
    # Someone must notice its end, or its pid stays.
    reaper = signal.signal(signal.SIGCHLD, lambda *_: service.first.poll())
    yield service
    signal.signal(signal.SIGCHLD, reaper)
    service.end()


def test_the_page_has_the_steps_of_the_plan() -> None:
    """In its order, each with its commands."""
    titles = re.findall(r"^## \d\. (.*)$", PAGE, re.MULTILINE)
    assert titles == STEPS
    assert len(BLOCK.findall(PAGE)) == len(STEPS)


def difference(accepted: list[str], done: list[str]) -> str:
    """Say what is missing and what is too much."""
    return f"missing {Counter(accepted) - Counter(done)}, too much {Counter(done) - Counter(accepted)}"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_page_rolls_back_under_load(service: Service) -> None:
    """Every event that was accepted is handled once, before the switch or after it; the bad ones are in the file."""
    wait_until_sync(lambda: len(service.journal("accepted")) > 210, 20)
    answers = [service.run(block) for block in BLOCK.findall(PAGE)]
    switched = len(service.journal("accepted"))
    wait_until_sync(lambda: len(service.journal("accepted")) > switched + 50, 20)
    (service.folder / "enough").touch()

    lines = [json.loads(line) for line in (service.folder / "remaining.jsonl").read_text().splitlines()[1:-1]]
    remaining = [json.loads(line["payload"])["id"] for line in lines]
    assert {line["reason"] for line in lines} == {"bad"}
    assert len(remaining) == 10
    wait_until_sync(
        lambda: Counter(service.journal("handled") + remaining) == Counter(service.journal("accepted")),
        20,
        what=lambda: difference(service.journal("accepted"), service.journal("handled") + remaining),
    )
    assert "yes" in answers[-1]
    assert len({event_id.partition("-")[0] for event_id in service.journal("accepted")}) == 2
