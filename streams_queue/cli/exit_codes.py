"""What the command's exit code says."""

from __future__ import annotations

from streams_queue.demo.scenario import DemoInterruptedError
from streams_queue.draining import ExportError
from streams_queue.errors import (
    BackendError,
    ConfigError,
    MessageError,
    MissingExtraError,
    StreamsQueueError,
    UsageError,
)

OK = 0
NO = 1
"""The answer is no: unhealthy, not found, some events not accepted, an event lost."""
BAD_INPUT = 2
"""The options, the configuration or the input cannot be used; nothing was done."""
BACKEND = 3
"""The server cannot be reached, or refuses."""
DEGRADED = 4
"""Of `health` only: it works, but not as it should."""
INTERRUPTED = 130


def exit_code_for(error: StreamsQueueError) -> int:
    """Return the exit code for an error that ended a command."""
    match error:
        case ConfigError() | ExportError() | MessageError() | MissingExtraError() | UsageError():
            return BAD_INPUT
        case BackendError():
            return BACKEND
        case DemoInterruptedError(signal_number=number):
            return 128 + number
        case _:
            return NO
