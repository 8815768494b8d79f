"""What the plan's tests take for granted, put into their modules as the global names that they use."""

from __future__ import annotations

import uuid
from typing import Any

import pytest


def plan_config(redis_url: str) -> dict[str, Any]:
    """Return the plan's configuration (section 3) on the tests' server, with a queue that no other test has."""
    return {
        "queue": {
            "type": "redis",
            "redis_url": redis_url,
            "max_size": 10000,
            "timeout": 30,
            "retry_policy": {"max_retries": 3, "base_delay": 1},
            "namespace": f"plan-{uuid.uuid4().hex[:12]}",
        }
    }


@pytest.fixture(autouse=True)
def _given_names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(request.module, "config", plan_config(redis_url), raising=False)
    for passed_on in ("consensus_manager", "mas_logger"):
        monkeypatch.setattr(request.module, passed_on, object(), raising=False)
