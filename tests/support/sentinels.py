"""A primary, its replicas and the sentinels that watch them: real processes, which fail over within seconds."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from tests.support.servers import TAKEN, HasPort, RedisServer, free_port
from tests.support.waiting import wait_until_sync

SERVICE = "mymaster"
MONITORS = "+monitor master"
# How often a sentinel looks, in ms. Servers before Redis 7 cannot be told; there a failover takes up to 10 s. A replica
# is promoted only if it was heard of within 5 pings, and of its state nothing is heard for a second: no ping below 200.
PERIODS = {"info-period": 200, "ping-period": 300, "ask-period": 100, "publish-period": 200}


class SentinelServer:
    """One sentinel: the server's own binary in its other mode, with a configuration that it rewrites itself.

    All methods block.
    """

    def __init__(self, binary: Path, **options: str) -> None:
        """Choose a port and an id; starts nothing.

        Args:
            binary: Of a server.
            options: Further lines of its configuration, `requirepass="secret"`, with underscores for dashes.
        """
        self._binary = binary
        self._options = options
        self._directory = Path(tempfile.mkdtemp(prefix="streams-queue-sentinel-"))
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []
        self.port = free_port()
        self.id = secrets.token_hex(20)

    @property
    def address(self) -> str:
        """Host and port, as they stand in a URL."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def configure(self, primary: HasPort, replicas: list[RedisServer], others: list[SentinelServer]) -> None:
        """Write a configuration that knows everybody already: finding one another takes sentinels seconds."""
        known = [f"sentinel known-replica {SERVICE} 127.0.0.1 {replica.port}" for replica in replicas]
        known += [f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other.port} {other.id}" for other in others]
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._directory}",
            *(f"{name.replace('_', '-')} {value}" for name, value in self._options.items()),
            f"sentinel myid {self.id}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 3000",
            *known,
        ]
        (self._directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start, and return when the sentinel answers."""
        self._log = []
        self._process = subprocess.Popen(
            [str(self._binary), str(self._directory / "sentinel.conf"), "--sentinel"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        settled = threading.Event()
        threading.Thread(target=self._drain, args=(self._process, settled), name="server-log", daemon=True).start()
        if not settled.wait(20) or self._process.poll() is not None:
            self.kill()
            taken = any(TAKEN in line for line in self._log)
            raise OSError("port taken" if taken else "The sentinel did not start:\n" + "".join(self._log[-20:]))
        with contextlib.suppress(redis.ResponseError):
            self.command("SENTINEL", "DEBUG", *(part for pair in PERIODS.items() for part in pair))

    def _drain(self, process: subprocess.Popen[str], settled: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if MONITORS in line:
                    settled.set()
        settled.set()

    @property
    def log(self) -> str:
        """What the sentinel has said, for a failure message."""
        return "".join(self._log[-80:])

    def command(self, *args: Any) -> Any:
        """Send one command on a connection of its own."""
        password = self._options.get("requirepass")
        with contextlib.closing(redis.Redis(port=self.port, password=password, socket_timeout=5)) as client:
            return client.execute_command(*args)  # type: ignore[no-untyped-call]

    def primary_port(self) -> int | None:
        """Return the port of the primary that this sentinel tells; None if it tells none."""
        found = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1]) if found else None

    def watch(self, server: RedisServer) -> None:
        """Forget the primary and take `server` for it, whatever it is."""
        self.command("SENTINEL", "REMOVE", SERVICE)
        self.command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", server.port, 1)

    def pause(self) -> None:
        """Stop the process without closing anything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process run again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the sentinel at once; `start` brings it back with what it knew."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """End the sentinel and remove its data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


class Watched:
    """One primary with replicas, watched by sentinels with a quorum of 2.

    Attributes:
        servers: The primary that they began with first, then the replicas.
        sentinels: All of them.
    """

    def __init__(self, servers: list[RedisServer], sentinels: list[SentinelServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    def start(self) -> None:
        """Start the sentinels; returns when a failover would find its quorum and its replicas."""
        for sentinel in self.sentinels:
            sentinel.configure(
                self.servers[0], self.servers[1:], [other for other in self.sentinels if other is not sentinel]
            )
            sentinel.start()
        wait_until_sync(self._ready, 20, what=lambda: self.sentinels[0].log)

    def _ready(self) -> bool:
        return all(self._is_ready(sentinel) for sentinel in self.sentinels)

    def _is_ready(self, sentinel: SentinelServer) -> bool:
        try:
            sentinel.command("SENTINEL", "CKQUORUM", SERVICE)
        except redis.ResponseError:
            return False
        states = sentinel.command("SENTINEL", "REPLICAS", SERVICE)
        following = [state for state in map(_named, states) if state.get("master-link-status") == "ok"]
        return len(following) == len(self.servers) - 1

    def stop(self) -> None:
        """Stop the sentinels; the servers belong to whoever started them."""
        for sentinel in self.sentinels:
            sentinel.stop()

    def url(self, *, credentials: str = "", db: int = 0, options: str = "") -> str:
        """Return the URL by which a queue finds the primary."""
        addresses = ",".join(sentinel.address for sentinel in self.sentinels)
        at = f"{credentials}@" if credentials else ""
        return f"redis+sentinel://{at}{addresses}/{SERVICE}/{db}{options}"

    def primary(self) -> RedisServer:
        """Return the server that the first sentinel in reach tells as the primary."""
        port = next(filter(None, map(_primary_port, self.sentinels)))
        return next(server for server in self.servers if server.port == port)

    def wait_for_replicas(self) -> None:
        """Return when every replica has all that the primary has now: a failover then loses nothing."""
        primary = self.primary()
        offset = primary.command("ROLE")[1]
        replicas = [server for server in self.servers if server is not primary]
        wait_until_sync(lambda: all(replica.command("ROLE")[4] >= offset for replica in replicas), 20)

    def fail_over(self) -> RedisServer:
        """Order a failover, as an operator does; returns the new primary when the old one is demoted.

        Until then the old one takes writes that nobody will ever see.
        """
        before = self.primary()
        self.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE)
        after = self.wait_for_failover(before)
        wait_until_sync(lambda: before.command("ROLE")[0] == b"slave", 30, what=lambda: self.sentinels[0].log)
        return after

    def wait_for_failover(self, before: RedisServer) -> RedisServer:
        """Return the new primary when every sentinel that answers tells it, and it says so itself."""
        wait_until_sync(lambda: self._moved(before.port), 30, what=lambda: self.sentinels[0].log)
        return self.primary()

    def _moved(self, old_port: int) -> bool:
        told = {port for port in map(_primary_port, self.sentinels) if port is not None}
        if len(told) != 1 or old_port in told:
            return False
        return bool(self.primary().command("ROLE")[0] == b"master")


def _primary_port(sentinel: SentinelServer) -> int | None:
    try:
        return sentinel.primary_port()
    except redis.RedisError:
        return None


def _named(state: Any) -> dict[str, str]:
    """Return what a sentinel says of one server by name; redis-py gives a map or a flat list, by its version."""
    pairs = state.items() if isinstance(state, Mapping) else zip(state[::2], state[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}
