"""The storm's processes as the nemesis sees them: places that are filled anew whenever their process has died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from streams_queue import guard
from tests.chaos import journal as j
from tests.chaos.parts import ProducerPart, WorkerPart, to_argument
from tests.support.proxy import FlakyProxy
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
Role = Literal["worker", "producer"]
START_TIMEOUT = 60.0


class Guard:
    """Sees to it that no process outlives the storm, stopped ones included, however the storm ends."""

    def __init__(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int) -> None:
        """Kill this process when the storm ends."""
        self._tell(f"process {pid}")

    def release(self, pid: int) -> None:
        """Forget a process that has ended: its number may be given to another one."""
        self._tell(f"released {pid}")

    def _tell(self, order: str) -> None:
        orders: IO[bytes] | None = self._guard.stdin
        assert orders is not None
        with contextlib.suppress(BrokenPipeError):
            orders.write(f"{order}\n".encode())
            orders.flush()

    def __enter__(self) -> Self:
        """Stand guard."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Clear up: whatever is still on the list is killed."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        self._guard.wait()


class Slot:
    """A place for one producer or worker; each process in it is an incarnation with a name and a journal of its own.

    Args:
        name: Of the place, such as `w1`; incarnations are `w1.0`, `w1.1`, …
        role: What its processes do.
        proxy: Between them and the server; None where they connect directly.
        make_part: Makes the part of an incarnation from its name, its journal, and its predecessor's journal.
        expendable: Whether its process may be ended before its time.
        directory: For journals and logs.
        package: Where `streams_queue` is imported from; None is this checkout.
        guard: Kills what is left at the end.

    Attributes:
        busy: Somebody is striking it, or mending it; nobody else may.
        names: Of its incarnations so far.
        wanted: Whether a process that ended by itself is to be replaced.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        proxy: FlakyProxy | None,
        make_part: Callable[[str, str, Path | None], ProducerPart | WorkerPart],
        *,
        expendable: bool = True,
        directory: Path,
        package: Path | None,
        guard: Guard,
    ) -> None:
        self.name = name
        self.role: Role = role
        self.proxy = proxy
        self.expendable = expendable
        self.busy = False
        self.names: list[str] = []
        self.wanted = False
        self._make_part = make_part
        self._directory = directory
        self._package = package
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def current(self) -> str:
        """The name of the latest incarnation."""
        return self.names[-1]

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is alive (stopped counts)."""
        return self._process is not None and self._process.poll() is None

    @property
    def journal(self) -> Path:
        """The journal of the latest incarnation."""
        return self._directory / f"{self.current}.journal"

    @property
    def log(self) -> str:
        """The last lines that the latest incarnation logged."""
        path = self.journal.with_suffix(".log")
        return "".join(path.read_text("utf-8", "replace").splitlines(keepends=True)[-8:]) if path.exists() else ""

    def start(self) -> None:
        """Fill the place with a new process."""
        name = f"{self.name}.{len(self.names)}"
        journal = self._directory / f"{name}.journal"
        part = self._make_part(name, str(journal), self.journal if self.names else None)
        self.names.append(name)
        places = [str(place) for place in (self._package, CHECKOUT) if place is not None]
        with journal.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"tests.chaos.{self.role}", to_argument(part)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
                start_new_session=True,
            )
        self._guard.watch(self._process.pid)
        self.wanted = True

    async def until_ready(self) -> None:
        """Wait until it has a queue, or has ended."""
        await wait_until(lambda: not self.running or self.has_noted(j.READY), START_TIMEOUT, what=self.describe)

    def has_noted(self, verb: str) -> bool:
        """Whether the journal of the latest incarnation has such a line."""
        return any(words[0] == verb for words in j.read(self.journal))

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; returns when."""
        at = time.monotonic()
        if self.running:
            os.kill(self.pid, number)
        return at

    def kill(self) -> float:
        """End it as a crash would, and return when."""
        self.wanted = False
        at = self.signal(signal.SIGKILL)
        self.reap()
        return at

    def reap(self) -> int | None:
        """Clear away what the system keeps of an ended process; returns its exit code."""
        if self._process is None:
            return None
        code = self._process.wait(10)
        self._guard.release(self._process.pid)
        return code

    async def terminate(self, timeout: float) -> float:
        """Ask for a graceful end, wait for it, enforce it at last; returns when it was asked."""
        self.wanted = False
        at = self.signal(signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            await wait_until(lambda: not self.running, timeout)
        if self.running:
            self.kill()
        else:
            self.reap()
        return at

    def describe(self) -> str:
        """Say how it stands."""
        code: Any = self._process.returncode if self._process else None
        return f"{self.current} {'running' if self.running else f'ended with {code}'}: {self.log}"
