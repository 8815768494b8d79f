"""The command `streams-queue`."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

from streams_queue.errors import MissingExtraError

_EXTRAS = {"typer": "cli", "rich": "cli"}


def main() -> None:
    """Run the command; ends the process with one of the exit codes of `streams_queue.cli.exit_codes`."""
    try:
        from streams_queue.cli.app import app
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(str(MissingExtraError("The command streams-queue", extra)), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    try:
        app(prog_name="streams-queue")
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes one line and an exit code
        if "--debug" in sys.argv:
            traceback.print_exc()
        _fail(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 70)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"streams-queue: {message}", file=sys.stderr)
    sys.exit(exit_code)
