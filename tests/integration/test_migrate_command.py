"""The command `streams-queue migrate`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner, Result

from streams_queue.cli.app import app
from tests.conftest import MakeConfig
from tests.support.builders import Keys
from tests.support.plan_lists import pushed
from tests.support.processes import Programs
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.integration


class Command:
    """The command on the lists and the queue of one test."""

    def __init__(self, folder: Path, config: dict[str, Any], namespace: str) -> None:
        self.file = folder / "webhook_config.yaml"
        self.file.write_text(yaml.safe_dump(config))
        self.lists = ("--list", f"{namespace}:events", "--processing-list", f"{namespace}:processing")

    @property
    def words(self) -> list[str]:
        """The command's words, without options of a test's own."""
        return ["migrate", "--config", str(self.file), *self.lists]

    def __call__(self, *options: str) -> Result:
        """Run it in this process."""
        return CliRunner().invoke(app, [*self.words, *options])


@pytest.fixture
def sync(redis_url: str) -> redis.Redis:
    """A client to push with."""
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def make_command(make_config: MakeConfig, redis_url: str, namespace: str, tmp_path: Path) -> Callable[..., Command]:
    """Make the command for a configuration."""
    return lambda **queue: Command(tmp_path, make_config(**{"redis_url": redis_url, **queue}), namespace)


def test_the_report_in_words(make_command: Callable[..., Command], sync: redis.Redis, namespace: str) -> None:
    """Every list in a line that adds up; what was set aside is told one by one, too."""
    sync.lpush(f"{namespace}:events", *pushed(range(4)), "placeholder")
    sync.lpush(f"{namespace}:processing", *pushed(range(3)))
    command = make_command()
    would, did = command("--dry-run"), command()
    report = [
        f"{namespace}:events: 5 found = 4 moved, 1 set aside to {namespace}:events:set-aside, 0 left",
        f"{namespace}:processing: 3 found = 0 moved, 3 set aside to {namespace}:processing:set-aside, 0 left",
        "Set aside as no events: 1 placeholder.",
    ]
    assert (would.exit_code, would.stdout.splitlines()[1:]) == (0, report)
    assert (did.exit_code, did.stdout.splitlines()) == (0, report)
    assert did.stderr == "streams-queue: set aside as placeholder: it stands for no event\n"


def test_a_terminal_sees_how_far_it_is(make_command: Callable[..., Command], sync: redis.Redis, namespace: str) -> None:
    """A bar, below what there is to say, and the report."""
    sync.lpush(f"{namespace}:events", *pushed(range(500)), "placeholder")
    words = [sys.executable, "-c", "from streams_queue.cli import main; main()", *make_command().words]
    with Terminal(words, columns=200, lines=10) as terminal:
        wait_until_sync(lambda: "0 left" in terminal.text, 20, what=lambda: terminal.text)
        assert "set aside as placeholder" in terminal.display[0]
        assert terminal.display[1].startswith("migrated ━")
        assert " 501/501 " in terminal.display[1]


def test_the_report_for_machines(make_command: Callable[..., Command], sync: redis.Redis, namespace: str) -> None:
    """All on standard output, and nothing else there."""
    sync.lpush(f"{namespace}:events", *pushed(range(4)), *["placeholder"] * 30)
    result = make_command()("--json")
    answer = json.loads(result.stdout)
    assert (answer["finished"], answer["adds_up"], answer["unfit"]) == (True, True, {"placeholder": 30})
    assert (answer["waiting"]["found"], answer["waiting"]["moved"], answer["waiting"]["set_aside"]) == (34, 4, 30)
    assert len(result.stderr.splitlines()) == 21


def test_who_gets_no_room_in_time_is_not_finished(
    make_command: Callable[..., Command], sync: redis.Redis, namespace: str, keys: Keys
) -> None:
    """Exit code 1, and what to do; the next run says that it goes on."""
    sync.lpush(f"{namespace}:events", *pushed(range(4)))
    first = make_command(max_size=3)("--wait-for-room", "0")
    assert first.exit_code == 1
    assert "Not finished; run it again to go on." in first.stdout
    assert "the queue is full" in first.stderr
    second = make_command(max_size=3)("--beyond-max-size")
    assert (second.exit_code, sync.xlen(keys.stream)) == (0, 4)
    assert second.stderr == "streams-queue: going on where an earlier run was: 3 of 4 are done\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--processing", "some"),
        ("--follow", "--dry-run"),
        ("--until-idle", "3"),
        ("--beyond-max-size", "--leave-room", "3"),
        ("--set-aside", "x", "--processing-list", "x"),
        ("--from-url", "http://nowhere"),
    ],
)
def test_options_that_cannot_be_used(make_command: Callable[..., Command], options: tuple[str, ...]) -> None:
    """Exit code 2 and one line."""
    result = make_command()(*options)
    assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (2, 1, "")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_url_that_cannot_be_used_is_told_by_its_option(
    make_command: Callable[..., Command], more: tuple[str, ...]
) -> None:
    """And not by the setting, which is right; its password is not told."""
    result = make_command()("--from-url", "http://user:hidden@nowhere", *more)
    assert (result.exit_code, result.stderr[:24]) == (2, "streams-queue: --from-ur")
    assert "hidden" not in result.stderr


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_what_is_set_aside_does_not_become_a_key_of_the_queue(
    make_command: Callable[..., Command], sync: redis.Redis, keys: Keys, namespace: str, more: tuple[str, ...]
) -> None:
    """A list there would break the queue."""
    sync.lpush(f"{namespace}:events", b"placeholder")
    result = make_command()("--set-aside", keys.delayed, *more)
    assert (result.exit_code, sync.exists(keys.delayed)) == (2, 0)
    assert f"{keys.delayed} is a key of the queue itself" in result.stderr


def test_a_configuration_without_a_server(make_command: Callable[..., Command]) -> None:
    """An asyncio queue dies with its process; exit code 2."""
    result = make_command(type="asyncio", redis_url=None)()
    assert (result.exit_code, result.stderr) == (2, "streams-queue: queue.redis_url: Missing redis_url\n")


def test_a_server_that_is_not_there(make_command: Callable[..., Command]) -> None:
    """Exit code 3, without the password."""
    result = make_command(enqueue_timeout=0.2)("--from-url", "redis://:hunter2@127.0.0.1:1/0")
    assert (result.exit_code, "hunter2" in result.stderr) == (3, False)
    assert "127.0.0.1:1" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "follow", "code"),
    [
        (signal.SIGTERM, True, 0),
        (signal.SIGINT, False, 130),
    ],
)
async def test_a_signal_ends_it_in_order(
    make_command: Callable[..., Command],
    programs: Programs,
    sync: redis.Redis,
    keys: Keys,
    number: signal.Signals,
    *,
    follow: bool,
    code: int,
) -> None:
    """With its report; 0 for a bridge, and for a migration that waits for room the code of the signal."""
    sync.lpush(f"{keys.namespace}:events", *pushed(range(5)))
    command = make_command(max_size=100 if follow else 3)
    program = programs("command", words=[*command.words, "--json", *(["--follow"] if follow else [])])
    await wait_until(
        lambda: any("following" in line or "full" in line for line in program.errors), 20, what=program.describe
    )
    program.signal(number)
    assert await program.ended() == code, program.describe()
    (report,) = program.journal
    assert (report["finished"], report["waiting"]["moved"], report["adds_up"]) == (follow, 5 if follow else 3, True)
