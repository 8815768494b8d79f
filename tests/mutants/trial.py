"""The tests on one mutant, in a copy of the checkout: first those that are likely to notice, then all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant

CHECKOUT = Path(__file__).parents[2]
COPIED = (
    *("streams_queue", "tests", "config", "docs", "benchmarks", ".ci"),
    *(
        "pyproject.toml",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "constraints.txt",
        "constraints-lowest.txt",
    ),
)
_LIKELY = {
    ".lua": (
        "tests/integration/test_lua_*.py",
        "tests/integration/test_memory_limit.py",
        "tests/integration/test_durability.py",
        "tests/integration/test_migration.py",
    ),
    ".py": ("tests/unit/test_retry.py", "tests/unit/test_breaker.py"),
}
_ALL = ("tests/unit", "tests/conformance", "tests/model", "tests/integration", "tests/faults")
_LIKELY_SECONDS, _ALL_SECONDS = 60, 600
_FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s[]+)", re.MULTILINE)
_USUAL = (0, 1)
_NO_END = "(no end)"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: The change.
        killer: The test that noticed, or `(no end)` where the tests hung; None: nobody noticed.
        seconds: How long that took.
    """

    mutant: Mutant
    killer: str | None
    seconds: float


class Copy:
    """A copy of the checkout that is one mutant after the other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unreliable: list[str] = []
        for name in COPIED:
            original = CHECKOUT / name
            if original.is_dir():
                shutil.copytree(original, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(original, directory / name)

    def unharmed(self) -> bool:
        """Whether the tests pass as long as nothing is changed; without that, no failure says anything."""
        return all(self._killer(tests, _LIKELY_SECONDS) is None for tests in _LIKELY.values())

    def try_out(self, mutant: Mutant, *, briefly: bool) -> Outcome:
        """Run the tests on a mutant until one fails; `briefly`: only those that are likely to."""
        began = time.monotonic()
        with self._changed_by(mutant):
            killer = self._killer(_LIKELY[Path(mutant.path).suffix], _LIKELY_SECONDS)
        if killer is None and not briefly:
            killer = self._killer_of_all(mutant)
        return Outcome(mutant, killer, time.monotonic() - began)

    @contextmanager
    def _changed_by(self, mutant: Mutant) -> Iterator[None]:
        path = self._directory / mutant.path
        path.write_text(mutant.source, "utf-8")
        try:
            yield
        finally:
            shutil.copy(CHECKOUT / mutant.path, path)

    def _killer_of_all(self, mutant: Mutant) -> str | None:
        """Look further. With all that goes on there, who fails has to fail again, and to pass without the mutant."""
        for tests in _ALL:
            while True:
                with self._changed_by(mutant):
                    killer = self._killer((tests,), _ALL_SECONDS)
                    again = killer in {None, _NO_END} or self._killer((killer or "",), _LIKELY_SECONDS) is not None
                if killer is None:
                    break
                if again and (killer == _NO_END or self._killer((killer,), _LIKELY_SECONDS) is None):
                    return killer
                self._unreliable.append(killer)
        return None

    def _files(self, pattern: str) -> list[str]:
        found = [path.relative_to(self._directory).as_posix() for path in sorted(self._directory.glob(pattern))]
        return found or [pattern]

    def _killer(self, tests: Sequence[str], seconds: float) -> str | None:
        """Return the first test that fails, None if all pass."""
        files = [each for pattern in tests for each in self._files(pattern)]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *files]
        process = subprocess.Popen(
            [*command, "-m", "not slow", *(f"--deselect={test}" for test in self._unreliable)],
            cwd=self._directory,
            env={**os.environ, "PYTHONPATH": str(self._directory), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return _NO_END
        finally:
            # Ctrl-C lets pytest stop the servers that it has started.
            _end(process)
        if process.returncode not in _USUAL:
            raise RuntimeError(f"pytest could not run:\n{printed[-2000:]}")
        found = _FAILED.search(printed)
        if process.returncode and found is None:
            raise RuntimeError(f"pytest failed and named no test:\n{printed[-2000:]}")
        return found.group(1) if found else None


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate() if os.name == "nt" else process.send_signal(2)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
