"""Who may use the page: what is refused before it listens, names, origins, tokens, sessions."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams_queue.cli.app import app
from streams_queue.clock import ManualClock
from streams_queue.dashboard.access import Access, Sessions, allow, is_own_origin
from streams_queue.errors import UsageError

TOKEN = "correct-horse-battery-staple"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what the machine may have in its environment."""
    for name in [name for name in os.environ if name.startswith("STREAMS_QUEUE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.3.2.1", "LOCALHOST"])
def test_this_machine_needs_no_token(address: str) -> None:
    """Nobody else reaches it there; the address is one of its names."""
    assert allow(address, [], None) == Access(frozenset({*LOOPBACK, address.lower()}), None)


@pytest.mark.parametrize(
    ("address", "names"),
    [("0.0.0.0", []), ("::", []), ("192.168.1.5", []), ("queue.example", []), ("127.0.0.1", ["queue.example"])],
)
def test_whatever_others_reach_needs_a_token(address: str, names: list[str]) -> None:
    """Another address, or another name such as a proxy's."""
    with pytest.raises(UsageError, match="STREAMS_QUEUE_DASHBOARD_TOKEN"):
        allow(address, names, None)


@pytest.mark.parametrize(
    ("address", "names", "hosts"),
    [
        ("192.168.1.5", [], {"192.168.1.5"}),
        ("127.0.0.1", ["Queue.Example", "fe80::1", "[fe80::2]"], {"queue.example", "fe80::1", "fe80::2"}),
        ("0.0.0.0", ["queue.example"], {"queue.example"}),
        ("::", ["queue.example"], {"queue.example"}),
    ],
)
def test_with_a_token_it_is_reached_under_its_names(address: str, names: list[str], hosts: set[str]) -> None:
    """And always from this machine; an address that means all of them is none."""
    assert allow(address, names, TOKEN).hosts >= hosts | LOOPBACK
    assert allow(address, names, TOKEN).hosts <= hosts | LOOPBACK | {address}


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_all_addresses_are_no_name(address: str) -> None:
    """Under which names browsers come has to be said then."""
    with pytest.raises(UsageError, match="--allowed-host"):
        allow(address, [], TOKEN)


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in between", "tökentökentöken!!", "x" * 513, "line\n" * 9]
)
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    """Without being repeated in the message."""
    with pytest.raises(UsageError, match="16 to 512") as refused:
        allow("127.0.0.1", [], token)
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize("name", ["", "https://queue.example", "queue.example/x", "queue.example:80", "a b", "*"])
def test_a_name_is_a_name(name: str) -> None:
    """Without scheme, port and path."""
    with pytest.raises(UsageError, match="host name"):
        allow("127.0.0.1", [name], TOKEN)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8765", "[::1]:8765", "[::1]", "queue.example"]
)
def test_own_names_are_known(host: str) -> None:
    """Whatever the port: it may be forwarded."""
    assert allow("127.0.0.1", ["queue.example"], TOKEN).knows_host(host)


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "localhost.evil.example", "a@localhost", "localhost:x", "localhost:", "[::1", "::1"],
)
def test_other_names_are_not(host: str | None) -> None:
    """A name that somebody pointed at this address, or what is none."""
    assert not allow("127.0.0.1", [], None).knows_host(host)


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://localhost:8765", "localhost:8765", True),
        ("http://LOCALHOST:8765", "localhost:8765", True),
        ("https://queue.example", "queue.example", True),
        ("https://queue.example", "queue.example:443", True),
        ("http://queue.example", "queue.example:80", True),
        ("http://[::1]:8765", "[::1]:8765", True),
        ("http://localhost:8766", "localhost:8765", False),
        ("http://localhost", "localhost:8765", False),
        ("http://127.0.0.1:8765", "localhost:8765", False),
        ("https://queue.example", "queue.example:80", False),
        ("https://evil.example", "queue.example", False),
        ("null", "queue.example", False),
        ("", "", False),
        ("https://a@queue.example", "queue.example", False),
        ("https://queue.example/", "queue.example", False),
        ("ftp://queue.example", "queue.example", False),
        ("http://!", "!", False),
    ],
)
def test_an_origin_is_own_if_host_and_port_are(origin: str, host: str, own: bool) -> None:
    """The scheme is the proxy's business."""
    assert is_own_origin(origin, host) is own


def test_the_token_is_the_whole_token() -> None:
    """No part of it, nothing else, and nothing at all where there is none; no repr shows it."""
    access = allow("127.0.0.1", [], TOKEN)
    assert access.admits_token(TOKEN)
    assert not any(map(access.admits_token, ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ö" * 28]))
    assert not allow("127.0.0.1", [], None).admits_token("")
    assert TOKEN not in repr(access)


def test_a_session_ends_by_itself_or_by_its_owner() -> None:
    """After twelve hours; nobody else's secret is one."""
    clock = ManualClock()
    sessions = Sessions(clock)
    first, second = sessions.begin(), sessions.begin()
    assert first != second
    assert sessions.holds(first)
    assert not sessions.holds("")
    sessions.end(first)
    sessions.end(first)
    assert (sessions.holds(first), sessions.holds(second)) == (False, True)
    clock.advance(12 * 3600 - 1)
    assert sessions.holds(second)
    clock.advance(1)
    assert not sessions.holds(second)


def test_sessions_are_bounded() -> None:
    """The oldest goes when there are too many."""
    sessions = Sessions(ManualClock())
    secrets = [sessions.begin() for _ in range(1001)]
    assert [sessions.holds(secret) for secret in (secrets[0], secrets[1], secrets[-1])] == [False, True, True]


# --- the command ---


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--host", "0.0.0.0"], "give it a token"),
        (["--allowed-host", "queue.example"], "give it a token"),
        (["--token-file", "no-such-file"], "no-such-file cannot be read"),
        (["--token-file", "short"], "16 to 512"),
        (["--root-path", "queue"], "--root-path"),
        (["--root-path", "/a/../b?c"], "--root-path"),
        (["--host", "no such name"], "give it a token"),
        (["--log-level", "loud"], "log level"),
    ],
)
def test_the_command_refuses_to_start(
    options: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit code 2 and one line; a token is never part of it."""
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("hunter2\n")
    done = CliRunner().invoke(app, ["dashboard", "--url", "redis://127.0.0.1:1", *options])
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert problem in done.stderr
    assert "hunter2" not in done.stderr


def test_a_port_that_is_taken_is_said() -> None:
    """Before anything is connected."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["dashboard", "--url", "redis://127.0.0.1:1", "--port", port])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"cannot listen at 127.0.0.1, port {port}" in done.stderr
