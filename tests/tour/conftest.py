"""What every station of the tour begins with: the configuration of a queue on a real server.

Read the stations in the order of their numbers. Each is one test, made of the public names only.
"""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def config(redis_url: str, namespace: str) -> dict[str, Any]:
    """The mapping of a configuration file; the short times are for the impatient reader."""
    return {
        "queue": {
            "type": "redis",
            "redis_url": redis_url,
            "namespace": namespace,
            "max_size": 1000,
            "timeout": 5,
            "lease": 2,
            "retry_policy": {"max_retries": 2, "base_delay": 0.05},
        }
    }
