"""Run the command, and be killed with SIGKILL at a given step of it, or stopped."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from typing import Any

from streams_queue.cli import main
from streams_queue.draining import Stock
from streams_queue.draining.file import ExportFile
from tests.support.journal import arguments

given = arguments()
PLACES: dict[str, Any] = {"stock": Stock, "file": ExportFile}


def die() -> None:
    """Be gone, as after a power failure; or stand still, until somebody lets the process go on."""
    os.kill(os.getpid(), signal.SIGSTOP if given["side"] == "stopped" else signal.SIGKILL)


def tear(file: ExportFile) -> None:
    """Leave the end of a line out, and be gone."""
    file._file.flush()
    file._file.truncate(file._file.tell() - 10)
    die()


def kill_at(step: str, side: str, number: int) -> None:
    """Let the `number`th call of a method be the last one: before it, after it, or in the middle of writing."""
    place, _, name = step.partition(".")
    method = getattr(PLACES[place], name)
    calls = 0

    def begin() -> bool:
        nonlocal calls
        calls += 1
        if calls == number and side == "before":
            die()
        return calls == number

    @functools.wraps(method)
    async def waited_for(*args: Any, **options: Any) -> Any:
        is_last = begin()
        result = await method(*args, **options)
        if is_last:
            die()
        return result

    @functools.wraps(method)
    def called(*args: Any, **options: Any) -> Any:
        is_last = begin()
        if is_last and side == "torn":
            tear(args[0])
        result = method(*args, **options)
        if is_last:
            die()
        return result

    setattr(PLACES[place], name, waited_for if inspect.iscoroutinefunction(method) else called)


kill_at(given["step"], given["side"], given["number"])
sys.argv = ["streams-queue", *given["command"]]
main()
