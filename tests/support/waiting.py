"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL = 0.01


async def wait_until(
    predicate: Callable[[], Any | Awaitable[Any]], timeout: float = 10.0, *, what: str | Callable[[], Any] = ""
) -> Any:
    """Poll `predicate` (a function or a coroutine function) until its result is true, and return that result.

    Args:
        predicate: What must become true; exceptions pass through.
        timeout: Seconds before the test fails.
        what: Said in the failure message; a function is called for it when the time is over.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout:g} s: {_say(what) or inspect.getsource(predicate).strip()}")
        await asyncio.sleep(POLL)


def wait_until_sync(predicate: Callable[[], Any], timeout: float = 10.0, *, what: str | Callable[[], Any] = "") -> Any:
    """Do as `wait_until` does, where no event loop runs."""
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout:g} s: {_say(what) or inspect.getsource(predicate).strip()}")
        time.sleep(POLL)
    return result


def _say(what: str | Callable[[], Any]) -> str:
    return str(what()) if callable(what) else what
