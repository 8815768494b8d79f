"""Every code block of the documentation is executed, or says above itself why it is not: docs/decisions/0142."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
import yaml

from streams_queue import load_config
from streams_queue.cli.app import app
from tests.conftest import StartServer
from tests.support.code_blocks import EXCEPTION, Block, blocks, commands
from tests.support.processes import CHECKOUT, SCRIPTS
from website import api

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = {"sh", "shell", "console", "bash"}
DEAD_IDS = ("1795447204479-0", "1795447204479-1")
ENTRY_ID = "1795447201463-8"
HANDLER = """\
def handle(event):
    print("working on", event["event_type"], "of", event["repo"], flush=True)
"""
TARGETS = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = set(
    tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
)
# What pages may call; a word that is not here is a typing error, or is added here.
PROGRAMS = {
    *(
        "streams-queue",
        "pip",
        "make",
        "python",
        "python3",
        ".venv/bin/python",
        "redis-cli",
        "curl",
        "promtool",
        "export",
    ),
    *(
        "echo",
        "sort",
        "grep",
        "cut",
        "wc",
        "cp",
        "chmod",
        "cat",
        "mkdir",
        "cd",
        "docker",
        "kubectl",
        "systemctl",
        "install",
    ),
    *(
        "journalctl",
        "ssh",
        "kill",
        "pytest",
        "jq",
        "uvicorn",
        "printf",
        "openssl",
        "sed",
        "uuidgen",
        ".",
        '"$server"',
        "$server",
    ),
}


def block_id(block: Block) -> str:
    """Name a block by its page and line."""
    return f"{block.page.relative_to(CHECKOUT)}:{block.line}"


def of(*languages: str) -> list[Block]:
    """Return the blocks in one of these languages."""
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_is_executed_or_visibly_excepted() -> None:
    """By its language: Python and commands run, configurations load; `text` is output, and no code."""
    executed = {"python", "yaml", "json", "toml", "text", *SHELL}
    others = [block for block in BLOCKS if block.language not in executed and not block.exception]
    assert [block_id(block) for block in others if (block.page, block.language) != (api.PAGE, "py")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_exception_is_of_a_block_and_names_tests_that_exist(page: Path) -> None:
    """A comment that stands above nothing excepts nothing, though it looks as if it did."""
    found = [EXCEPTION.fullmatch(line) for line in page.read_text(encoding="utf-8").splitlines()]
    reasons = [match[1] for match in found if match]
    assert reasons == [block.exception for block in blocks(page) if block.exception]
    named = [path for reason in reasons for path in re.findall(r"tests/[\w/]+\.py", reason)]
    assert [path for path in named if not (CHECKOUT / path).is_file()] == []


def test_python_has_no_exceptions() -> None:
    """All of it is run, page by page, by tests/integration/test_docs.py."""
    assert [block_id(block) for block in of("python") if block.exception] == []


@pytest.mark.parametrize("block", of("yaml", "json", "toml"), ids=block_id)
def test_data_loads_and_a_configuration_is_one_that_the_queue_takes(block: Block) -> None:
    """What is somebody else's, such as Kubernetes's, says so above itself."""
    loaded = {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}[block.language](block.code)
    if block.exception:
        return
    assert {"queue", "metrics"} & set(loaded), "neither a configuration nor excepted"
    whole = {"redis_url": "redis://localhost", "max_size": 1, "timeout": 1} | loaded.get("queue", {})
    load_config({**loaded, "queue": whole}, environ=dict.fromkeys(re.findall(r"\$\{(\w+)", block.code), "x"))


# --- commands: all of them are read ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", of(*SHELL), ids=block_id)
def test_commands_are_shell_and_call_what_there_is(block: Block) -> None:
    """Those that are not run, too: programs, subcommands, options, extras, modules and targets of make exist."""
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for words in commands(block.code):
        assert words[0] in PROGRAMS, words[0]
        check(words)


def check(words: list[str]) -> None:
    """Look whether what a command asks of this project is there."""
    program, *arguments = words
    if program == "streams-queue":
        parse(typer.main.get_command(app), program, arguments)
    elif program == "make":
        assert {word for word in arguments if "=" not in word and not word.startswith("-")} <= TARGETS
    elif program == "pip":
        named = [extra for word in arguments for extra in re.findall(r"\[([\w,]+)\]", word)]
        assert {extra for extras in named for extra in extras.split(",")} <= EXTRAS
    elif "python" in program and "-m" in arguments:
        assert importlib.util.find_spec(arguments[arguments.index("-m") + 1])


def parse(command: Any, name: str, arguments: list[str]) -> None:
    """Read the arguments as the command does; raises if it would not take them. Nothing is run."""
    context = command.context_class(command, info_name=name, resilient_parsing=False)
    given, left, _ = command.make_parser(context).parse_args(args=list(arguments))
    if hasattr(command, "commands"):
        assert left, f"{name} lacks a subcommand"
        assert left[0] in command.commands, f"{name} has no {left[0]}"
        parse(command.commands[left[0]], left[0], left[1:])
        return
    assert not left, f"{name} takes no {left}"
    missing = [each.name for each in command.params if each.required and given.get(each.name) in (None, (), [])]
    assert not missing, f"{name} lacks {missing}"


@pytest.mark.parametrize(
    "line",
    [
        "streams-queue statz",
        "streams-queue worker",
        "streams-queue stats --jsn",
        "streams-queue peek --count",
        "streams-queue stats x",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    """A subcommand, an argument, an option, a value."""
    with pytest.raises(Exception, match=r".+"):
        check(line.split())


def test_a_missing_target_extra_and_module_are_noticed() -> None:
    """Each by its own check."""
    for line in ("make tests", "pip install 'streams-queue[all,clii]'", "python -m benchmarkz"):
        with pytest.raises(AssertionError):
            [check(words) for words in commands(line)]


def test_commands_are_told_apart() -> None:
    """Pipes, redirections, assignments, continued lines and comments."""
    code = "A=1 echo 'a | b' | wc -l > out.txt  # c\nexport X=y && make \\\n  test\n"
    assert list(commands(code)) == [["echo", "a | b"], ["wc", "-l"], ["export", "X=y"], ["make", "test"]]


# --- commands: those that are not excepted run -----------------------------------------------------------------

TUTORIAL = CHECKOUT / "docs" / "tutorial"  # run in an empty directory, by test_tutorial.py
RUN = {
    page: [block for block in of(*SHELL) if block.page == page and not block.exception]
    for page in PAGES
    if page.parent != TUTORIAL
}


@pytest.fixture
def place(tmp_path: Path, start_server: StartServer) -> Iterator[Path]:
    """Return a directory as a reader would have it: configurations and handlers; the server has a queue with events."""
    url = start_server().url
    for name in ("webhook_config.yaml", "webhooks.yaml", "mails.yaml"):
        queue = {"type": "redis", "redis_url": url, "max_size": 100, "timeout": 5, "name": name.partition(".")[0]}
        if name == "webhook_config.yaml":
            del queue["name"]  # the queue that has events
        config = {"queue": queue | {"retry_policy": {"max_retries": 3, "base_delay": 1}}}
        (tmp_path / name).write_text(yaml.safe_dump(config))
    (tmp_path / "app").mkdir()
    for name in ("tasks.py", "my_tasks.py", "app/tasks.py"):
        (tmp_path / name).write_text(HANDLER)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (("streams-queue", "command_of_a_page.py"), ("redis-cli", "redis_cli_of_a_page.py")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SCRIPTS / script}" "$@"\n')
        (programs / name).chmod(0o755)
    fill(url)
    (tmp_path / "url").write_text(url)
    yield tmp_path
    shutil.rmtree(programs)


def fill(url: str) -> None:
    """Put events and dead letters under the ids that pages name, one of them in flight."""
    with redis.Redis.from_url(url) as server:
        stream, event = (
            "gitbridge:{events}",
            {"id": "1", "payload": '{"event_type": "push", "repo": "x/y"}', "meta": '{"v":1}'},
        )
        server.xadd(stream, event, id=ENTRY_ID)
        server.xgroup_create(stream, "processors", id="0")
        died = {"reason": "rejected", "error": "", "deliveries": "1", "enqueued_ms": "1", "died_ms": "2"}
        for dead_id in DEAD_IDS:
            server.xadd(f"{stream}:dead", event | died, id=dead_id)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(
    "page", [page for page, shown in RUN.items() if shown], ids=lambda page: str(page.relative_to(CHECKOUT))
)
def test_the_commands_of_a_page_run(page: Path, place: Path) -> None:
    """One after the other, in one shell that ends at the first failure, against a real server."""
    url = (place / "url").read_text()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMS_QUEUE_", "OTEL_"))}
    environ |= {
        "PATH": f"{place / 'bin'}:{Path(sys.executable).parent}:{environ['PATH']}",
        "PIP_NO_INDEX": "1",  # what pages install is installed: pip says so, or fails
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "STREAMS_QUEUE_REDIS_URL": url,
    }
    script = "\n".join(block.code for block in RUN[page]).replace("redis://localhost:6379/0", url)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=place,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
