"""SIGTERM and SIGINT turned into calls in the event loop, for as long as a worker runs."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_stop_signals(call: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `call` in the running loop at each SIGTERM or SIGINT, and put back the former handlers afterwards.

    Outside the main thread this does nothing, since only there signals can be handled. `signal.signal` is used instead
    of the loop's own method because it works on Windows and lets the former handlers be read and restored; waking the
    loop through its self-pipe makes it as prompt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def handle(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call, signal.Signals(number))

    former = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
