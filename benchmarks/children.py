"""The processes that sides are measured in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self

from benchmarks.environments import NotInstalledError, interpreter
from benchmarks.model import Case, Figures, Side

# Only a side that hangs takes longer for one run.
_PATIENCE = 600.0


class SideError(RuntimeError):
    """A side could not be measured; the message ends with the reason."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one side gave.

    Attributes:
        figures: By metric.
        quantiles: Of the samples, by name.
        versions: Of Python and of the packages that were measured.
    """

    figures: Figures
    quantiles: Mapping[str, tuple[float, ...]]
    versions: Mapping[str, str]


class Child:
    """A process that measures one side, run after run."""

    def __init__(self, scenario: str, side: str, role: str, *, python: str, loop: str) -> None:
        self._what = f"{scenario}: {side}, {role}"
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.child", scenario, side, role, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def begin(self, case: Case) -> None:
        """Have it run once."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps(asdict(case)) + "\n")
        self._process.stdin.flush()

    def result(self) -> Run:
        """Wait for what the run that was begun gives."""
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        late = Timer(_PATIENCE, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in answer:
            raise SideError(f"{self._what}: {answer['error']}")
        quantiles = {name: tuple(values) for name, values in answer["quantiles"].items()}
        return Run(answer["figures"], quantiles, answer["versions"])

    def __enter__(self) -> Self:
        """The process runs since its construction."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, gently after a result, at once after an error."""
        if exc_type is not None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                _close(stream)
        self._process.wait()


def _close(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        pass  # what was not sent is for a process that has ended


class Contender:
    """A side with its processes: one, or two where it has a partner."""

    def __init__(self, scenario: str, name: str, side: Side, loop: str) -> None:
        self.name, self.side = name, side
        self._roles = ["measure"] if side.partner is None else ["measure", "partner"]
        self._scenario, self._loop = scenario, loop
        self._stack = ExitStack()
        self._children: list[Child] = []

    def run(self, case: Case, *, fresh: bool) -> Run:
        """Measure once; `fresh` in new processes."""
        if fresh:
            self.close()
        if not self._children:
            self._start()
        for child in self._children:
            child.begin(case)
        runs = [child.result() for child in self._children]
        figures: Figures = {}
        quantiles: dict[str, tuple[float, ...]] = {}
        for run in runs:
            figures |= run.figures
            quantiles |= run.quantiles
        return Run(figures, quantiles, runs[0].versions)

    def _start(self) -> None:
        try:
            python = interpreter(self.side.environment)
        except NotInstalledError as error:
            raise SideError(str(error)) from None
        for role in self._roles:
            child = Child(self._scenario, self.name, role, python=python, loop=self._loop)
            self._children.append(self._stack.enter_context(child))

    def close(self) -> None:
        """End the processes; they have given their results."""
        self._children = []
        self._stack.close()

    def abandon(self, error: SideError) -> None:
        """End the processes at once; one of them has failed and others may wait for it."""
        self._children = []
        self._stack.__exit__(SideError, error, error.__traceback__)
