"""The webhook receiver of the docs and what belongs to it, as processes of their own, started as its README says."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx

from tests.support.servers import free_port
from tests.support.waiting import wait_until_sync

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "webhook-receiver"
CONFIG = EXAMPLE / "webhook_config.yaml"
COMMAND = str(Path(sys.executable).with_name("streams-queue"))
SECRET = "hunter2-webhook-secret"


class Part:
    """One process of the example; what it says is kept, and read by nobody else."""

    def __init__(self, *command: str, environment: dict[str, str], port: int = 0) -> None:
        self.port = port
        self._log: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *command],
            cwd=EXAMPLE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="journal", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self._log.extend(lines)

    @property
    def log(self) -> str:
        """All that it has said so far."""
        return "".join(self._log)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def until_it_listens(self) -> Part:
        """Wait until it answers."""

        def answers() -> bool:
            assert self._process.poll() is None, self.log
            try:
                httpx.get(f"{self.url}/healthz", timeout=10)
            except httpx.TransportError:
                return False
            return True

        wait_until_sync(answers, 30, what=lambda: self.log)
        return self

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, as a service manager does or as a crash would, and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self.ended()

    def ended(self, timeout: float = 30.0) -> int:
        """Wait for its end and return its exit code."""
        try:
            return self._process.wait(timeout)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait(10)
            self._reader.join(10)


class WebhookReceiver:
    """Starts the parts of the example on one queue, in a directory of the test's own.

    Attributes:
        environment: Of all parts; a test may set more of it.
        parts: What was started.
    """

    def __init__(self, redis_url: str, directory: Path, config: Path = CONFIG) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_QUEUE_")}
        self.environment = {
            **kept,
            "STREAMS_QUEUE_CONFIG": str(config),
            "GITHUB_WEBHOOK_SECRET": SECRET,
            "REDIS_URL": redis_url,
            "WEBHOOK_SPOOL": str(directory / "spool"),
            "WEBHOOK_DATABASE": str(directory / "webhooks.sqlite3"),
            "PYTHONUNBUFFERED": "1",
        }
        self.parts: list[Part] = []

    def _start(self, *command: str, port: int = 0) -> Part:
        self.parts.append(Part(*command, environment=self.environment, port=port))
        return self.parts[-1]

    def start_receiver(self, *options: str) -> Part:
        """Start a receiver; it listens when this returns."""
        port = free_port()
        command = ("-m", "uvicorn", "--factory", "receiver:create_app", "--port", str(port), *options)
        return self._start(*command, port=port).until_it_listens()

    def start_worker(self, *options: str) -> Part:
        """Start a worker."""
        return self._start(COMMAND, "worker", "handler:handle", *options)

    def roll_back(self, *options: str) -> Part:
        """Start the rollback."""
        return self._start("rollback.py", *options)

    def effects(self) -> Counter[str]:
        """Return how many effects each delivery has had, by its id."""
        if not Path(self.environment["WEBHOOK_DATABASE"]).exists():
            return Counter()
        connection = sqlite3.connect(self.environment["WEBHOOK_DATABASE"], timeout=30)
        try:
            found = connection.execute("SELECT delivery_id, count(*) FROM effects GROUP BY delivery_id").fetchall()
        except sqlite3.OperationalError:
            return Counter()
        finally:
            connection.close()
        return Counter(dict(found))

    def end(self) -> None:
        """Stop all parts that still run."""
        for part in self.parts:
            part.end()
