"""The factory: which queue a configuration makes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streams_queue import EventQueue, QueueFactory, RedisEventQueue, ResilientQueue, load_config
from streams_queue.errors import ConfigError
from streams_queue.observer import Observer
from streams_queue.queue import Queue

NOWHERE = "redis://127.0.0.1:1/0"


def configuration(**queue: Any) -> dict[str, Any]:
    """Return the plan's configuration; None takes a key out."""
    plan = {
        "max_size": 10_000,
        "timeout": 30,
        "retry_policy": {"max_retries": 3, "base_delay": 1},
        "redis_url": NOWHERE,
    }
    return {"queue": {key: value for key, value in {**plan, **queue}.items() if value is not None}}


@pytest.mark.parametrize(
    ("kind", "made"), [("redis", RedisEventQueue), ("asyncio", EventQueue), ("resilient", ResilientQueue)]
)
def test_the_type_decides_which_queue_is_made(kind: str, made: type) -> None:
    """Without I/O: nobody listens where the URL leads, and no event loop runs."""
    queue = QueueFactory.create_queue(configuration(type=kind))
    assert type(queue) is made
    assert isinstance(queue, Queue)
    assert queue.is_running()
    assert (queue.max_size, queue.timeout) == (10_000, 30)


def test_the_configuration_may_be_a_path_or_settings(tmp_path: Path) -> None:
    """A YAML file with foreign sections, or what load_config returned."""
    path = tmp_path / "webhook_config.yaml"
    path.write_text("github: {secret: x}\nqueue: {type: asyncio, max_size: 5, timeout: 1, retry_policy: {}}\n")
    for config in (path, str(path), load_config(path)):
        queue = QueueFactory.create_queue(config)
        assert isinstance(queue, EventQueue)
        assert queue.max_size == 5


def test_an_environment_s_section_overrides() -> None:
    """As in load_config."""
    config = configuration(type="redis") | {"environments": {"test": {"queue": {"type": "asyncio", "max_size": 3}}}}
    queue = QueueFactory.create_queue(config, environment="test")
    assert isinstance(queue, EventQueue)
    assert queue.max_size == 3


@pytest.mark.parametrize("kind", ["rabbitmq", "Redis", ""])
def test_an_unknown_type_is_an_error(kind: str) -> None:
    """The plan's silent default would turn a typo into a queue that dies with its process."""
    with pytest.raises(ConfigError, match=r"queue\.type"):
        QueueFactory.create_queue(configuration(type=kind))


@pytest.mark.parametrize("kind", ["redis", "resilient"])
def test_a_server_s_queue_needs_its_url(kind: str) -> None:
    """The asyncio one does not."""
    with pytest.raises(ConfigError, match="Missing redis_url"):
        QueueFactory.create_queue(configuration(type=kind, redis_url=None))
    assert isinstance(QueueFactory.create_queue(configuration(type="asyncio", redis_url=None)), EventQueue)


def test_all_that_is_missing_is_listed() -> None:
    """The plan's required fields, at once."""
    with pytest.raises(ConfigError) as raised:
        QueueFactory.create_queue({"queue": {"name": "events"}})
    assert "Missing required fields: type, max_size, timeout, retry_policy" in str(raised.value)


async def test_observers_reach_the_queue() -> None:
    """They are told of what happens there."""

    class Counting(Observer):
        count = 0

        def accepted(self, count: int) -> None:
            self.count += count

    observer = Counting()
    async with QueueFactory.create_queue(configuration(type="asyncio"), observers=[observer]) as queue:
        await queue.enqueue({"event_type": "ping"})
    assert observer.count == 1


def test_an_asyncio_queue_never_loads_redis() -> None:
    """A process without a server needs no client library in memory."""
    config = {"queue": {"type": "asyncio", "max_size": 1, "timeout": 1, "retry_policy": {}}}
    names = "QueueFactory, check_redis_health, Worker"
    steps = (f"from streams_queue import {names}", f"QueueFactory.create_queue({config})", "import sys")
    code = "; ".join((*steps, "print('redis' in sys.modules)"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
