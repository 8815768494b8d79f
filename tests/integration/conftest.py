"""A queue on which only Lua scripts run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.builders import Keys
from tests.support.scripts_alone import ScriptsAlone
from tests.support.servers import RedisServer


@pytest.fixture
def alone(redis_server: RedisServer, keys: Keys) -> Iterator[ScriptsAlone]:
    """The scripts on this test's queue, which is open and empty."""
    with redis.Redis(port=redis_server.port, socket_timeout=10) as raw:
        scripts = ScriptsAlone(raw, keys)
        scripts.open()
        yield scripts
