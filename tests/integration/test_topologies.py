"""The ways to a server: through sentinels, over TLS, over a socket; and what is said when one of them is wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from streams_queue import RedisEventQueue
from streams_queue.errors import BackendError, BackendRejected, BackendUnavailable, ConfigError
from tests.conftest import MakeConfig, MakeQueue, StartSentinel, StartServer
from tests.support.builders import event
from tests.support.sentinels import SERVICE, SentinelServer
from tests.support.servers import HasPort, RedisServer, free_port
from tests.support.taking import take_numbers
from tests.support.tls import Authority, TlsProxy

pytestmark = pytest.mark.integration

TlsTo = Callable[[HasPort, ssl.SSLContext], TlsProxy]
SECRET = "battery-staple"


@pytest.fixture
def sentinel(start_sentinel: StartSentinel, redis_server: RedisServer) -> SentinelServer:
    """A sentinel that names the shared server and asks for a password."""
    return start_sentinel(redis_server, requirepass=SECRET)


async def works(queue: RedisEventQueue) -> bool:
    """Tell whether an event goes in and comes out."""
    assert await queue.enqueue(event(7))
    return await take_numbers(queue, 1) == [7]


# --- sentinels ---


async def test_a_queue_finds_its_server_through_sentinels(
    sentinel: SentinelServer, redis_server: RedisServer, make_redis_queue: MakeQueue
) -> None:
    """One that does not listen does not matter; the sentinels' password is their own, and so is the database."""
    url = f"redis+sentinel://127.0.0.1:{free_port()},{sentinel.address}/{SERVICE}/3?sentinel_password={SECRET}"
    queue = make_redis_queue(url)
    assert await works(queue)
    health = await queue.check_health()
    assert health["redis"] == f"127.0.0.1:{redis_server.port} ({SERVICE})"
    assert health["status"] == "healthy"
    assert redis_server.command("CLIENT", "LIST").count(b"db=3") >= 3


async def test_a_client_made_by_redis_pys_sentinel_works(sentinel: SentinelServer, make_redis_queue: MakeQueue) -> None:
    """Its sentinels are asked as it would ask them; its own connections are not used."""
    manager = Sentinel([("127.0.0.1", sentinel.port)], sentinel_kwargs={"password": SECRET}, db=2, socket_timeout=1)
    queue = make_redis_queue(client=manager.master_for(SERVICE))
    assert await works(queue)
    assert sentinel.command("CLIENT", "LIST").count(b"\n") == 1, "only the one that asks here is connected"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda manager: manager.slave_for(SERVICE), "take no writes"),
        (lambda manager: manager.master_for(SERVICE, decode_responses=True), "decode_responses must be off"),
        (
            lambda manager: manager.master_for(SERVICE, connection_class=type("Own", (redis.asyncio.Connection,), {})),
            "connections of the class Own cannot be made",
        ),
    ],
    ids=["replica", "decoding", "class"],
)
def test_a_sentinel_client_that_cannot_serve_is_refused(make: Any, reason: str, make_config: MakeConfig) -> None:
    """The reason is named."""
    with pytest.raises(ConfigError, match=reason):
        RedisEventQueue(make_config(), client=make(Sentinel([("127.0.0.1", 26379)])))


def test_a_sentinel_manager_with_rules_of_its_own_is_refused(make_config: MakeConfig) -> None:
    """What it would have checked is not silently left out."""
    manager = Sentinel([("127.0.0.1", 26379)], min_other_sentinels=1)
    with pytest.raises(ConfigError, match="min_other_sentinels"):
        RedisEventQueue(make_config(), client=manager.master_for(SERVICE))


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("redis+sentinel://{sentinel}/othermaster?sentinel_password={secret}", "NOSERVICE", "knows no such service"),
        ("redis+sentinel://{sentinel}/mymaster", "NOAUTH", "{sentinel}: NOAUTH"),
        ("redis+sentinel://{sentinel}/mymaster?sentinel_password=not-{secret}", "WRONGPASS", "{sentinel}: WRONGPASS"),
        (
            "redis+sentinel://nobody:{secret}@{sentinel}/mymaster?sentinel_password={secret}",
            "WRONGPASS",
            "{server}: WRONGPASS",
        ),
        ("redis+sentinel://{server}/mymaster", "", "{server}: "),
    ],
    ids=["service", "no password", "wrong password", "wrong password of the primary", "no sentinel"],
)
async def test_what_no_waiting_mends_is_raised_at_once(
    url: str, code: str, words: str, sentinel: SentinelServer, redis_server: RedisServer, make_redis_queue: MakeQueue
) -> None:
    """Also by dequeue, which waits out everything else; the message says who refused, and no password."""
    places = {"sentinel": sentinel.address, "server": f"127.0.0.1:{redis_server.port}", "secret": SECRET}
    queue = make_redis_queue(url.format(**places), timeout=60)
    for call in (lambda: queue.enqueue(event(0)), queue.dequeue):
        with pytest.raises(BackendRejected) as refused:
            await call()
        assert (refused.value.code, refused.value.passing) == (code, False)
        assert words.format(**places) in str(refused.value)
        assert SECRET not in str(refused.value)
    health = await queue.check_health()
    assert health["status"] == "unhealthy"
    assert SECRET not in str(health)


async def test_sentinels_that_do_not_answer_are_waited_for(
    sentinel: SentinelServer, make_redis_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody says that the service is unknown as long as one of them may know it; once there is one, it goes on."""
    sentinel.kill()
    url = f"redis+sentinel://{sentinel.address}/{SERVICE}?sentinel_password={SECRET}"
    queue = make_redis_queue(url, enqueue_timeout=0.5)
    with pytest.raises(BackendUnavailable, match=f"{sentinel.address}: Connection refused"):
        await queue.enqueue(event(0))
    waiting = asyncio.create_task(queue.dequeue(timeout=60))
    sentinel.start()
    assert await queue.enqueue(event(1))
    got = await waiting
    assert got is not None
    assert got["n"] == 1
    assert caplog.text.count("cannot be used for now (no primary of mymaster (sentinels ") == 1
    assert SECRET not in caplog.text


# --- TLS ---


@pytest.fixture
def tls_to() -> Iterator[TlsTo]:
    """Put a proxy that ends TLS before a server or sentinel."""
    proxies: list[TlsProxy] = []

    def make(server: HasPort, context: ssl.SSLContext) -> TlsProxy:
        proxies.append(TlsProxy(server.port, context))
        proxies[-1].start()
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the servers' certificates are from, and whom clients trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def tls_url(proxy: TlsProxy, **options: Any) -> str:
    """Return the URL of a server behind a proxy that ends TLS."""
    return f"rediss://127.0.0.1:{proxy.port}/0?{urlencode(options)}"


async def test_a_queue_works_over_tls(
    authority: Authority, redis_server: RedisServer, tls_to: TlsTo, make_redis_queue: MakeQueue
) -> None:
    """All its links, also after they were cut."""
    proxy = tls_to(redis_server, authority.server_context("127.0.0.1"))
    queue = make_redis_queue(tls_url(proxy, ssl_ca_certs=authority.ca_file))
    assert await works(queue)
    assert proxy.connections() >= 3
    proxy.cut()
    assert await works(queue)
    assert (await queue.check_health())["redis"] == f"127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_is_shown(
    version: ssl.TLSVersion,
    authority: Authority,
    redis_server: RedisServer,
    tls_to: TlsTo,
    make_redis_queue: MakeQueue,
) -> None:
    """To a server that only takes clients whom its authority knows."""
    context = authority.server_context("127.0.0.1", clients_of=authority, version=version)
    certificate, key = authority.certificate("gitbridge@example.org")
    options = {"ssl_ca_certs": authority.ca_file, "ssl_certfile": certificate, "ssl_keyfile": key}
    assert await works(make_redis_queue(tls_url(tls_to(redis_server, context), **options)))


async def refused(queue: RedisEventQueue) -> str:
    """Return what is said of a handshake that fails: the same by both verbs, at once and not as a passing trouble."""
    said = []
    for call in (lambda: queue.enqueue(event(0)), lambda: queue.dequeue(timeout=60)):
        with pytest.raises(BackendRejected) as error:
            await call()
        assert (error.value.code, error.value.passing) == ("TLS", False)
        said.append(str(error.value))
    assert said[0] == said[1]
    return said[0]


async def test_a_server_that_is_not_trusted_is_refused(
    authority: Authority,
    stranger: Authority,
    redis_server: RedisServer,
    tls_to: TlsTo,
    make_redis_queue: MakeQueue,
) -> None:
    """Its certificate is from somebody else; nothing is sent unless the URL says that this does not matter."""
    proxy = tls_to(redis_server, stranger.server_context("127.0.0.1"))
    said = await refused(make_redis_queue(tls_url(proxy, ssl_ca_certs=authority.ca_file)))
    assert said.startswith(f"the certificate of 127.0.0.1:{proxy.port} is not accepted: ")
    assert "issuer" in said
    assert proxy.bytes_forwarded == 0
    assert await works(make_redis_queue(tls_url(proxy, ssl_cert_reqs="none")))


async def test_a_certificate_for_another_host_is_refused(
    authority: Authority, redis_server: RedisServer, tls_to: TlsTo, make_redis_queue: MakeQueue
) -> None:
    """Whoever has one for some host could stand in for every other."""
    proxy = tls_to(redis_server, authority.server_context("redis.example.org"))
    said = await refused(make_redis_queue(tls_url(proxy, ssl_ca_certs=authority.ca_file)))
    assert "certificate is not valid for '127.0.0.1'" in said
    assert proxy.bytes_forwarded == 0
    unchecked = tls_url(proxy, ssl_ca_certs=authority.ca_file, ssl_check_hostname="false")
    assert await works(make_redis_queue(unchecked))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["none", "a stranger's"])
async def test_a_client_without_the_right_certificate_is_told(  # noqa: PLR0917 - fixtures go by name
    shown: str,
    version: ssl.TLSVersion,
    authority: Authority,
    stranger: Authority,
    redis_server: RedisServer,
    tls_to: TlsTo,
    make_redis_queue: MakeQueue,
) -> None:
    """The message says what to look at."""
    proxy = tls_to(redis_server, authority.server_context("127.0.0.1", clients_of=authority, version=version))
    certificate, key = stranger.certificate("gitbridge@example.org")
    own = {} if shown == "none" else {"ssl_certfile": certificate, "ssl_keyfile": key}
    said = await refused(make_redis_queue(tls_url(proxy, ssl_ca_certs=authority.ca_file, **own)))
    assert said.startswith(f"127.0.0.1:{proxy.port} refused the TLS handshake (")
    assert "client certificate" in said


async def test_an_expired_certificate_is_waited_out(
    authority: Authority,
    redis_server: RedisServer,
    tls_to: TlsTo,
    make_redis_queue: MakeQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody renews it, as somebody starts a server that is down."""
    proxy = tls_to(redis_server, authority.server_context(certificate=authority.expired("127.0.0.1")))
    queue = make_redis_queue(tls_url(proxy, ssl_ca_certs=authority.ca_file), enqueue_timeout=2.0)
    with pytest.raises(BackendUnavailable):
        await queue.enqueue(event(0))
    # Told when it began; on a busy machine the last of the attempts may have ended for lack of time.
    assert f"cannot connect to 127.0.0.1:{proxy.port}: its certificate has expired" in caplog.text
    waiting = asyncio.create_task(queue.dequeue(timeout=60))
    # Another context: a certificate loaded into the one in use has no key for a moment, and a handshake then fails.
    proxy.context = authority.server_context("127.0.0.1")
    assert await queue.enqueue(event(1))
    assert await waiting is not None


async def test_a_server_that_does_not_shake_hands_is_waited_for(
    redis_server: RedisServer, make_redis_queue: MakeQueue
) -> None:
    """It takes the greeting for a command that goes on; the message says what was tried."""
    queue = make_redis_queue(f"rediss://127.0.0.1:{redis_server.port}/0", enqueue_timeout=1.0)
    with pytest.raises(BackendError, match=f"127.0.0.1:{redis_server.port}(: no answer| does not speak TLS)"):
        await queue.enqueue(event(0))


async def test_sentinels_and_primary_over_tls(
    authority: Authority,
    redis_server: RedisServer,
    tls_to: TlsTo,
    start_sentinel: StartSentinel,
    make_redis_queue: MakeQueue,
) -> None:
    """One s encrypts both; either can be told apart."""
    context = authority.server_context("127.0.0.1", clients_of=authority)
    certificate, key = authority.certificate("gitbridge@example.org")
    options = urlencode({"ssl_ca_certs": authority.ca_file, "ssl_certfile": certificate, "ssl_keyfile": key})
    server = tls_to(redis_server, context)
    sentinel = await asyncio.to_thread(start_sentinel, server)
    hidden = tls_to(sentinel, context)

    queue = make_redis_queue(f"rediss+sentinel://127.0.0.1:{hidden.port}/{SERVICE}?{options}")
    assert await works(queue)
    queue = make_redis_queue(f"rediss+sentinel://{sentinel.address}/{SERVICE}?{options}&sentinel_ssl=false")
    assert await works(queue)
    untrusted = make_redis_queue(f"rediss+sentinel://127.0.0.1:{hidden.port}/{SERVICE}")
    assert "is not accepted" in await refused(untrusted)


def test_paths_count_from_where_the_queue_was_made(
    authority: Authority, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that changes its directory later still finds its certificates."""
    monkeypatch.chdir(authority.ca_file.parent)
    queue = RedisEventQueue(make_config("rediss://h?ssl_ca_certs=ca.pem"))
    monkeypatch.chdir(tmp_path)
    assert queue._endpoint.new_connection().ssl_context.ca_certs == str(authority.ca_file)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("ssl_ca_certs=/no/such.pem", "ssl_ca_certs: /no/such.pem cannot be read: No such file or directory"),
        ("ssl_certfile=no-such.pem", "no-such.pem cannot be read: No such file or directory"),
        ("ssl_certfile={certificate}&ssl_keyfile={other}", "the certificates cannot be loaded: KEY_VALUES_MISMATCH"),
        ("ssl_ca_certs={text}", "the certificates cannot be loaded: "),
        ("ssl_ciphers=odd", "has an option "),  # that cannot be used, or that an older redis-py does not know
        ("ssl_cert_reqs=maybe", "has an option with a value that cannot be used"),
        ("ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
        ("ssl_cacerts=ca.pem", "has an option that redis-py does not know: ssl_cacerts"),
        ("ssl_password=p@ss", "must not hold an @ in its options"),
    ],
)
def test_options_that_cannot_work_are_told_before_anything_connects(
    options: str, problem: str, authority: Authority, make_config: MakeConfig, tmp_path: Path
) -> None:
    """By a configuration error that names the option and the file; an endless series of attempts would not."""
    (tmp_path / "text.pem").write_text("no certificate")
    certificate, _ = authority.certificate("a.example.org")
    _, other = authority.certificate("b.example.org")
    given = options.format(certificate=certificate, other=other, text=tmp_path / "text.pem")
    with pytest.raises(ConfigError) as error:
        RedisEventQueue(make_config(f"rediss://:{SECRET}@h?{given}"))
    assert str(error.value).startswith("queue.redis_url: ")
    assert problem in str(error.value)
    assert SECRET not in str(error.value)


def test_options_of_tls_need_tls(authority: Authority, make_config: MakeConfig) -> None:
    """Who gives certificates does not want to talk in the clear."""
    with pytest.raises(ConfigError, match="ssl_ca_certs; options of TLS need rediss://"):
        RedisEventQueue(make_config(f"redis://h?ssl_ca_certs={authority.ca_file}"))


# --- unix sockets ---


async def test_a_queue_works_over_a_socket(
    start_server: StartServer, make_redis_queue: MakeQueue, tmp_path: Path
) -> None:
    """The path is absolute; the database is an option, and after a restart the socket is found again."""
    path = tmp_path / "redis.sock"
    server = await asyncio.to_thread(start_server, unixsocket=path)
    queue = make_redis_queue(f"unix://{path}?db=2")
    assert await works(queue)
    assert (await queue.check_health())["redis"] == str(path)
    assert server.command("CLIENT", "LIST").count(b"db=2") >= 3
    await asyncio.to_thread(server.restart)
    assert await works(queue)


async def test_a_socket_that_is_not_there_is_waited_for(make_redis_queue: MakeQueue, tmp_path: Path) -> None:
    """The server may still be about to start; the message names the path and the reason."""
    queue = make_redis_queue(f"unix://{tmp_path}/redis.sock", enqueue_timeout=0.3)
    with pytest.raises(BackendUnavailable, match=f"{tmp_path}/redis.sock: No such file or directory"):
        await queue.enqueue(event(0))
    assert await queue.dequeue(timeout=0.1) is None
