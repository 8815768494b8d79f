"""The webhook receiver of the docs, as its README starts it: what it answers, and that a 202 is kept."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams_queue import RedisEventQueue, load_config
from tests.conftest import StartServer
from tests.support.logins import login
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until_sync

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from tests.support.webhook_receiver import CONFIG, SECRET, Part, WebhookReceiver  # noqa: E402 - needs httpx

pytestmark = pytest.mark.integration
MakeExample = Callable[..., WebhookReceiver]
PUSH = {"ref": "refs/heads/main", "repository": {"full_name": "octocat/Hello-World"}}
NAMESPACE = f"webhooks-{uuid.uuid4().hex[:12]}"
MOST = 25 * 1024 * 1024


@pytest.fixture
def make_example(tmp_path: Path) -> Iterator[MakeExample]:
    """Set the example up on a server, `make_example(url)`; stop what was started, and look for secrets in the logs."""
    made: list[WebhookReceiver] = []

    def make(url: str, config: Path = CONFIG) -> WebhookReceiver:
        made.append(WebhookReceiver(url, tmp_path, config))
        return made[-1]

    yield make
    for example in made:
        example.end()
        for part in example.parts:
            assert SECRET not in part.log


@pytest.fixture(scope="module")
def receiver(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    """A receiver on the shared server, for tests that send it nothing that it keeps."""
    example = WebhookReceiver(login(redis_server.url, NAMESPACE), tmp_path_factory.mktemp("receiver"))
    example.environment["STREAMS_QUEUE_NAMESPACE"] = NAMESPACE
    yield example.start_receiver()
    example.end()
    assert SECRET not in example.parts[0].log


def signed(body: bytes, secret: str = SECRET) -> str:
    """Return the signature of a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(receiver: Part, body: bytes | dict[str, Any], **headers: str | None) -> tuple[int, dict[str, Any]]:
    """Send a webhook as GitHub does; a header that is None is left out. Returns status and answer."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": signed(content),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    given = {name: value for name, value in sent.items() if value is not None}
    answer = httpx.post(f"{receiver.url}/webhook", content=content, headers=given, timeout=15)
    return answer.status_code, answer.json()


def until_effects(example: WebhookReceiver, expected: set[str], timeout: float = 30.0) -> None:
    """Wait until these deliveries have had their effects, each once, and no other has."""
    wait_until_sync(lambda: len(example.effects()) >= len(expected), timeout, what=lambda: example.parts[-1].log)
    assert example.effects() == Counter(expected)


def test_a_webhook_is_taken_and_handled(make_example: MakeExample, start_server: StartServer) -> None:
    """202, and its effect; the same delivery again is 202 and no second effect."""
    example = make_example(start_server().url)
    receiver = example.start_receiver()
    example.start_worker()
    assert post(receiver, PUSH, X_GitHub_Delivery="one") == (202, {"status": "accepted"})
    assert post(receiver, PUSH, X_GitHub_Delivery="one") == (202, {"status": "accepted"})
    assert post(receiver, {}, X_GitHub_Delivery="two", X_GitHub_Event="ping")[0] == 202
    until_effects(example, {"one", "two"})
    health = httpx.get(f"{receiver.url}/healthz")
    assert (health.status_code, health.json()) == (200, {"status": "healthy"})


def test_what_is_no_webhook_gets_a_clear_answer(receiver: Part, redis_server: RedisServer) -> None:
    """A 4xx that says what is wrong, for each of the ways; nothing of it is queued."""
    refused: list[tuple[int, str, Any, dict[str, str | None]]] = [
        (401, "X-Hub-Signature-256 is missing", PUSH, {"X_Hub_Signature_256": None}),
        (401, "does not match", PUSH, {"X_Hub_Signature_256": signed(b"another body")}),
        (401, "does not match", PUSH, {"X_Hub_Signature_256": signed(json.dumps(PUSH).encode(), "another secret")}),
        (401, "does not match", PUSH, {"X_Hub_Signature_256": "sha1=0"}),
        (400, "X-GitHub-Delivery is missing", PUSH, {"X_GitHub_Delivery": None}),
        (400, "X-GitHub-Delivery is missing", PUSH, {"X_GitHub_Delivery": ""}),
        (400, "event_id", PUSH, {"X_GitHub_Delivery": "x" * 1000}),
        (400, "X-GitHub-Event is missing", PUSH, {"X_GitHub_Event": None}),
        (400, "not JSON", b"", {}),
        (400, "not JSON", b"{", {}),
        (400, "not JSON", b"\xff\xfe{}", {}),
        (400, "not JSON", b"payload=%7B%7D", {}),
        (400, "not JSON", b"[" * 100_000, {}),
        (400, "not a JSON object", b"[1]", {}),
        (400, "not a JSON object", b'"text"', {}),
        (400, "nan", b'{"n": NaN}', {}),
        (400, "lone surrogate", b'{"s": "\\ud800"}', {}),
        (400, "nested", b'{"a":' * 500 + b"1" + b"}" * 500, {}),
    ]
    for status, words, body, headers in refused:
        answered, answer = post(receiver, body, **headers)
        assert (answered, words in answer["error"]) == (status, True), (status, words, answered, answer)
    assert httpx.get(f"{receiver.url}/webhook").status_code == 405
    assert redis_server.command("XLEN", f"{NAMESPACE}:{{events}}") == 0


def test_signatures_of_any_bytes_are_refused(receiver: Part) -> None:
    """A header may hold what is not ASCII; the comparison takes it."""
    answer = httpx.post(
        f"{receiver.url}/webhook",
        content=b"{}",
        headers=[(b"X-GitHub-Event", b"push"), (b"X-GitHub-Delivery", b"1"), (b"X-Hub-Signature-256", b"sha256=\xe9")],
    )
    assert answer.status_code == 401


@pytest.mark.slow
def test_bodies_are_bounded(make_example: MakeExample, start_server: StartServer) -> None:
    """GitHub's largest is taken; a larger one is 413, whether it says its size or comes in chunks without an end."""
    receiver = make_example(start_server().url).start_receiver()
    largest = b'{"text": "' + b"x" * (MOST - 12) + b'"}'
    assert len(largest) == MOST
    assert post(receiver, largest)[0] == 202
    assert post(receiver, largest + b" ")[0] == 413
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=15) as line:
        head = "POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-GitHub-Event: push\r\n"
        line.sendall(head.encode() + b"X-GitHub-Delivery: 1\r\nX-Hub-Signature-256: sha256=0\r\n\r\n")
        chunk = b"%x\r\n" % (1024 * 1024) + b"x" * 1024 * 1024 + b"\r\n"
        for _ in range(26):
            line.sendall(chunk)
        assert line.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.slow
def test_a_body_that_never_ends_is_408(receiver: Part) -> None:
    """Nobody keeps a request open for longer than GitHub would."""
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=9) as line:
        head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-GitHub-Event: push\r\n"
        line.sendall(head.encode() + b"X-GitHub-Delivery: 1\r\nX-Hub-Signature-256: sha256=0\r\n\r\n{")
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_without_a_secret_it_does_not_start(make_example: MakeExample, start_server: StartServer) -> None:
    """Else anybody could sign."""
    example = make_example(start_server().url)
    example.environment["GITHUB_WEBHOOK_SECRET"] = ""
    with pytest.raises(AssertionError, match="GITHUB_WEBHOOK_SECRET is not set"):
        example.start_receiver()


@pytest.mark.slow
@pytest.mark.faults
def test_a_webhook_is_taken_while_redis_is_away(make_example: MakeExample, start_server: StartServer) -> None:
    """202 from the spool, also by a receiver that starts meanwhile; a kill of both loses nothing."""
    server = start_server(appendonly="yes")
    example = make_example(server.url)
    receiver = example.start_receiver()
    assert post(receiver, PUSH, X_GitHub_Delivery="before")[0] == 202
    server.kill()
    assert post(receiver, PUSH, X_GitHub_Delivery="first")[0] == 202
    assert httpx.get(f"{receiver.url}/healthz", timeout=15).json() == {"status": "degraded"}
    second = example.start_receiver()
    assert post(second, PUSH, X_GitHub_Delivery="second")[0] == 202
    assert post(second, PUSH, X_GitHub_Delivery="first")[0] == 202
    receiver.end(signal.SIGKILL)
    second.end(signal.SIGKILL)
    server.start()
    example.start_worker()  # adopts what they left
    until_effects(example, {"before", "first", "second"})


@pytest.mark.slow
@pytest.mark.faults
def test_several_receivers_share_a_port_and_a_spool(make_example: MakeExample, start_server: StartServer) -> None:
    """`uvicorn --workers`: each has a file of its own in the directory, and all of it is handled."""
    server = start_server(appendonly="yes")
    server.kill()
    example = make_example(server.url)
    receiver = example.start_receiver("--workers", "2")
    sent = {f"delivery-{number}" for number in range(20)}
    for delivery_id in sent:
        assert post(receiver, PUSH, X_GitHub_Delivery=delivery_id)[0] == 202
    server.start()
    example.start_worker()
    until_effects(example, sent)


@pytest.mark.faults
def test_503_when_nothing_can_hold_it(make_example: MakeExample, start_server: StartServer, tmp_path: Path) -> None:
    """Redis is away and the spool is no directory: an answer that says so, with a time to come back."""
    server = start_server()
    server.kill()
    (tmp_path / "spool").write_text("in the way")
    receiver = make_example(server.url).start_receiver()
    status, answer = post(receiver, PUSH)
    assert (status, answer) == (503, {"error": "the queue cannot take it now; redeliver it later"})
    answer = httpx.post(
        f"{receiver.url}/webhook",
        content=b"{}",
        headers={"X-GitHub-Event": "push", "X-GitHub-Delivery": "1", "X-Hub-Signature-256": signed(b"{}")},
        timeout=15,
    )
    assert answer.headers["Retry-After"] == "30"


def test_503_when_the_queue_is_full(make_example: MakeExample, start_server: StartServer) -> None:
    """The webhook is not taken, and the receiver does not say that it was."""
    example = make_example(start_server().url)
    example.environment["STREAMS_QUEUE_MAX_SIZE"] = "1"
    receiver = example.start_receiver()
    assert post(receiver, PUSH)[0] == 202
    assert post(receiver, PUSH) == (503, {"error": "the queue is full; redeliver it later"})


def test_without_a_server_it_works_through_them_itself(make_example: MakeExample) -> None:
    """`type: asyncio`: what the rollback leads back to."""
    example = make_example("redis://127.0.0.1:1/0")
    example.environment["STREAMS_QUEUE_TYPE"] = "asyncio"
    receiver = example.start_receiver()
    assert post(receiver, PUSH, X_GitHub_Delivery="one")[0] == 202
    until_effects(example, {"one"})
    receiver.end()
    assert "Application shutdown complete" in receiver.log


def test_in_a_rollout_it_works_through_the_queue_that_lives_in_it(
    make_example: MakeExample, start_server: StartServer, tmp_path: Path
) -> None:
    """A worker in a process of its own would never see what the receiver holds in memory."""
    config = tmp_path / "rollout.yaml"
    config.write_text(
        "queue: {type: rollout, redis_url: '${REDIS_URL}', max_size: 100, timeout: 5, retry_policy: {},"
        " rollout: {percentage: 50, old: {type: asyncio}, new: {type: redis}}}"
    )
    example = make_example(start_server().url, config)
    receiver = example.start_receiver()
    example.start_worker()
    repositories = [f"octocat/{number}" for number in range(10)]
    for name in repositories:
        assert post(receiver, {"repository": {"full_name": name}}, X_GitHub_Delivery=name)[0] == 202
    until_effects(example, set(repositories))


# --- rollback --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.faults
def test_the_rollback_works_through_redis_and_the_spool(make_example: MakeExample, start_server: StartServer) -> None:
    """What waits there, and what a killed receiver left on disk; it says how many, and that nothing is left."""
    server = start_server(appendonly="yes")
    example = make_example(server.url)
    receiver = example.start_receiver()
    waiting = {f"waiting-{number}" for number in range(5)}
    for delivery_id in waiting:
        assert post(receiver, PUSH, X_GitHub_Delivery=delivery_id)[0] == 202
    server.kill()
    assert post(receiver, PUSH, X_GitHub_Delivery="spooled")[0] == 202
    receiver.end(signal.SIGKILL)
    server.start()
    rollback = example.roll_back("--within", "30")
    assert rollback.ended() == 0
    assert rollback.log.endswith("processed 6, left 0\n")
    assert example.effects() == Counter(waiting | {"spooled"})


@pytest.mark.slow
@pytest.mark.faults
def test_the_rollback_does_not_call_an_unknown_queue_empty(
    make_example: MakeExample, start_server: StartServer
) -> None:
    """While the server is away nobody knows what is left."""
    server = start_server()
    server.kill()
    rollback = make_example(server.url).roll_back("--within", "0.5")
    assert rollback.ended() == 1
    assert "left ?" in rollback.log


def test_the_rollback_names_dead_letters(make_example: MakeExample, start_server: StartServer) -> None:
    """They are not processed, and somebody has to look at them."""
    server = start_server()
    example = make_example(server.url)

    async def add() -> None:
        settings = load_config({"queue": {"redis_url": server.url, "max_size": 10, "timeout": 1}})
        async with RedisEventQueue(settings) as queue:
            await queue.enqueue({"no": "webhook"})
            (delivery,) = await queue.receive()
            await queue.dead_letter(delivery, "for a test")

    asyncio.run(add())
    rollback = example.roll_back()
    assert rollback.ended() == 0
    assert "dead letters" in rollback.log


def test_the_rollback_wants_the_old_configuration(make_example: MakeExample) -> None:
    """With `type: asyncio` it would find nothing, and call that success."""
    example = make_example("redis://127.0.0.1:1/0")
    example.environment["STREAMS_QUEUE_TYPE"] = "asyncio"
    assert example.roll_back().ended() == 2
