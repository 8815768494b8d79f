"""The rules by which Prometheus alerts: the configuration's thresholds, durations, and the shipped file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from streams_queue.cli.app import app
from streams_queue.config import load_config
from streams_queue.errors import UsageError
from streams_queue.monitoring.alerts import rules
from streams_queue.telemetry.names import COUNTERS, EVENTS, HISTOGRAMS, PROCESS_GAUGES, QUEUE_GAUGES, UP
from streams_queue.telemetry.prometheus import series_name
from tests.support.builders import redis_config
from tests.support.prometheus import CHECKOUT, SHIPPED, dashboard_queries, names_in

KNOWN = {series_name(metric) for metric in (*COUNTERS, *QUEUE_GAUGES, *PROCESS_GAUGES, *HISTOGRAMS, UP, EVENTS)}
OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def made(metrics: list[dict[str, Any]] | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    """Return the rules by name, with the thresholds of a `metrics` list."""
    config = redis_config("redis://h", namespace="ns") | ({"metrics": metrics} if metrics else {})
    (group,) = rules(load_config(config), **options)["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_the_shipped_rules_are_what_the_command_prints() -> None:
    """From the shipped configuration, which is the plan's."""
    example = CHECKOUT / "config" / "webhook_config.yaml"
    done = CliRunner().invoke(app, ["alerts", "--config", str(example)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (SHIPPED / "alerts.yml").read_text("utf-8")


def test_thresholds_are_those_of_the_configuration() -> None:
    """Each of them; what it leaves out is usual."""
    usual = made()
    given = made(
        [
            {"name": "redis_queue_depth", "type": "gauge", "threshold": 50},
            {"name": "redis_error_rate", "type": "counter", "alert_threshold": "2.5%"},
            {"name": "streams_queue.oldest_waiting.age", "type": "gauge", "threshold": 7.5},
            {"name": "streams_queue.consumers.idle", "type": "gauge", "threshold": 90},
            {"name": "streams_queue.max_size", "type": "gauge", "alert_threshold": 0.5},
        ]
    )
    ends = {
        "StreamsQueueDepth": (" > 1000", " > 50"),
        "StreamsQueueErrors": (" > 0.01", " > 0.025"),
        "StreamsQueueOldestWaiting": (" > 300", " > 7.5"),
        "StreamsQueueNearlyFull": (" > 0.8", " > 0.5"),
    }
    for name, (before, after) in ends.items():
        assert usual[name]["expr"].endswith(before)
        assert given[name]["expr"].endswith(after)
    assert "idle_seconds) > 30 " in usual["StreamsQueueNoConsumer"]["expr"]
    assert "idle_seconds) > 90 " in given["StreamsQueueNoConsumer"]["expr"]
    assert "more than 2.5%" in given["StreamsQueueErrors"]["annotations"]["summary"]


def test_a_threshold_of_0_is_one() -> None:
    """It alerts at the first event that waits."""
    given = made([{"name": "redis_queue_depth", "type": "gauge", "threshold": 0}])
    assert given["StreamsQueueDepth"]["expr"].endswith(" > 0")


@pytest.mark.parametrize(("interval", "window"), [("15s", "5m"), ("1s", "20s"), ("30s", "10m"), ("3m", "1h")])
def test_rates_are_over_twenty_scrapes(interval: str, window: str) -> None:
    """However often that is."""
    given = made(scrape_interval=interval)
    windows = {found for rule in given.values() for found in re.findall(r"\[(\w+)\]", rule["expr"])}
    assert windows == {window}


def test_how_long_a_condition_holds_can_be_said_for_all() -> None:
    """Where an alert is at once, it stays so."""
    assert {rule["for"] for rule in made(lasting="1s").values()} == {"0s", "1s"}
    assert {rule["for"] for rule in made().values()} == {"0s", "1m", "5m"}


@pytest.mark.parametrize("options", [{"scrape_interval": "often"}, {"scrape_interval": "0s"}, {"lasting": "5 minutes"}])
def test_a_duration_that_is_none_is_refused(options: dict[str, str]) -> None:
    """Prometheus would refuse the whole file, later."""
    with pytest.raises(UsageError):
        made(**options)


def test_rules_can_be_of_one_queue_only() -> None:
    """Then every metric in them names it; two queues with thresholds of their own do not disturb each other."""
    matcher = 'messaging_destination_name="ns:events"'
    for rule in made(only_this_queue=True).values():
        selectors = re.findall(r"([a-z_]+)(\{[^}]*\})?(?=[\[)])", re.sub(r"(by|on) \([^)]*\)", "", rule["expr"]))
        found = [(name, labels) for name, labels in selectors if name in KNOWN]
        assert found
        assert all(matcher in labels for _, labels in found), rule["expr"]
    assert not [rule for rule in made().values() if matcher in rule["expr"]]


def test_rules_ask_for_metrics_that_there_are() -> None:
    """By the definitions, which a real run is compared with elsewhere."""
    for rule in made().values():
        assert names_in(rule["expr"])
        assert names_in(rule["expr"]) <= KNOWN


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    """Each query has at least one."""
    known = {*KNOWN, *OF_PROCESSES, *(f"{series_name(m).removesuffix('_bucket')}_count" for m in HISTOGRAMS)}
    for title, query in dashboard_queries():
        assert names_in(query), title
        assert names_in(query) <= known, title


def test_bad_input_of_the_command_is_one_line(tmp_path: Path) -> None:
    """With the exit code of bad input."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(redis_config("redis://h")), "utf-8")
    done = CliRunner().invoke(app, ["alerts", "--config", str(config), "--for", "long"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "streams-queue: A duration is written 15s, 5m or 1h, not 'long'\n"
