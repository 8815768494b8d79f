"""The demo's processes, seen from the one that starts them: started, told to begin, killed, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from streams_queue.demo import part
from streams_queue.demo.journal import JournalReader, Record
from streams_queue.demo.ledger import Ledger

_STOP_TIMEOUT = 10.0


class Child:
    """One process of the demo.

    It sits in a session of its own, so that Ctrl-C in the terminal reaches it only through its parent, and it ends by
    itself when the pipe from its parent ends.

    Args:
        module: The module of `streams_queue.demo` that it runs.
        its_part: What it is to do.

    Attributes:
        name: For the audience, such as `worker-1`; also the name of its journal.
        ledger: What its own journal says so far.
    """

    def __init__(self, module: str, its_part: part.ProducerPart | part.WorkerPart) -> None:
        journal = Path(its_part.journal)
        self.name = journal.stem
        self.ledger = Ledger()
        self._reader = JournalReader(journal)
        self._log = journal.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"streams_queue.demo.{module}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": _import_path()},
                start_new_session=True,
            )
        self._tell(part.to_line(its_part))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, below 0 if a signal ended it."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        """The last line that it logged."""
        lines = self._log.read_text("utf-8", "replace").strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else ""

    def begin(self) -> None:
        """Give it the sign to begin."""
        self._tell(b"begin\n")

    def new_records(self) -> list[Record]:
        """Read on in its journal; enters what is new into its ledger and returns it."""
        records = self._reader.new_records()
        self.ledger.add(records)
        return records

    def ask_to_stop(self) -> None:
        """Ask for a graceful end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait for the end that was asked for; one that does not come in time is brought about."""
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, if it still runs, and clear away what the system keeps of it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _tell(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def _import_path() -> str:
    """Return this process's own import path, so that the child finds the same modules wherever it is started."""
    return os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
