"""The shipped rules, by Prometheus's own tool: they are right, and their unit tests would notice if they were not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import SHIPPED, needs_prometheus, promtool

pytestmark = needs_prometheus

RULES: list[dict[str, Any]] = yaml.safe_load((SHIPPED / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]


def test_the_unit_tests_of_the_rules_pass() -> None:
    """Each alert fires when it should, and ends."""
    code, said = promtool(SHIPPED, "test", "rules", "alerts_test.yml")
    assert code == 0, said


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    """The scrape configuration names the rules, so that both are checked."""
    code, said = promtool(SHIPPED, "check", "config", "prometheus.yml")
    assert code == 0, said
    assert f"{len(RULES)} rules found" in said


@pytest.mark.parametrize("change", ["({0}) unless on () vector(1)", "({0}) or vector(1)"], ids=["never", "for ever"])
def test_an_alert_that_fires_never_or_for_ever_is_noticed(change: str, tmp_path: Path) -> None:
    """The unit tests expect of each both that it fires and that it is silent."""
    rules = [rule | {"expr": change.format(rule["expr"])} for rule in RULES]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "broken", "rules": rules}]}), "utf-8")
    shutil.copy(SHIPPED / "alerts_test.yml", tmp_path)
    code, said = promtool(tmp_path, "test", "rules", "alerts_test.yml")
    assert code == 1
    assert set(re.findall(r"alertname: (\w+), time", said)) == {rule["alert"] for rule in RULES}, said
