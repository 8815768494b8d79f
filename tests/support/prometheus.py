"""A real Prometheus, the machine's own, and its promtool; and the dashboard that is made for it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import free_port
from tests.support.waiting import wait_until_sync

CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = CHECKOUT / "config" / "prometheus"
DASHBOARD = CHECKOUT / "config" / "grafana" / "streams-queue.json"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="Debian's package prometheus, which has promtool, is missing"
)
START_TIMEOUT = 60.0


class RunningPrometheus:
    """One Prometheus with data of its own.

    Args:
        folder: For its configuration and data.
        config: Its configuration; files that it names lie in the folder.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self._folder = folder
        self._file = folder / "prometheus.yml"
        self._process: subprocess.Popen[str] | None = None
        self.configure(config)
        self._log: list[str] = []
        self._port = 0

    def configure(self, config: dict[str, Any]) -> None:
        """Take another configuration; at once, if it runs."""
        self._file.write_text(yaml.safe_dump(config), encoding="utf-8")
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        """Start it and wait until it answers; a port taken by somebody else in between is given up."""
        for _ in range(5):
            self._port = free_port()
            if self._spawn():
                return
        raise RuntimeError(f"Prometheus did not start: {self._log[-20:]}")

    def _spawn(self) -> bool:
        assert PROMETHEUS is not None
        self._log = []
        self._process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={self._file}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()
        wait_until_sync(lambda: self._has_ended() or self._is_ready(), START_TIMEOUT, what=lambda: self._log[-20:])
        if not self._has_ended():
            return True
        self.stop()
        if any("address already in use" in line for line in self._log):
            return False
        raise RuntimeError(f"Prometheus did not start: {self._log[-20:]}")

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self._log.extend(lines)

    def _has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """End it; harmless if it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        self._reader.join(10)

    def _api(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what a query finds now: `metric`, its labels, and `value`, moment and number as text."""
        found: list[dict[str, Any]] = self._api("query", query=expression)["result"]
        return found

    def targets_up(self) -> int:
        """Return how many targets were scraped well the last time."""
        return sum(target["health"] == "up" for target in self._api("targets")["activeTargets"])

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self._api("alerts")["alerts"] if each["state"] == "firing"}


def promtool(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run promtool and return its exit code and all that it says."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield title and query of everything on the dashboard."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def names_in(expression: str) -> set[str]:
    """Return the names of metrics in a query: what braces, or a range, or a closing bracket follows."""
    without_labels = re.sub(r"(by|without|on) \([^)]*\)", "", expression)
    return set(re.findall(r"\b([a-z][a-z0-9_]*_[a-z0-9_]+)(?=[\[{)])", without_labels))


def labels_in(expression: str) -> set[str]:
    """Return the names of labels in a query: those that select and those that are kept."""
    matched = re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    kept = re.findall(r"(?:by|without|on) \(([^)]*)\)", expression)
    return {*matched, *(label.strip() for labels in kept for label in labels.split(","))}
