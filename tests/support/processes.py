"""Python programs as processes of their own, each with a journal on its standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until, wait_until_sync

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).resolve().parent / "scripts"


def end_of(process: subprocess.Popen[str], reader: threading.Thread, timeout: float) -> int:
    """Wait for the end of a process, and of who reads what it says, and return its exit code; kill it if it is late."""
    try:
        return process.wait(timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        reader.join(10)


class Program:
    """One running script of `tests/support/scripts`; what it prints is its journal, one JSON value per line."""

    def __init__(self, script: str, **arguments: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / f"{script}.py"), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.journal: list[Any] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_journal, name="journal", daemon=True),
            threading.Thread(target=self._read_errors, name="journal", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def _read_journal(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):
                    self.journal.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self.errors.extend(lines)

    def go(self) -> None:
        """Let a script continue that waits for its starting signal."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    async def until(self, count: int, timeout: float = 20.0) -> list[Any]:
        """Wait for `count` lines of the journal and return them all."""
        await wait_until(lambda: len(self.journal) >= count or not self.running, timeout, what=self.describe)
        assert len(self.journal) >= count, self.describe()
        return self.journal

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process and to no other."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would; harmless if it has ended."""
        if self.running:
            self._process.kill()
        self._finish()

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the end and return the exit code; the journal is complete then."""
        wait_until_sync(lambda: not self.running, timeout, what=self.describe)
        return self._finish()

    async def ended(self, timeout: float = 60.0) -> int:
        """Do as `wait` does while the event loop goes on."""
        await wait_until(lambda: not self.running, timeout, what=self.describe)
        return self._finish()

    def _finish(self) -> int:
        code = self._process.wait(10)
        for reader in self._readers:
            reader.join(10)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return code

    def describe(self) -> str:
        """Say how it stands, for a failure message."""
        state = "running" if self.running else f"ended with {self._process.returncode}"
        return f"{self._process.args!r} {state}; journal {self.journal[-5:]}; errors {''.join(self.errors[-30:])}"


class Programs:
    """Starts programs and sees to it that none outlives the test."""

    def __init__(self) -> None:
        self._started: list[Program] = []

    def __call__(self, script: str, **arguments: Any) -> Program:
        """Start `script` with `arguments`, which travel as one JSON object."""
        program = Program(script, **arguments)
        self._started.append(program)
        return program

    def stop_all(self) -> None:
        """Kill what is left."""
        for program in self._started:
            if program.running:
                os.kill(program.pid, signal.SIGCONT)
            program.kill()
