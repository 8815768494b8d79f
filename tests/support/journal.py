"""The other end of `processes.Program`: how a script gets its arguments and keeps its journal."""

from __future__ import annotations

import json
import sys
from typing import Any


def arguments() -> dict[str, Any]:
    """Return what the test passed to this program."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def say(*values: Any) -> None:
    """Add one line to the journal; it is out when this returns, so that a kill cannot take it back."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def wait_for_go() -> None:
    """Say that all is prepared, and block until the test gives the starting signal."""
    say("ready")
    sys.stdin.readline()
