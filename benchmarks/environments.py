"""Which Python runs a side: the suite's own, or that of an environment which `make bench-peers` has set up."""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(__file__).parent.parent / ".venv-peers"


class NotInstalledError(RuntimeError):
    """There is no such environment; the message says what became of it, if anybody tried."""


def interpreter(environment: str, home: Path = HOME) -> str:
    """Return the path of an environment's Python; of the suite's own if it has no name."""
    if not environment:
        return sys.executable
    if not (home / environment / ".ready").exists():
        raise NotInstalledError(_reason(environment, home))
    return str(home / environment / "bin" / "python")


def _reason(environment: str, home: Path) -> str:
    log = home / f"{environment}.log"
    errors = [line for line in _lines(log) if line.startswith("ERROR")]
    return f"not installed: {errors[-1]}" if errors else "not installed; try: make bench-peers"


def _lines(log: Path) -> list[str]:
    return log.read_text("utf-8").splitlines() if log.exists() else []
