"""`top` in a real pseudo-terminal: what a person sees, and how the terminal is left."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner

from streams_queue import Queue, QueueFactory
from streams_queue.cli.app import app
from tests.conftest import StartServer
from tests.support.builders import Keys, events, queue_config
from tests.support.servers import RedisServer, free_port
from tests.support.terminal import ALTERNATE_SCREEN, CURSOR, Terminal
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration
KEYS = Keys("gitbridge")
Watch = Callable[..., Terminal]
COMMAND = (sys.executable, "-c", "from streams_queue.cli import main; main()")


@pytest.fixture
def server(start_server: StartServer) -> RedisServer:
    """A server of the test's own, that may go away; what it holds survives that."""
    return start_server(appendonly="yes", appendfsync="always")


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Start `streams-queue top` on a terminal, `watch(url, columns=60, lines=30)`."""

    def start(url: str, *, columns: int = 100, lines: int = 30, interval: float = 0.1, **queue: Any) -> Terminal:
        file = tmp_path / "webhook_config.yaml"
        file.write_text(yaml.safe_dump(queue_config(type="redis", redis_url=url, **{"lease": 15, **queue})))
        command = [*COMMAND, "top", "--config", str(file), "--interval", str(interval)]
        return Terminal(command, columns=columns, lines=lines)

    return start


def fill(server: RedisServer) -> None:
    """Leave a queue with something in each of its states."""

    async def act(queue: Queue) -> None:
        await queue.enqueue_many(events(20), event_ids=[f"delivery-{n}" for n in range(20)])
        taken = await queue.receive(3, timeout=5)
        for delivery in taken:
            await queue.dead_letter(delivery, "rejected")
        await queue.enqueue({"n": 21}, delay=3600)

    async def run() -> None:
        async with QueueFactory.create_queue(queue_config(type="redis", redis_url=server.url)) as queue:
            await act(queue)

    asyncio.run(run())
    with redis.Redis.from_url(server.url) as client:
        client.xreadgroup(KEYS.group, "worker-host-1", {KEYS.stream: ">"}, count=2)


def check_left_clean(terminal: Terminal) -> None:
    """The alternate screen is left, the cursor is shown, and the terminal is set as it was."""
    wait_until_sync(
        lambda: terminal.written.count(ALTERNATE_SCREEN) == 2, 30, what=lambda: repr(terminal.written[-200:])
    )
    assert terminal.written.rindex(f"{ALTERNATE_SCREEN}l") > terminal.written.rindex(f"{ALTERNATE_SCREEN}h")
    assert terminal.written.rindex(f"{CURSOR}h") > terminal.written.rindex(f"{CURSOR}l")
    assert terminal.settings() == terminal.settings_before


@pytest.mark.parametrize(("columns", "lines"), [(60, 40), (140, 30)])
def test_everything_is_on_the_screen(columns: int, lines: int, server: RedisServer, watch: Watch) -> None:
    """Narrow and wide: figures, rates, ages, consumers, events in flight, dead letters, and how to end it."""
    fill(server)
    with watch(server.url, columns=columns, lines=lines) as terminal:
        shown = terminal.wait_for("waiting 15", "in flight 2", "delayed 1", "dead 3", "in/s 0.0")
        assert "18 of 10,000, 0%" in shown
        assert "q quits" in shown
        assert "gitbridge:{events} on 127.0.0.1" in shown
        assert "oldest waiting" in shown
        for title in ("Consumers: ", "In flight, oldest first", "Dead letters: 3, oldest first"):
            assert title in shown
        assert "worker-host-1" in shown
        assert "delivery-0" in shown
        assert "rejected" in shown
        # On a wide screen two lists stand side by side.
        assert any("Consumers" in line and "In flight" in line for line in terminal.display) is (columns > 100)
        terminal.press("q")
        assert terminal.ended() == 0
        check_left_clean(terminal)


def test_it_follows_what_happens(server: RedisServer, watch: Watch) -> None:
    """An empty server stays empty; events that go in are there a moment later, and are a rate."""
    with watch(server.url) as terminal:
        terminal.wait_for("waiting 0", "Consumers: 0", "in/s 0.0")
        assert server.command("DBSIZE") == 0
        fill(server)
        # A screen may be read while it is half drawn.
        wait_until_sync(
            lambda: "waiting 15" in terminal.text and "in/s 0.0" not in terminal.text, 60, what=lambda: terminal.text
        )


def is_drawn(terminal: Terminal, columns: int, *, side_by_side: bool) -> bool:
    """Whether the screen is that of this width, and nothing of another one is left on it."""
    display = terminal.display
    return (
        display[0].endswith("q quits")
        and len(display[0]) == columns
        and any("Consumers" in line and "In flight" in line for line in display) is side_by_side
        and [sum(title in line for line in display) for title in ("Consumers", "In flight", "Dead letters")]
        == [1, 1, 1]
    )


def test_it_follows_the_size_of_the_terminal(server: RedisServer, watch: Watch) -> None:
    """From narrow to wide and back, without anything pressed, and nothing left of the size before."""
    fill(server)
    # After the first look there is none, so that nothing but the size makes it draw.
    with watch(server.url, columns=60, lines=40, interval=3600) as terminal:
        terminal.wait_for("Dead letters: 3", "rejected")
        terminal.resize(140, 30)
        wait_until_sync(lambda: is_drawn(terminal, 140, side_by_side=True), 60, what=lambda: terminal.text)
        terminal.resize(60, 40)
        wait_until_sync(lambda: is_drawn(terminal, 60, side_by_side=False), 60, what=lambda: terminal.text)
        terminal.resize(20, 5)
        wait_until_sync(lambda: terminal.display[0][10:].endswith(" q quits"), 60, what=lambda: terminal.text)


@pytest.mark.parametrize("end", ["\x03", signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_every_way_to_end_it_leaves_the_terminal_as_it_was(
    end: str | signal.Signals, server: RedisServer, watch: Watch
) -> None:
    """Ctrl-C as the terminal sends it, and a signal from elsewhere; other tests press q."""
    with watch(server.url) as terminal:
        terminal.wait_for("waiting 0")
        assert terminal.settings() != terminal.settings_before
        if isinstance(end, str):
            terminal.press(end)
        else:
            terminal.signal(end)
        assert terminal.ended() == 0
        check_left_clean(terminal)


def test_an_outage_is_shown_and_survived(server: RedisServer, watch: Watch) -> None:
    """What was last seen stays, with the reason why there is nothing newer; then it goes on by itself."""
    fill(server)
    with watch(server.url) as terminal:
        terminal.wait_for("waiting 15")
        server.kill()
        shown = terminal.wait_for("✗ no answer for", "what follows was seen before")
        assert "waiting 15" in shown
        server.start()
        wait_until_sync(lambda: "no answer" not in terminal.text and "waiting 15" in terminal.text, 30)
        terminal.press("q")
        assert terminal.ended() == 0


def test_it_may_begin_during_an_outage(watch: Watch) -> None:
    """It says so, and can be ended all the same."""
    with watch(f"redis://127.0.0.1:{free_port()}/0") as terminal:
        terminal.wait_for("✗ no answer for", "cannot connect to 127.0.0.1")
        terminal.press("q")
        assert terminal.ended() == 0
        check_left_clean(terminal)


def test_a_wrong_password_ends_it(start_server: StartServer, watch: Watch) -> None:
    """No retry would mend it; the reason is on the screen that was there before."""
    server = start_server(requirepass="right-one")
    with watch(f"redis://:wrong-one@127.0.0.1:{server.port}/0") as terminal:
        assert terminal.ended() == 3
        check_left_clean(terminal)
        terminal.wait_for("WRONGPASS")
        assert "wrong-one" not in terminal.written


def test_without_a_terminal_it_says_so(tmp_path: Path) -> None:
    """A pipe gets an exit code and a better idea."""
    file = tmp_path / "webhook_config.yaml"
    file.write_text(yaml.safe_dump(queue_config(type="redis", redis_url=f"redis://127.0.0.1:{free_port()}/0")))
    done = CliRunner().invoke(app, ["top", "--config", str(file)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr
    assert "stats --json" in done.stderr
