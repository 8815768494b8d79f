"""The one table of the server's errors, scripts by name, and how to connect without showing a secret."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams_queue.config import parse_sentinel_url
from streams_queue.errors import BackendRejected, BackendTimeout, BackendUnavailable, ConfigError, StateError
from streams_queue.redis_client import (
    Endpoint,
    call,
    endpoint_from_client,
    endpoint_from_url,
    from_reply,
    script,
    with_source,
    worth_retrying,
)
from streams_queue.redis_client.endpoint import Server

SECRET = "battery-staple"
PASSING = {
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "READONLY": "READONLY You can't write against a read only replica.",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED": "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MAXCLIENTS": "max number of clients reached",
}
LASTING = {
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
    "NOGROUP": "NOGROUP No such key 'q' or consumer group 'g' in XREADGROUP with GROUP option",
    "WRONGTYPE": "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOPERM": "NOPERM this user has no permissions to run the 'xreadgroup' command",
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
}
AT_ONCE = set(PASSING) - {"OOM", "MISCONF", "NOREPLICAS"}


def from_script(message: str) -> str:
    """Return a message as servers before Redis 7 wrap it when a command fails inside a script."""
    return f"Error running script (call to f_4e6d8fc8bb01276962cce5371fa795a7763657ae): @user_script:13: {message} "


def rejected(error: Exception) -> BackendRejected:
    """Return what became of an error reply, which must be a refusal."""
    found = from_reply(error)
    assert isinstance(found, BackendRejected)
    return found


# --- the table ---


@pytest.mark.parametrize(("code", "message"), {**PASSING, **LASTING}.items(), ids={**PASSING, **LASTING})
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in a script"])
def test_the_code_is_found_wherever_the_message_has_it(code: str, message: str, wrapped: bool) -> None:
    """At its beginning, or in its middle as Redis 6.2 writes it; it says whether the refusal passes by itself."""
    found = rejected(redis_errors.ResponseError(from_script(message) if wrapped else message))
    assert (found.code, found.passing) == (code, code in PASSING)
    assert message in str(found)
    assert worth_retrying(found) == (code in AT_ONCE)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis_errors.NoScriptError("No matching script. Please use EVAL."), "NOSCRIPT"),
        (redis_errors.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (redis_errors.ReadOnlyError("You can't write against a read only replica."), "READONLY"),
        (redis_errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "OOM"),
        (redis_errors.NoPermissionError("this user has no permissions"), "NOPERM"),
        (redis_errors.AuthenticationError("invalid username-password pair"), "WRONGPASS"),
        (redis_errors.AuthenticationError("Authentication required."), "NOAUTH"),
        (redis_errors.MasterDownError("Link with MASTER is down"), "MASTERDOWN"),
        (redis_errors.ClusterDownError("CLUSTERDOWN The cluster is down"), "CLUSTERDOWN"),
        (redis_errors.TryAgainError("TRYAGAIN Multiple keys request"), "TRYAGAIN"),
        (redis_errors.ConnectionError("max number of clients reached"), "MAXCLIENTS"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_class_of_redis_py_stands_for_the_code_that_it_took_off(error: Exception, code: str) -> None:
    """The code is back in front of the message, once."""
    found = rejected(error)
    assert (found.code, found.passing) == (code, code in PASSING)
    assert str(error) in str(found)
    assert str(found).count(code) == (0 if code == "MAXCLIENTS" and code not in str(found) else 1)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in a script"])
@pytest.mark.parametrize("code", ["SCHEMA", "OTHERGROUP"])
def test_our_own_errors_are_about_the_state_of_the_queue(code: str, wrapped: bool) -> None:
    """What lua/open.lua refuses; the code is for programs, the message for people."""
    message = f"{code} the queue has schema 3"
    found = from_reply(redis_errors.ResponseError(from_script(message) if wrapped else message))
    assert isinstance(found, StateError)
    assert str(found) == "the queue has schema 3"
    assert not worth_retrying(found)


@pytest.mark.parametrize(
    "message",
    [
        "ACL failure in script: User app has no permissions to run the 'xadd' command script: on @user_script:221.",
        from_script("The user executing the script can't run this command or subcommand"),
        from_script("The user executing the script can't access at least one of the keys mentioned in the command"),
    ],
)
def test_a_permission_that_is_missing_inside_a_script_is_named_as_such(message: str) -> None:
    """Servers write it without the code that the same refusal has elsewhere."""
    found = rejected(redis_errors.ResponseError(message))
    assert (found.code, found.passing) == ("NOPERM", False)
    assert message in str(found)


def test_an_error_that_nobody_knows_is_a_refusal_for_good() -> None:
    """Its message is kept, and no code is made up from words that only look like one."""
    found = rejected(redis_errors.ResponseError("ERR wrong number of BUSYBODY arguments, not LOADINGS"))
    assert (found.code, found.passing) == ("", False)
    assert str(found) == "ERR wrong number of BUSYBODY arguments, not LOADINGS"
    assert not worth_retrying(found)


def test_what_was_lost_on_the_way_is_worth_another_try() -> None:
    """Connections and answers, unlike refusals."""
    assert worth_retrying(BackendUnavailable())
    assert worth_retrying(BackendTimeout())
    assert not worth_retrying(StateError())


# --- scripts ---


@pytest.mark.parametrize(
    "name", sorted(each.name[:-4] for each in (resources.files("streams_queue") / "lua").iterdir() if each.is_file())
)
def test_every_script_loads_with_what_it_includes(name: str) -> None:
    """Its fragments stand where they are named, in that order; the digest is that of the whole."""
    folder = resources.files("streams_queue") / "lua"
    expected = ""
    for line in (folder / f"{name}.lua").read_text("utf-8").splitlines(keepends=True):
        mark, _, named = line.strip().partition("--!include ")
        fragments = [] if mark or not named else named.split()
        texts = [(folder / "shared" / f"{each}.lua").read_text("utf-8") for each in fragments]
        expected += "".join(texts) if fragments else line

    loaded = script(name)

    assert loaded.source == expected
    assert "--!include" not in loaded.source
    assert loaded.sha == hashlib.sha1(loaded.source.encode()).hexdigest()
    assert loaded.name == name
    assert script(name) is loaded


@pytest.mark.parametrize(
    "name", sorted(each.name[:-4] for each in (resources.files("streams_queue") / "lua").iterdir() if each.is_file())
)
def test_every_script_says_what_it_takes_and_returns(name: str) -> None:
    """The header is the only documentation that an operator has who finds the script in a server's log."""
    source = (resources.files("streams_queue") / "lua" / f"{name}.lua").read_text("utf-8")
    head = source.partition("\nlocal ")[0].partition("\nredis.call")[0]
    for word in ("-- KEYS: 1 ", "-- ARGV: ", "-- Returns: ", "-- Cost: ", "-- Idempotent: "):
        assert word in head


def test_a_script_is_called_by_digest_and_once_by_source() -> None:
    """Keys are counted, so that a cluster knows them from arguments."""
    leave = script("leave")
    assert call(leave, ["k1", "k2"], ["g", 5, b"\xff"]) == ("EVALSHA", leave.sha, 2, "k1", "k2", "g", 5, b"\xff")
    assert with_source(leave, call(leave, ["k1"])) == ("EVAL", leave.source, 1, "k1")


# --- endpoints ---


def kwargs_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return what a connection of this endpoint was made with, and was not overruled."""
    assert isinstance(endpoint, Server)
    connection = endpoint.new_connection()
    return {
        "timeout": connection.socket_timeout,
        "retries": connection.retry._retries,
        "health": connection.health_check_interval,
        "decode": connection.encoder.decode_responses,
        "protocol": int(connection.protocol),
    }


QUIET = {"timeout": None, "retries": 0, "health": 0, "decode": False, "protocol": 2}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "localhost:6379"),
        (f"redis://:{SECRET}@10.0.0.1:7000/3", "10.0.0.1:7000"),
        (f"rediss://user:{SECRET}@example.org", "example.org:6379"),
        (f"unix://user:{SECRET}@/run/redis.sock?db=2", "/run/redis.sock"),
    ],
)
def test_a_url_becomes_an_address_without_its_password(url: str, name: str) -> None:
    """The name is for logs and errors."""
    endpoint = endpoint_from_url(url, connect_timeout=1.5)
    assert endpoint.name == name
    assert kwargs_of(endpoint) == QUIET
    assert SECRET not in f"{endpoint!r}{endpoint.name}"


def test_sentinels_and_service_are_named_without_passwords() -> None:
    """Neither the primary's, nor the sentinels', in no form."""
    url = f"redis+sentinel://user:{SECRET}@one,[::1]:7000/mymaster/3?sentinel_username=u&sentinel_password={SECRET}"
    endpoint = endpoint_from_url(url, connect_timeout=1.5)
    assert endpoint.name == endpoint.address == "mymaster (sentinels one:26379, ::1:7000)"
    assert SECRET not in f"{endpoint!r}{parse_sentinel_url(url)!r}"


def test_retries_and_timeouts_of_a_url_are_not_used() -> None:
    """Nothing is sent a second time behind the queue's back, however the URL asks for it."""
    url = "redis://localhost?socket_timeout=1&retry_on_timeout=yes&health_check_interval=5&decode_responses=yes&protocol=3"
    assert kwargs_of(endpoint_from_url(url, connect_timeout=1.5)) == QUIET


def test_the_time_to_connect_is_the_urls_or_ours() -> None:
    """Whoever gives one in the URL means it."""
    ours = endpoint_from_url("redis://localhost", connect_timeout=1.5).new_connection()
    theirs = endpoint_from_url("redis://localhost?socket_connect_timeout=4", connect_timeout=1.5).new_connection()
    assert (ours.socket_connect_timeout, theirs.socket_connect_timeout) == (1.5, 4.0)
    assert ours.socket_keepalive


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@localhost",
        f"localhost:6379/{SECRET}",
        f"redis://:{SECRET}@localhost:notaport",
        f"redis://:{SECRET}@localhost?socket_timeout=soon",
        SECRET,
        "",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url: str) -> None:
    """The message names the key in the configuration, and nothing in it may hold a password."""
    with pytest.raises(ConfigError) as refused:
        endpoint_from_url(url, connect_timeout=1.0)
    assert "queue.redis_url" in str(refused.value)
    assert SECRET not in str(refused.value)


async def test_a_clients_settings_are_taken_without_its_patience() -> None:
    """Where and who, but neither retries nor timeouts; the client itself is not touched."""
    client = redis.asyncio.Redis(
        host="10.0.0.1",
        port=7000,
        password=SECRET,
        socket_timeout=3,
        retry=Retry(NoBackoff(), 5),
        health_check_interval=9,
    )
    endpoint = endpoint_from_client(client)
    assert endpoint.name == "10.0.0.1:7000"
    assert kwargs_of(endpoint) == QUIET
    assert endpoint.new_connection().password == SECRET
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 3
    await client.aclose()


async def test_a_connection_of_an_emulated_client_talks_to_its_server() -> None:
    """The class comes along with the settings: fakeredis works as a server does."""
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    await client.set("k", "v")
    connection = endpoint_from_client(client).new_connection()
    await connection.connect()
    await connection.send_command("GET", "k")
    assert await connection.read_response() == b"v"
    await connection.disconnect()
    await client.aclose()


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (object(), "object has no connection pool"),
        (f"redis://:{SECRET}@localhost", "str has no connection pool"),
        (None, "NoneType has no connection pool"),
        (redis.Redis(password=SECRET), "not an asyncio client"),
        (redis.asyncio.Redis(password=SECRET, decode_responses=True), "decode_responses must be off"),
    ],
    ids=["object", "url", "none", "blocking", "decoding"],
)
def test_a_client_that_cannot_be_used_is_refused_with_the_reason(client: Any, reason: str) -> None:
    """The message names the class or the setting, and no password."""
    with pytest.raises(ConfigError) as refused:
        endpoint_from_client(client)
    assert reason in str(refused.value)
    assert str(refused.value).startswith("client: ")
    assert SECRET not in str(refused.value)
