"""The doctor on real servers: what is set up wrongly is named with its remedy, what is right gives it nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import yaml
from typer.testing import CliRunner, Result

from streams_queue import QueueFactory, load_config
from streams_queue.cli.app import app
from streams_queue.doctor import Seen, look
from streams_queue.doctor.permissions import attempts
from streams_queue.keys import QueueKeys
from tests.conftest import StartServer
from tests.support.builders import Keys, event, events, queue_config
from tests.support.clock_step import ServerClock
from tests.support.logins import PASSWORD, shipped_rule
from tests.support.old_server import OldServer
from tests.support.servers import RedisServer, chosen_flavour, free_port

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).resolve().parents[2]
KEYS = Keys("gitbridge")
NEWEST = not chosen_flavour().startswith("redis-6")
WELL = {"appendonly": "yes", "maxmemory": "512mb"}
Examine = Callable[..., Result]
Ready = Callable[..., RedisServer]


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    """Run `streams-queue doctor` about the queue at a URL, `examine(url, "--json", max_size=5)`."""

    def run(url: str, *arguments: str, **queue: Any) -> Result:
        # GitBridge's own size and lease, not the small ones of other tests.
        settings = {"type": "redis", "redis_url": url, "timeout": 30, "lease": 15, **queue}
        file = tmp_path / "webhook_config.yaml"
        file.write_text(yaml.safe_dump(queue_config(**settings)))
        return CliRunner().invoke(app, ["doctor", "--config", str(file), *arguments])

    return run


@pytest.fixture
def shipped(start_server: StartServer, tmp_path: Path) -> Ready:
    """Start a server as config/redis/ has it; only directory, port and passwords are the test's."""

    def start() -> RedisServer:
        name = "users-7.2.acl" if NEWEST else "users.acl"
        users = (CHECKOUT / "config" / "redis" / name).read_text("utf-8")
        copied = tmp_path / "users.acl"
        copied.write_text(users.replace("CHANGE-ME-TOO", "chief").replace("CHANGE-ME", PASSWORD))
        return start_server(include=CHECKOUT / "config" / "redis" / "redis.conf", aclfile=copied)

    return start


def url_as(server: RedisServer, user: str, password: str) -> str:
    """Return where a user logs in."""
    return f"redis://{user}:{password}@127.0.0.1:{server.port}/0"


def named(result: Result) -> list[str]:
    """Return the checks that have something to say."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [finding["check"] for finding in json.loads(result.stdout)["findings"]]


def use(url: str, *actions: Any, **queue: Any) -> None:
    """Make a queue and do something with it, or only open and close it."""

    async def act() -> None:
        async with QueueFactory.create_queue(queue_config(type="redis", redis_url=url, **queue)) as made:
            await made.stats()
            for action in actions:
                await action(made)

    asyncio.run(act())


# --- well ---


def test_a_server_set_up_as_shipped_gives_nothing_to_say(shipped: Ready, examine: Examine) -> None:
    """Neither to the operator, who sees all, nor to the queue's user; before the first use, and with events in it."""
    server = shipped()
    operator, user = url_as(server, "operator", "chief"), url_as(server, "gitbridge", PASSWORD)
    for _ in range(2):
        done = examine(operator)
        assert (done.exit_code, done.stdout.splitlines()[1:]) == (0, ["Nothing to say."])
        done = examine(user)
        assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "Nothing to say.")
        use(user, lambda queue: queue.enqueue_many(events(3)))


def test_what_a_user_may_not_see_is_told_and_is_no_fault(shipped: Ready, examine: Examine) -> None:
    """The queue's user may not look at the server's settings, nor outside of its keys."""
    done = examine(url_as(shipped(), "gitbridge", PASSWORD), "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["findings"], told["reachable"]) == (0, [], True)
    assert told["hidden"] == [
        "memory and persistence (INFO)",
        "the settings save, appendfsync, timeout (CONFIG GET)",
        "whether there are lists of the plan's (gitbridge:events, gitbridge:processing)",
    ]


def test_it_says_which_server_it_is(shipped: Ready, examine: Examine) -> None:
    """Software and version, as the server itself has them, also for a user who may see little."""
    server = shipped()
    with redis.Redis.from_url(url_as(server, "operator", "chief"), protocol=2) as client:
        info: Any = client.info("server")
    version = info.get("valkey_version", info["redis_version"])
    told = json.loads(examine(url_as(server, "gitbridge", PASSWORD), "--json").stdout)["server"]
    assert (told["version"], told["software"]) == (version, "valkey" if "valkey_version" in info else "redis")
    assert ("WAITAOF" in told["knows"]) is NEWEST


# --- eight ways to be set up wrongly ---


def test_a_policy_that_evicts_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """Short of memory, the server would delete the stream."""
    done = examine(start_server(**WELL, maxmemory_policy="allkeys-lru").url)
    assert done.exit_code == 1
    assert "ERROR eviction: maxmemory-policy is allkeys-lru" in done.stdout
    assert "CONFIG SET maxmemory-policy noeviction" in done.stdout


def test_no_persistence_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """A restart would lose everything; with snapshots alone it is a warning."""
    server = start_server(**(WELL | {"appendonly": "no"}))
    done = examine(server.url)
    assert (done.exit_code, named(examine(server.url, "--json"))) == (1, ["persistence"])
    assert "ERROR persistence: the server keeps nothing on disk" in done.stdout
    assert "CONFIG SET appendonly yes" in done.stdout
    server.command("CONFIG", "SET", "save", "3600 1")
    done = examine(server.url)
    assert (done.exit_code, "WARNING persistence" in done.stdout) == (4, True)


@pytest.mark.parametrize("missing", ["xclaim", "eval", "sadd", "hsetnx", "xgroup|create"])
def test_a_missing_permission_is_named(missing: str, start_server: StartServer, examine: Examine) -> None:
    """By its command, with the rule that allows it."""
    if not NEWEST and "|" in missing:
        missing = "xgroup"
    server = start_server(**WELL)
    rule = [word for word in shipped_rule("gitbridge", newest=NEWEST) if not word.startswith(f"+{missing}")]
    # 6.2 has no way to take a single subcommand away.
    server.command("ACL", "SETUSER", "ours", *rule)
    use(server.url)
    done = examine(url_as(server, "ours", PASSWORD), "--json")
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.exit_code, finding["check"]) == (1, "permissions")
    if missing == "eval":
        assert "EVAL" in finding["what"]
    else:
        assert missing.replace("|", " ").upper() in finding["what"]
    assert f"+{missing}" in finding["remedy"]


def test_a_user_of_other_keys_is_told_which_keys(start_server: StartServer, examine: Examine) -> None:
    """All commands are allowed, and none on these keys."""
    server = start_server(**WELL)
    server.command("ACL", "SETUSER", "ours", *shipped_rule("elsewhere", newest=NEWEST))
    (finding,) = json.loads(examine(url_as(server, "ours", PASSWORD), "--json").stdout)["findings"]
    assert finding["check"] == "permissions"
    assert "on keys like gitbridge:{events}" in finding["what"]
    assert "ACL SETUSER NAME ~gitbridge:{*}*" in finding["remedy"]


@pytest.mark.parametrize("key", [KEYS.stream, KEYS.delayed, KEYS.dead, KEYS.stats])
def test_a_wrong_type_at_a_key_is_an_error(key: str, start_server: StartServer, examine: Examine) -> None:
    """Somebody else uses the key."""
    server = start_server(**WELL)
    server.command("SET", key, "something else")
    done = examine(server.url)
    assert (done.exit_code, named(examine(server.url, "--json"))) == (1, ["key-type"])
    assert f"ERROR key-type: the key {key} holds a string" in done.stdout
    assert f"RENAME '{key}' '{key}-before'" in done.stdout


def test_too_little_memory_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """A full queue would not fit; the remedy says how much would be enough, and it is."""
    server = start_server(appendonly="yes", maxmemory="8mb")
    done = examine(server.url, "--json")
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.exit_code, finding["check"], finding["what"][:18]) == (1, "memory", "maxmemory is 8mb; ")
    enough = finding["remedy"].split()[3]
    server.command("CONFIG", "SET", "maxmemory", enough)
    assert named(examine(server.url, "--json")) == []


def test_an_old_server_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """It is known by what it cannot do."""
    with OldServer(start_server(**WELL).port) as old:
        done = examine(f"redis://127.0.0.1:{old.port}/0")
    assert done.exit_code == 1
    assert "ERROR version: redis 5.0.14 is too old: it lacks XPENDING … IDLE and exclusive ranges" in done.stdout
    assert "Upgrade to Redis 6.2, Valkey 7.2, or newer." in done.stdout


def test_an_unreachable_server_is_an_error(examine: Examine) -> None:
    """With an exit code of its own."""
    port = free_port()
    done = examine(f"redis://127.0.0.1:{port}/0")
    assert done.exit_code == 3
    assert f"ERROR unreachable: 127.0.0.1:{port} cannot be reached" in done.stdout
    assert "See that the server runs" in done.stdout
    assert json.loads(examine(f"redis://127.0.0.1:{port}/0", "--json").stdout)["reachable"] is False


@pytest.mark.parametrize("login", ["", ":wrong-one@", "nobody:wrong-one@"])
def test_a_wrong_password_is_an_error(login: str, start_server: StartServer, examine: Examine) -> None:
    """Or none; it is not repeated."""
    server = start_server(requirepass="right-one", **WELL)
    done = examine(f"redis://{login}127.0.0.1:{server.port}/0")
    assert done.exit_code == 3
    assert f"ERROR login: 127.0.0.1:{server.port} refuses the login" in done.stdout
    assert "redis://USER:PASSWORD@HOST:PORT/0" in done.stdout
    assert "wrong-one" not in done.output


# --- more that may be wrong ---


def test_a_server_without_a_memory_limit_is_warned_of(start_server: StartServer, examine: Examine) -> None:
    """It works, until the system kills it."""
    done = examine(start_server(appendonly="yes").url)
    assert (done.exit_code, "WARNING memory-limit" in done.stdout) == (4, True)


def test_memory_is_reckoned_by_the_events_that_are_there(start_server: StartServer, examine: Examine) -> None:
    """With events of 100 kB half a gigabyte is not enough for 10,000 of them."""
    server = start_server(**WELL)
    use(server.url, lambda queue: queue.enqueue(event(1, text="x" * 100_000)))
    (finding,) = json.loads(examine(server.url, "--json").stdout)["findings"]
    assert finding["check"] == "memory"
    assert "as those it holds" in finding["what"]


def test_a_server_out_of_memory_takes_no_writes(start_server: StartServer, examine: Examine) -> None:
    """The server's own word is told."""
    server = start_server(**WELL)
    server.command("CONFIG", "SET", "maxmemory", "1")
    assert named(examine(server.url, "--json")) == ["writes", "memory"]


def test_a_replica_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """By its role, and nothing else is wrong with it."""
    replica = start_server(replicaof=start_server(**WELL), **WELL)
    assert named(examine(replica.url, "--json")) == ["replica"]


def test_a_durability_that_is_not_to_be_had_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """A level that waits for replicas, of which there are none."""
    url = start_server(**WELL).url
    assert named(examine(url, "--json", durability="replicated")) == ["durability"]


def test_a_clock_that_differs_is_warned_of(start_server: StartServer, examine: Examine, tmp_path: Path) -> None:
    """An hour, and in which direction."""
    clock = ServerClock(tmp_path)
    server = start_server(clock=clock, **WELL)
    assert named(examine(server.url, "--json")) == []
    clock.step(3600)
    done = examine(server.url)
    assert done.exit_code == 4
    # It counts by itself between two looks at the clock.
    assert re.search(r"WARNING clock: the server's clock is (3599|3600)\.\d s ahead of this machine's", done.stdout)


def test_an_idle_timeout_is_warned_of(start_server: StartServer, examine: Examine) -> None:
    """A server that closes what waits."""
    url = start_server(timeout=10, **WELL).url
    assert named(examine(url, "--json")) == ["idle-timeout"]
    assert named(examine(url, "--json", lease=5)) == []


def test_lists_of_the_plan_are_found(start_server: StartServer, examine: Examine) -> None:
    """With the command that moves their events over."""
    server = start_server(**WELL)
    server.command("LPUSH", "gitbridge:events", "{}", "{}")
    done = examine(server.url)
    assert (done.exit_code, "the list gitbridge:events of GitBridge's plan holds 2 events" in done.stdout) == (4, True)
    assert "streams-queue migrate --dry-run" in done.stdout


def test_events_that_nobody_takes_over_are_found(start_server: StartServer, examine: Examine) -> None:
    """What a dead worker held, and what waits behind it."""
    server = start_server(**WELL)
    use(server.url, lambda queue: queue.enqueue_many(events(3)))
    with redis.Redis.from_url(server.url) as client:
        ((_, ((first, _),)),) = client.xreadgroup(KEYS.group, "gone", {KEYS.stream: ">"}, count=1)
        client.xclaim(KEYS.stream, KEYS.group, "gone", 0, [first], idle=60_000, justid=True)
    assert named(examine(server.url, "--json")) == ["stuck"]


def test_another_group_and_a_newer_schema_are_errors(start_server: StartServer, examine: Examine) -> None:
    """With both the queue would refuse to start."""
    server = start_server(**WELL)
    use(server.url)
    server.command("XGROUP", "CREATE", KEYS.stream, "auditors", "0")
    server.command("HSET", KEYS.stats, "schema", "99")
    assert named(examine(server.url, "--json")) == ["schema", "other-group"]


def test_a_full_queue_is_an_error(start_server: StartServer, examine: Examine) -> None:
    """And one that is nearly full is a warning; so is a pause."""
    server = start_server(**WELL)
    use(server.url, lambda queue: queue.enqueue_many(events(5)), lambda queue: queue.pause())
    assert named(examine(server.url, "--json", max_size=5)) == ["full", "paused"]
    assert named(examine(server.url, "--json", max_size=6)) == ["paused", "full"]


# --- nothing is changed ---


async def test_nothing_is_changed(start_server: StartServer) -> None:
    """No key, no group, no consumer, no setting: neither on an empty server nor with a queue in use."""
    server = start_server(**WELL)
    settings = load_config(queue_config(type="redis", redis_url=server.url))
    for number in range(2):
        before = await asyncio.to_thread(everything, server)
        assert isinstance(await look(settings), Seen)
        assert await asyncio.to_thread(everything, server) == before
        async with QueueFactory.create_queue(settings) as queue:
            await queue.enqueue(event(1), event_id=f"once-{number}")
            await queue.enqueue(event(2), delay=60)
            (delivery,) = await queue.receive(timeout=5)
            await queue.dead_letter(delivery, "rejected")


def everything(server: RedisServer) -> Any:
    """Return what the server holds and how it is set."""
    keys = sorted(server.command("KEYS", "*"))
    content = {key: server.command("DUMP", key) for key in keys if not key.endswith(b":stats")}
    stats = server.command("HGETALL", KEYS.stats) if KEYS.stats.encode() in keys else {}
    groups = [server.command("XINFO", "STREAM", KEYS.stream, "FULL")] if KEYS.stream.encode() in keys else []
    changes = server.command("INFO", "persistence")["rdb_changes_since_last_save"]
    return content, stats, groups, server.command("CONFIG", "GET", "*"), changes


def test_every_permission_of_the_shipped_rule_is_tried() -> None:
    """The doctor knows as many commands as the rule grants."""
    granted = {word.removeprefix("+") for word in shipped_rule("gitbridge") if word.startswith("+")}
    tried = {*attempts(QueueKeys("gitbridge", "events")), "sadd", "hsetnx", "waitaof"}
    # What redis-py tells of itself is no matter.
    assert tried == granted - {"client|setinfo"}
