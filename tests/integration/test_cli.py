"""The command on a real server: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from streams_queue import Queue, QueueFactory
from streams_queue.cli.app import app
from tests.conftest import StartServer
from tests.support.builders import redis_config
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration
CHECKOUT = Path(__file__).resolve().parents[2]


class Command:
    """The command, told by a configuration file which queue it is about."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.config = config
        self.file = folder / "webhook_config.yaml"
        self.file.write_text(yaml.safe_dump(config))

    def __call__(self, *arguments: str, text: str | None = None) -> Result:
        """Run it in this process."""
        return CliRunner().invoke(app, [*arguments, "--config", str(self.file)], input=text)

    def json(self, *arguments: str, text: str | None = None) -> Any:
        """Run it with --json and return what it printed on standard output, which must be all JSON."""
        return json.loads(self(*arguments, "--json", text=text).stdout)

    def on_queue(self, action: Callable[[Queue], Awaitable[Any]]) -> Any:
        """Do something with the queue that the command is about."""

        async def act() -> Any:
            async with QueueFactory.create_queue(self.config) as queue:
                return await action(queue)

        return asyncio.run(act())

    def bury(self, count: int) -> None:
        """Make dead letters of `count` new events."""

        async def bury(queue: Queue) -> None:
            await queue.enqueue_many([{"n": n} for n in range(count)])
            left = count
            while left:
                for delivery in await queue.receive(left, timeout=5):
                    await queue.dead_letter(delivery, "rejected")
                    left -= 1

        self.on_queue(bury)


@pytest.fixture
def command(tmp_path: Path, redis_url: str) -> Command:
    """The command on a queue of this test's own."""
    return Command(tmp_path, redis_config(redis_url, namespace=f"cli{uuid.uuid4().hex[:10]}"))


def lines(*values: Any) -> str:
    """Write values as JSON lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def test_lines_go_in_and_are_seen(command: Command) -> None:
    """What `enqueue` takes, `stats` counts and `peek` shows, in order and untouched."""
    done = command("enqueue", "-", text=lines(*({"n": n} for n in range(250))))
    assert (done.exit_code, done.stdout) == (0, "250 accepted, 0 duplicates, 0 not accepted, 0 bad\n")
    assert command.json("stats")["waiting"] == 250
    assert [event["payload"] for event in command.json("peek", "--count", "3")] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert command.json("stats")["waiting"] == 250


def test_a_file_goes_in_as_standard_input_does(command: Command, tmp_path: Path) -> None:
    """A file is named as the argument; blank lines are passed over."""
    (tmp_path / "events.jsonl").write_text(lines({"n": 1}) + "\n\n" + lines({"n": 2}))
    assert command.json("enqueue", str(tmp_path / "events.jsonl"))["accepted"] == 2


def test_bad_lines_are_reported_and_the_others_go_in(command: Command) -> None:
    """Each bad line is named by its number, also in the middle of a batch; the exit code is 1."""
    text = lines({"n": 1}) + "{broken\n" + lines([1]) + '{"n": NaN}\n' + '{"text": "\\ud800"}\n' + lines({"n": 2})
    done = command("enqueue", "-", text=text)
    assert done.exit_code == 1
    assert done.stdout == "2 accepted, 0 duplicates, 0 not accepted, 4 bad\n"
    reported = [line.split(":")[1].strip() for line in done.stderr.splitlines()]
    assert reported == ["line 2", "line 3", "line 4", "line 5"]
    assert [event["payload"] for event in command.json("peek")] == [{"n": 1}, {"n": 2}]


def test_strict_stops_at_the_first_bad_line(command: Command) -> None:
    """What came before it is in the queue, what comes after it is not."""
    text = lines({"n": 1}) + "{broken\n" + lines({"n": 2})
    done = command("enqueue", "-", "--strict", "--batch", "1", text=text)
    assert (done.exit_code, done.stdout) == (1, "1 accepted, 0 duplicates, 0 not accepted, 1 bad\n")


def test_the_same_event_id_goes_in_once(command: Command) -> None:
    """With an event id the same lines may be sent again."""
    text = lines(*({"delivery": {"id": f"d{n}"}} for n in range(5)))
    arguments = ("enqueue", "-", "--event-id-field", "delivery.id")
    assert command.json(*arguments, text=text)["accepted"] == 5
    assert command.json(*arguments, text=text) == {"accepted": 0, "duplicates": 5, "not_accepted": 0, "bad": 0}
    assert command.json("peek")[0]["event_id"] == "d0"


def test_delayed_events_are_shown_as_such(command: Command) -> None:
    """A delayed event is not waiting; `peek` says when it is due."""
    command("enqueue", "-", "--delay", "600", text=lines({"n": 1}))
    found = command.json("stats")
    assert (found["waiting"], found["delayed"]) == (0, 1)
    (event,) = command.json("peek")
    assert event["state"] == "delayed"
    assert event["due_at"] > 0


def test_a_full_queue_says_so(tmp_path: Path, redis_url: str) -> None:
    """What the queue does not take is reported line by line and the exit code is 1."""
    namespace = f"cli{uuid.uuid4().hex[:10]}"
    small = Command(tmp_path, redis_config(redis_url, namespace=namespace, max_size=2))
    done = small("enqueue", "-", text=lines({"n": 1}, {"n": 2}, {"n": 3}))
    assert (done.exit_code, done.stdout) == (1, "2 accepted, 0 duplicates, 1 not accepted, 0 bad\n")
    assert done.stderr == "streams-queue: line 3: not accepted, the queue is full\n"


def test_a_healthy_queue_exits_with_0(command: Command) -> None:
    """The status is printed, too."""
    done = command("health")
    assert done.exit_code == 0
    assert done.stdout.startswith("status ")
    assert command.json("health")["status"] == "healthy"


def test_an_unreachable_server_is_unhealthy(tmp_path: Path) -> None:
    """`health` answers no; the other commands say that they could not reach it."""
    nowhere = Command(tmp_path, redis_config("redis://127.0.0.1:1/0", enqueue_timeout=0.3))
    assert nowhere("health").exit_code == 1
    assert nowhere.json("health")["status"] == "unhealthy"
    for arguments in (("stats",), ("peek",), ("dead", "list")):
        done = nowhere(*arguments)
        assert (done.exit_code, done.stdout) == (3, "")
        assert len(done.stderr.splitlines()) == 1


def test_the_url_overrides_the_configuration(command: Command) -> None:
    """--url names another server for the same queue."""
    done = command("stats", "--url", "redis://127.0.0.1:1/0")
    assert done.exit_code == 3


def test_the_environment_configures_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither option the command reads the environment."""
    queue = command.config["queue"]
    monkeypatch.setenv("STREAMS_QUEUE_REDIS_URL", queue["redis_url"])
    monkeypatch.setenv("STREAMS_QUEUE_NAMESPACE", queue["namespace"])
    CliRunner().invoke(app, ["enqueue", "-"], input=lines({"n": 1}), catch_exceptions=False)
    assert command.json("stats")["waiting"] == 1


def test_dead_letters_are_listed_shown_and_put_back(command: Command) -> None:
    """The operator finds a dead letter, reads it, and lets it run again."""
    command.bury(3)
    letters = command.json("dead", "list")
    assert [letter["reason"] for letter in letters] == ["rejected"] * 3
    dead_id = letters[1]["dead_id"]
    assert command.json("dead", "show", dead_id)["payload"] == {"n": 1}
    assert command("dead", "show", "1-0").exit_code == 1
    assert command.json("dead", "redrive", dead_id) == {"redriven": 1, "dead": 2}
    assert command.json("peek")[0]["payload"] == {"n": 1}
    assert command("dead", "redrive", dead_id).exit_code == 1
    assert command.json("dead", "redrive", "--all") == {"redriven": 2, "dead": 0}


def test_dead_letters_are_listed_page_by_page(command: Command) -> None:
    """--after continues where the last page ended."""
    command.bury(3)
    first = command.json("dead", "list", "--count", "2")
    rest = command.json("dead", "list", "--after", first[-1]["dead_id"])
    assert [letter["payload"]["n"] for letter in first + rest] == [0, 1, 2]


def test_purging_asks_first(command: Command) -> None:
    """Without a yes nothing is deleted; with one it is, and a second time there is nothing left to delete."""
    command.bury(2)
    assert command("dead", "purge", "--all", text="n\n").exit_code == 1
    assert len(command.json("dead", "list")) == 2
    dead_id = command.json("dead", "list")[0]["dead_id"]
    assert command("dead", "purge", dead_id, text="y\n").exit_code == 0
    assert command.json("dead", "purge", "--all", "--yes") == {"deleted": 1}
    assert command("dead", "purge", dead_id, "--yes").exit_code == 1


def test_payloads_cannot_talk_to_the_terminal(command: Command) -> None:
    """Markup and escape sequences in a payload or an id come out as plain text."""
    evil = {"id": "\x1b]0;owned\x07", "text": "[bold red]x[/] \x1b[2J \u202e"}
    command("enqueue", "-", "--event-id-field", "id", text=lines(evil))
    for arguments in (["peek"], ["peek", "--json"]):
        out = command(*arguments).stdout
        assert not any(c in out for c in "\x1b\x07\u202e")
        assert "[bold red]x[/]" in out


# A test run in the background of a script ignores Ctrl-C, and its children would inherit that.
IN_THE_FOREGROUND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from streams_queue.cli import main
main()
"""


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start the command as a process."""
    return subprocess.Popen(
        [sys.executable, "-c", IN_THE_FOREGROUND, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_works_until_it_is_told_to_stop(command: Command, tmp_path: Path) -> None:
    """The handler comes from the working directory; SIGTERM ends it with exit code 0 and its counts as JSON."""
    (tmp_path / "my_tasks.py").write_text(
        "from pathlib import Path\n"
        "def handle(event):\n"
        "    with Path('done.txt').open('a') as file:\n"
        "        file.write(f\"{event['n']}\\n\")\n"
    )
    command("enqueue", "-", text=lines(*({"n": n} for n in range(20))))
    worker = start("worker", "my_tasks:handle", "--config", str(command.file), "--json", cwd=tmp_path)
    try:
        done = tmp_path / "done.txt"
        done.touch()
        wait_until_sync(lambda: len(done.read_text().splitlines()) == 20 or worker.poll() is not None)
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=20)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0, err
    assert json.loads(out)["processed"] == 20
    assert sorted(done.read_text().split(), key=int) == [str(n) for n in range(20)]
    stats = command.json("stats")
    assert (stats["waiting"], stats["in_flight"], stats["totals"]["acked"]) == (0, 0, 20)


def test_ctrl_c_ends_a_command_that_waits_for_input(command: Command, tmp_path: Path) -> None:
    """`enqueue` waiting for its next line ends with 130; what it had sent is in the queue."""
    running = start("enqueue", "--batch", "1", "--config", str(command.file), cwd=tmp_path)
    try:
        assert running.stdin is not None
        running.stdin.write(lines({"n": 1}))
        running.stdin.flush()
        wait_until_sync(lambda: command.json("stats")["waiting"] == 1 or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, out) == (130, "1 accepted, 0 duplicates, 0 not accepted, 0 bad\n")
    assert "Traceback" not in err


# --- pausing ---


@pytest.mark.parametrize(
    ("options", "intake", "delivery"),
    [
        ((), True, True),
        (("--intake",), True, False),
        (("--delivery",), False, True),
        (("--intake", "--delivery"), True, True),
    ],
)
def test_pause_stops_what_is_asked_for_until_resume(
    command: Command, options: tuple[str, ...], intake: bool, delivery: bool
) -> None:
    """It is there for everybody, `stats` shows it, and one resume ends it."""
    command("enqueue", text=lines({"n": 1}))
    assert command.json("pause", *options) == {"intake_paused": intake, "delivery_paused": delivery}
    stats = command.json("stats")
    assert (stats["paused"], stats["intake_paused"], stats["delivery_paused"]) == (True, intake, delivery)
    shown = command("stats").stdout
    assert [f"{name} paused" in shown for name in ("intake", "delivery")] == [True, True]
    assert command.on_queue(lambda queue: queue.enqueue({"n": 2})) is not intake
    assert command.on_queue(lambda queue: queue.receive(timeout=0.2)) == [] if delivery else True

    result = command("resume")
    assert (result.exit_code, result.stdout.strip()) == (0, "intake running, handing out running")
    assert command.json("stats")["paused"] is False
    assert command.on_queue(lambda queue: queue.enqueue({"n": 3})) is True


def test_pause_without_a_server_says_so(tmp_path: Path) -> None:
    """And nothing is paused."""
    command = Command(tmp_path, redis_config("redis://127.0.0.1:1/0", enqueue_timeout=0.2))
    assert command("pause").exit_code == 3


# --- of a rollout ---


@pytest.fixture
def rollout(tmp_path: Path, start_server: StartServer) -> Command:
    """The command on two queues, half of the repositories in each, on a server of their own, which may be examined."""
    sides = {"percentage": 50, "old": {}, "new": {"name": "new"}}
    return Command(tmp_path, redis_config(start_server().url, type="rollout", rollout=sides))


def test_commands_see_both_queues_of_a_rollout(rollout: Command) -> None:
    """What `enqueue` shares out, `stats` adds up, `health` tells apart, and `pause` stops."""
    assert rollout.json("enqueue", text=lines(*({"repo": f"octocat/{n}"} for n in range(100))))["accepted"] == 100
    assert rollout.json("stats")["waiting"] == 100
    health = rollout.json("health")
    assert 30 < health["old"]["queue_depth"] < 70
    assert health["old"]["queue_depth"] + health["new"]["queue_depth"] == 100
    rollout("pause")
    health = rollout.json("health")
    assert (health["old"]["paused"], health["new"]["paused"]) == (True, True)
    rollout("resume")
    rollout.on_queue(lambda queue: queue.purge())
    assert len(rollout.json("dead", "list")) == 100
    assert rollout.json("dead", "redrive", "--all") == {"redriven": 100, "dead": 0}


def test_a_command_about_one_queue_of_a_rollout_wants_to_know_which(rollout: Command) -> None:
    """Both are on servers; each by itself can be examined."""
    result = rollout("doctor")
    assert (result.exit_code, "--side old or --side new" in result.stderr) == (2, True)
    assert rollout.json("doctor", "--side", "new")["reachable"] is True
    assert rollout("doctor", "--side", "newest").exit_code == 2


def test_of_an_asyncio_queue_and_another_one_commands_see_the_other_one(
    tmp_path: Path, start_server: StartServer
) -> None:
    """Nobody has to say which."""
    sides = {"percentage": 0, "old": {"type": "asyncio"}, "new": {}}
    command = Command(tmp_path, redis_config(start_server().url, type="rollout", rollout=sides))
    assert command.json("enqueue", text=lines({"n": 1}))["accepted"] == 1
    assert command.json("stats")["waiting"] == 1
    assert command.json("doctor")["reachable"] is True
