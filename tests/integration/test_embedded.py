"""A server of one's own: it answers, survives a restart, and never outlives whoever started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from streams_queue.embedded import EmbeddedServer
from streams_queue.errors import BackendUnavailable, ConfigError, UsageError
from tests.support.servers import chosen_flavour, require_binary
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration
CHECKOUT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def client_of(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """Connect to a server."""
    client = redis.Redis.from_url(server.url)
    try:
        yield client
    finally:
        client.close()


def test_it_answers_at_once_and_leaves_nothing_behind() -> None:
    """Inside the block it serves; after it, process and directory are gone."""
    with EmbeddedServer(binary=require_binary(chosen_flavour())) as server:
        process, directory = psutil.Process(server.pid), server.data_dir
        with client_of(server) as client:
            assert client.ping()
        assert server.is_running()
    assert not process.is_running()
    assert not directory.exists()
    assert not server.is_running()


def test_what_was_written_survives_a_kill_and_a_restart() -> None:
    """With its append-only file synced at once, port and data are the same after SIGKILL."""
    with EmbeddedServer(binary=require_binary(chosen_flavour()), append_fsync="always", password="s3cret") as server:
        url = server.url
        with client_of(server) as client:
            client.set("key", "value")
        server.kill()
        assert not server.is_running()
        server.restart()
        with client_of(server) as client:
            assert client.get("key") == b"value"
        assert server.url == url


def test_without_an_append_only_file_a_restart_comes_back_empty() -> None:
    """A restart of a server that keeps nothing is how a lost state is tested."""
    with EmbeddedServer(binary=require_binary(chosen_flavour())) as server:
        with client_of(server) as client:
            client.set("key", "value")
        server.restart()
        with client_of(server) as client:
            assert client.get("key") is None


def test_servers_get_along_beside_each_other() -> None:
    """Each has its own port."""
    binary = require_binary(chosen_flavour())
    with EmbeddedServer(binary=binary) as one, EmbeddedServer(binary=binary) as other:
        assert one.port != other.port


def test_a_server_that_cannot_start_says_why() -> None:
    """The error ends with what the server logged, and no directory stays."""
    server = EmbeddedServer(binary=require_binary(chosen_flavour()), arguments=("--maxmemory-policy", "nonsense"))
    with pytest.raises(BackendUnavailable, match="did not start"):
        server.start()
    with pytest.raises(UsageError):
        _ = server.data_dir


def test_a_binary_that_is_none_is_refused(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(ConfigError, match="nowhere"):
        EmbeddedServer(binary=tmp_path / "nowhere").start()


def test_it_is_started_once() -> None:
    """Before the start there is no address; a second start is refused and leaves the running server alone."""
    server = EmbeddedServer(binary=require_binary(chosen_flavour()))
    with pytest.raises(UsageError):
        _ = server.url
    with server:
        pid = server.pid
        with pytest.raises(UsageError):
            server.start()
        assert server.is_running()
        assert server.pid == pid


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_it_ends_when_its_starter_is_killed() -> None:
    """SIGKILL leaves the starter no chance to clear up; server and directory go all the same."""
    script = (
        "import sys; from streams_queue.embedded import EmbeddedServer\n"
        "s = EmbeddedServer(binary=sys.argv[1]).start(); print(s.pid, s.data_dir, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(require_binary(chosen_flavour()))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as starter:
        assert starter.stdout is not None
        pid, directory = starter.stdout.readline().split()
        server = psutil.Process(int(pid))
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    wait_until_sync(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    wait_until_sync(lambda: not Path(directory).exists())
