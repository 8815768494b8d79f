"""The terminal: keys as they are pressed, no echo, and everything as before at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from streams_queue.errors import UsageError


def require_terminal() -> None:
    """Refuse what cannot show a live view. Raises UsageError."""
    if sys.platform == "win32":
        raise UsageError("top needs a terminal of a POSIX system; `stats` and `dead list` work everywhere")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal on standard input and output; for scripts there is `stats --json`")


@contextmanager
def keys_unbuffered(descriptor: int) -> Iterator[None]:
    """Let keys come one by one and unechoed; Ctrl-C still interrupts, Ctrl-Z does not leave the view half."""
    import termios

    before = termios.tcgetattr(descriptor)
    ours = termios.tcgetattr(descriptor)
    ours[3] &= ~(termios.ICANON | termios.ECHO)
    ours[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(descriptor, termios.TCSANOW, ours)
    try:
        yield
    finally:
        # What was typed and not read is not left to the shell.
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
