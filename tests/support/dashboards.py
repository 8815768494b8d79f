"""The command `streams-queue dashboard` as a process of its own, and requests to it as no browser would send them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import CHECKOUT, end_of
from tests.support.waiting import wait_until_sync

OWN = {"X-Streams-Queue": "test", "Content-Type": "application/json"}
_STARTED = re.compile(r"The dashboard is at http://(.+):(\d+)(/.*)")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class RunningDashboard:
    """One dashboard; `log` is what it wrote to standard error.

    Args:
        folder: For its configuration.
        config: Of the queue.
        options: Further ones of the command.
        token: In its environment.
    """

    def __init__(self, folder: Path, config: dict[str, Any], *options: str, token: str | None = None) -> None:
        self.log: list[str] = []
        self.token = token
        self._command = command_line(folder, config, *options)
        self._environment = environment(token)
        self._process: subprocess.Popen[str] | None = None
        self._port: int | None = None
        self._path = "/"

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=self._environment)
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()
        wait_until_sync(self._listens, 60, what=lambda: f"the dashboard does not listen: {self.log}")

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.log.append(line)
                if started := _STARTED.search(line):
                    self._path, self._port = started[3], int(started[2])

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return self._port is not None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._port is not None
        return self._port

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}{self._path}"

    def stop(self) -> int:
        """End it as a service manager does and return its exit code; harmless if it has ended."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return end_of(self._process, self._reader, 30)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        chunked: bool = False,
    ) -> Answer:
        """Send one request: GET, or POST with a body; a header given as None is left out."""
        content = body if body is None or isinstance(body, bytes | list) else json.dumps(body).encode()
        given: dict[str, str | None] = {} if body is None else dict(OWN)
        if self.token is not None:
            given["Authorization"] = f"Bearer {self.token}"
        given |= headers or {}
        sent = {name: value for name, value in given.items() if value is not None}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method or ("GET" if body is None else "POST"), path, content, sent, encode_chunked=chunked
            )
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def looks(self, path: str = "/api/live") -> Iterator[tuple[str, Any]]:
        """Yield the live events, name and value, for as long as the caller asks for more."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as answer:
                assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
                name = ""
                for line in answer:
                    field, _, value = line.decode().rstrip("\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        yield name, json.loads(value)
        finally:
            connection.close()


def command_line(folder: Path, config: dict[str, Any], *options: str) -> list[str]:
    """Return the command that serves the page of a queue on a free port."""
    file = folder / "webhook_config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    program = "from streams_queue.cli import main; main()"
    return [sys.executable, "-c", program, "dashboard", "--config", str(file), "--port", "0", *options]


def environment(token: str | None = None) -> dict[str, str]:
    """Return the environment of a command, without what the machine's own may say of queues."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_QUEUE_")}
    kept["PYTHONPATH"] = str(CHECKOUT)
    return kept if token is None else {**kept, "STREAMS_QUEUE_DASHBOARD_TOKEN": token}


@contextmanager
def serving(
    folder: Path, config: dict[str, Any], *options: str, token: str | None = None
) -> Iterator[RunningDashboard]:
    """Run a dashboard for as long as the block lasts."""
    dashboard = RunningDashboard(folder, config, *options, token=token)
    dashboard.start()
    try:
        yield dashboard
    finally:
        dashboard.stop()
