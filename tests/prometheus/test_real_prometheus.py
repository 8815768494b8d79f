"""A real Prometheus scrapes an exporter and a worker by the shipped configuration: alerts fire, graphs show.

Shortened are the scrape interval and how long a condition has to hold, by the command's own options; nothing else is.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from streams_queue import RedisEventQueue
from streams_queue.cli.app import app
from tests.conftest import StartServer
from tests.support.builders import event, events, redis_config
from tests.support.pages import PageCommand
from tests.support.prometheus import (
    CHECKOUT,
    SHIPPED,
    RunningPrometheus,
    dashboard_queries,
    labels_in,
    names_in,
    needs_prometheus,
)
from tests.support.proxy import FlakyProxy
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600), needs_prometheus]

EXAMPLE = CHECKOUT / "config" / "webhook_config.yaml"
INTERVAL = "1s"
# What Prometheus adds to everything that it scrapes.
ADDED = {"job", "instance"}
DEPTH, ERRORS, NO_CONSUMER = "StreamsQueueDepth", "StreamsQueueErrors", "StreamsQueueNoConsumer"


class Stage:
    """One queue with an exporter, a worker that reaches the server through a proxy, and Prometheus.

    Args:
        folder: For all of them.
        url: Of the server.
        proxy: Before it.
    """

    def __init__(self, folder: Path, url: str, proxy: FlakyProxy) -> None:
        self.proxy = proxy
        self.config = redis_config(url, retry_policy={"max_retries": 0, "base_delay": 0})
        self._folder = folder
        self._proxied = redis_config(proxy.url, retry_policy={"max_retries": 0, "base_delay": 0}, type="resilient")
        self._commands: list[PageCommand] = []
        self.exporter = self._start("exporter", self.config, "--port", "0")
        self.worker = self._start_worker()
        self.prometheus = RunningPrometheus(folder, self._configuration())

    def _start(self, command: str, config: dict[str, Any], *options: str) -> PageCommand:
        folder = self._folder / f"command-{len(self._commands)}"
        folder.mkdir()
        self._commands.append(PageCommand(folder, config, command, *options))
        self._commands[-1].until_served()
        return self._commands[-1]

    def _start_worker(self) -> PageCommand:
        return self._start("worker", self._proxied, "my_handlers:handle", "--metrics-port", "0")

    def replace_worker(self) -> None:
        """Start another worker, and tell Prometheus where it is."""
        self.worker = self._start_worker()
        self.prometheus.configure(self._configuration())

    def _configuration(self) -> dict[str, Any]:
        """Write the rules as the command prints them, and return the shipped configuration for these targets."""
        (self._folder / "webhook_config.yaml").write_text(
            yaml.safe_dump(self.config | {"metrics": yaml.safe_load(EXAMPLE.read_text("utf-8"))["metrics"]}), "utf-8"
        )
        arguments = [
            "--config",
            str(self._folder / "webhook_config.yaml"),
            "--scrape-interval",
            INTERVAL,
            "--for",
            "1s",
        ]
        printed = CliRunner().invoke(app, ["alerts", *arguments])
        assert printed.exit_code == 0, printed.stderr
        (self._folder / "alerts.yml").write_text(printed.stdout, "utf-8")
        config: dict[str, Any] = yaml.safe_load((SHIPPED / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        targets = {"localhost:8766": self.exporter.ports[0], "localhost:8770": self.worker.ports[0]}
        for scrape in config["scrape_configs"]:
            for static in scrape["static_configs"]:
                static["targets"] = [f"127.0.0.1:{targets[target]}" for target in static["targets"]]
        return config

    async def use(self, action: Callable[[RedisEventQueue], Any]) -> None:
        """Do something with the queue, past the proxy."""
        async with RedisEventQueue(self.config) as queue:
            await action(queue)

    async def until_firing(self, *wanted: str) -> None:
        """Wait until all of these alerts fire."""
        await wait_until(lambda: set(wanted) <= self.prometheus.firing(), 120, what=self.prometheus.firing)

    async def until_silent(self, *wanted: str) -> None:
        """Wait until none of these alerts fires any more."""
        await wait_until(lambda: not self.prometheus.firing() & set(wanted), 120, what=self.prometheus.firing)

    def stop(self) -> None:
        """End everything."""
        self.prometheus.stop()
        for command in self._commands:
            command.stop()


@pytest.fixture
def stage(tmp_path: Path, start_server: StartServer, proxy_to: Callable[..., FlakyProxy]) -> Iterator[Stage]:
    """Everything started."""
    server = start_server()
    made = Stage(tmp_path, server.url, proxy_to(server))
    try:
        made.prometheus.start()
        yield made
    finally:
        made.stop()


async def test_the_alerts_fire_and_end(stage: Stage) -> None:
    """Depth over 1000, all consumers killed, errors over 1 %; on the way each query of the dashboard finds data."""
    await wait_until(lambda: stage.prometheus.targets_up() == 2, 60)
    await stage.use(lambda queue: queue.enqueue_many([event(1), event(2, bad=True)]))
    await wait_until(lambda: stage.worker.samples().total("streams_queue_dead_lettered_total") == 1, 60)
    await stage.until_silent(DEPTH, ERRORS, NO_CONSUMER)

    # All consumers are killed, and more comes in than the plan has bargained for.
    stage.worker.send(signal.SIGKILL)
    await asyncio.to_thread(stage.worker.ended)
    await stage.use(lambda queue: queue.enqueue_many(events(1001)))
    await stage.until_firing(DEPTH, NO_CONSUMER)
    assert [each["value"][1] for each in stage.prometheus.query("redis_queue_depth")] == ["1001"]
    await asyncio.to_thread(stage.replace_worker)
    await stage.until_silent(DEPTH, NO_CONSUMER)

    # Events come and go while Prometheus looks: all of the dashboard has something to show, but for what errors would.
    dashboard = Dashboard(stage.prometheus)

    async def show() -> bool:
        await stage.use(lambda queue: queue.enqueue_many([event(1), event(2, bad=True)]))
        return all("redis_error_rate_total" in query for _, query in dashboard.without_data())

    await wait_until(show, 120, what=dashboard.without_data)

    # The worker's connections break for as long as it takes, then work again.
    stage.proxy.refuse()
    stage.proxy.cut()
    await stage.until_firing(ERRORS)
    await wait_until(lambda: not dashboard.without_data(), 120, what=dashboard.without_data)
    stage.proxy.restore()
    await stage.until_silent(ERRORS)


class Dashboard:
    """The queries of the dashboard that have not found anything yet."""

    def __init__(self, prometheus: RunningPrometheus) -> None:
        self._prometheus = prometheus
        self._left = list(dashboard_queries())

    def without_data(self) -> list[tuple[str, str]]:
        """Look, and return titles and queries of what is left; each may ask only for labels that its metrics have."""
        self._left = [(title, query) for title, query in self._left if not self._has_data(query)]
        return self._left

    def _has_data(self, query: str) -> bool:
        asked = query.replace("$__rate_interval", "20s").replace("$queue", "gitbridge:events")
        assert "$" not in asked
        found = self._prometheus.query(asked)
        if all(each["value"][1] == "NaN" for each in found):
            return False
        series = [each["metric"] for name in names_in(query) for each in self._prometheus.query(name)]
        assert labels_in(query) <= ADDED.union(*series), query
        return True
