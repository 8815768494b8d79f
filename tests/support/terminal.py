"""A pseudo-terminal with a program in it, and what a person would see there."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyte

from tests.support.waiting import wait_until_sync

ON_TERMINAL = Path(__file__).resolve().parent / "scripts" / "on_terminal.py"
CHUNK = 1 << 16
ALTERNATE_SCREEN = "\x1b[?1049"
CURSOR = "\x1b[?25"


class Terminal:
    """One program on a pseudo-terminal of its own, which is its controlling one, as in an SSH session.

    Use it as a context manager: at the end the program is gone, however it went.
    """

    def __init__(self, command: Sequence[str], *, columns: int, lines: int, cwd: Path | None = None) -> None:
        self._ours, theirs = os.openpty()
        self.settings_before = termios.tcgetattr(theirs)
        # Keeps the terminal, and how it is set, when the program has ended.
        self._theirs = theirs
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.written = ""
        self._set_size(columns, lines)
        environ = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environ.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, str(ON_TERMINAL), *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=environ,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        # With its last user gone, the other end has nothing more to say.
        os.close(self._theirs)
        self._reader.join(10)
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, CHUNK)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self.written += data.decode("utf-8", "replace")
                self._stream.feed(data)

    @property
    def display(self) -> list[str]:
        """The lines on the screen."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.display)

    def wait_for(self, *texts: str, timeout: float = 60.0) -> str:
        """Wait until all texts are on the screen at once, and return what is on it."""

        def found() -> str:
            shown = self.text
            return shown if all(text in shown for text in texts) else ""

        return str(wait_until_sync(found, timeout, what=lambda: f"{texts} on the screen:\n{self.text}"))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; the kernel tells the program."""
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self._process.send_signal(number)

    def ended(self, timeout: float = 60.0) -> int:
        """Wait for the end of the program and return its exit code."""
        return self._process.wait(timeout)

    def settings(self) -> list[Any]:
        """Return how the terminal is set now."""
        return termios.tcgetattr(self._theirs)
