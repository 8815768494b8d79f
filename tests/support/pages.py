"""Commands that serve a page of metrics, as processes of their own, and what their pages say."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import CHECKOUT, end_of
from tests.support.waiting import wait_until_sync

HANDLERS = """
import asyncio
from pathlib import Path

async def handle(event):
    if event.get("bad"):
        raise ValueError("no")

async def wait(event):
    Path("begun").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
"""
_SERVED = re.compile(r"Metrics are at http://\S+:(\d+)/metrics")


class Samples:
    """What `/metrics` said, to be asked by the names that Prometheus stores."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.all = [(s.name, dict(s.labels), s.value) for family in families for s in family.samples]

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the values of all series that have these labels."""
        return [value for of, its, value in self.all if of == name and labels.items() <= its.items()]

    def total(self, name: str, **labels: str) -> float:
        """Return their sum."""
        return sum(self.values(name, **labels))

    def names(self) -> set[str]:
        """Return the names of all series."""
        return {name for name, _, _ in self.all}


class PageCommand:
    """One command; `log` is what it wrote to standard error.

    Args:
        folder: Where it works: its configuration and handlers are there.
        config: Of the queue; of several, one for each.
        arguments: Of the command, its name first.
    """

    def __init__(self, folder: Path, config: dict[str, Any] | Iterable[dict[str, Any]], *arguments: str) -> None:
        self.log: list[str] = []
        self.ports: list[int] = []
        (folder / "my_handlers.py").write_text(HANDLERS, encoding="utf-8")
        configs = [config] if isinstance(config, dict) else list(config)
        files = [folder / f"config-{number}.yaml" for number in range(len(configs))]
        for file, each in zip(files, configs, strict=True):
            file.write_text(yaml.safe_dump(each), encoding="utf-8")
        options = [part for file in files for part in ("--config", str(file))]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMS_QUEUE_", "OTEL_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from streams_queue.cli import main; main()", *arguments, *options],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.log.append(line)
                if served := _SERVED.search(line):
                    self.ports.append(int(served[1]))

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def until(self, true: Any, timeout: float = 60.0) -> Any:
        """Wait for something, or fail with the log."""
        return wait_until_sync(true, timeout, what=lambda: "".join(self.log[-30:]))

    def until_served(self, pages: int = 1) -> None:
        """Wait until so many pages have been announced."""
        self.until(lambda: len(self.ports) >= pages or self._process.poll() is not None)
        assert len(self.ports) >= pages, self.log

    def ask(self, path: str, port: int | None = None) -> tuple[int, str]:
        """Return status and text of a page."""
        return ask(self.ports[0] if port is None else port, path)

    def samples(self, port: int | None = None) -> Samples:
        """Return what `/metrics` says."""
        status, text = self.ask("/metrics", port)
        assert status == 200, text
        return Samples(text)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """End it as a service manager does and return its exit code; harmless if it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
        return self.ended()

    def ended(self) -> int:
        """Wait for its end and return its exit code."""
        return end_of(self._process, self._reader, 60)


def ask(port: int, path: str, timeout: float = 30) -> tuple[int, str]:
    """Return status and text of a page of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
