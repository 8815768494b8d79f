"""The user of config/redis/migration.acl: what it may do is what a migration does, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from streams_queue.config import load_config
from streams_queue.errors import BackendRejected
from streams_queue.migration import Migration
from tests.conftest import MakeClient, StartServer
from tests.support.builders import queue_config
from tests.support.plan_lists import PlanLists, payloads, pushed
from tests.support.servers import RedisServer, chosen_flavour

pytestmark = pytest.mark.integration
FILE = Path(__file__).resolve().parents[2] / "config" / "redis" / "migration.acl"
WORDS = FILE.read_text("utf-8").split()
NEWEST = not chosen_flavour().startswith("redis-6")


@pytest.fixture
def server(start_server: StartServer) -> RedisServer:
    """A server with the user of the file."""
    server = start_server(acllog_max_len=1000)
    server.command("ACL", "SETUSER", *WORDS[1:])
    return server


async def test_no_permission_is_superfluous_and_none_is_missing(
    server: RedisServer, make_client: MakeClient, tmp_path: Path
) -> None:
    """Within the server and, as if it were two, to itself; every way to deal with the processing list."""
    lists = PlanLists(make_client(server.url), "gitbridge")
    server.command("CONFIG", "RESETSTAT")
    url = f"redis://{WORDS[1]}:CHANGE-ME-THREE@127.0.0.1:{server.port}/0"
    settings: Any = {"redis_url": url, "durability": "replicated", "min_replicas": 0}
    expected = []
    for number, from_url in enumerate((None, url)):
        file = tmp_path / f"out-{number}"
        for processing in ("aside", "requeue", f"export:{file}"):
            await lists.push([*pushed(range(3)), b"placeholder"])
            await lists.take(1)
            asked = lists.asked(processing, follow=True, until_idle=0.01)
            await Migration(load_config(queue_config(**settings)), asked, from_url=from_url).run()
            expected += pushed(range(3) if processing == "requeue" else (1, 2))
    assert await payloads(lists.raw, "gitbridge:{events}") == expected
    assert denied(server) == set()
    assert granted() - used(server) == set()


@pytest.mark.parametrize("missing", ["ltrim", "lmove", "hincrby", "hset", "xadd"])
async def test_a_missing_permission_shows_before_anything_is_moved(
    server: RedisServer, make_client: MakeClient, missing: str
) -> None:
    """Half of a step would put an event into the queue each time that it is tried."""
    lists = PlanLists(make_client(server.url), "gitbridge")
    await lists.push(pushed(range(3)))
    server.command("ACL", "SETUSER", WORDS[1], f"-{missing}")
    url = f"redis://{WORDS[1]}:CHANGE-ME-THREE@127.0.0.1:{server.port}/0"
    with pytest.raises(BackendRejected) as raised:
        await Migration(load_config(queue_config(redis_url=url)), lists.asked()).run()
    assert raised.value.code == "NOPERM"
    assert await payloads(lists.raw, "gitbridge:{events}") == []
    assert await lists.held(lists.source) == pushed(range(3))


def granted() -> set[str]:
    """Return the commands that the file grants; Redis 6.2 counts a command with all its subcommands."""
    names = {word.removeprefix("+") for word in WORDS if word.startswith("+")}
    return names if NEWEST else {name.partition("|")[0] for name in names}


def used(server: RedisServer) -> set[str]:
    """Return the commands that were carried out, those inside of scripts included."""
    with redis.Redis(port=server.port, socket_timeout=10) as client:
        return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


def denied(server: RedisServer) -> set[str]:
    """Return what was denied; before 7.2 that redis-py tells its name is, and no matter."""
    with redis.Redis(port=server.port, socket_timeout=10) as client:
        found = {entry["object"] for entry in client.acl_log()}
    return {name for name in found if not name.startswith("client")}
