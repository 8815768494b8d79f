"""The page's server, asked as a browser would and as it would not: what it answers, and that nothing changes then."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from streams_queue import RedisEventQueue
from streams_queue.dashboard.letters import find_dead
from tests.conftest import MakeQueue, StartServer
from tests.support.builders import Keys, event, events, redis_config
from tests.support.dashboards import Answer, RunningDashboard, serving
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration

TOKEN = "correct-horse-battery-staple"
FLUSH, REDRIVE = "/api/flush", "/api/redrive"
CONFIRMED, ALL = {"confirm": "events"}, {"all": True}
TOO_LARGE = json.dumps({"confirm": "x" * 70_000}).encode()


class Shown:
    """The queue that a dashboard shows, as another process sees it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.buried: list[str] = []

    def __call__(self, action: Callable[[RedisEventQueue], Awaitable[Any]]) -> Any:
        """Do something with it."""

        async def act() -> Any:
            async with RedisEventQueue(self.config) as queue:
                return await action(queue)

        return asyncio.run(act())

    def prepare(self) -> None:
        """Leave two dead letters and three waiting events in it, and nothing else."""
        self.buried = [f"{name}-{uuid.uuid4().hex}" for name in ("one", "two")]  # an id is taken once

        async def prepare(queue: RedisEventQueue) -> None:
            await queue.purge()
            await queue.purge_dead()
            await queue.enqueue_many([event(1, said="früh"), event(2)], event_ids=self.buried)
            left = 2
            while left:
                for delivery in await queue.receive(left, timeout=10):
                    await queue.dead_letter(delivery, "rejected")
                    left -= 1
            await queue.enqueue_many(events(3, start=3))

        self(prepare)

    def state(self) -> Any:
        """Return all that a request could have changed."""

        async def state(queue: RedisEventQueue) -> Any:
            stats = await queue.stats()
            letters = [letter.dead_id for letter in await queue.dead_letters()]
            waiting = [waiting.entry_id for waiting in await queue.peek(100)]
            return waiting, letters, stats.delayed, stats.paused, dict(stats.totals)

        return self(state)


@pytest.fixture(scope="module")
def shown(redis_server: RedisServer) -> Shown:
    """The queue of this module."""
    return Shown(redis_config(redis_server.url, namespace=f"d{uuid.uuid4().hex[:10]}"))


@pytest.fixture(scope="module")
def dashboard(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDashboard]:
    """A page that everybody on this machine may use."""
    with serving(tmp_path_factory.mktemp("open"), shown.config) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDashboard]:
    """A page with a token, under a prefix, and with a proxy's name."""
    options = ("--allowed-host", "queue.example.com", "--root-path", "/ops")
    with serving(tmp_path_factory.mktemp("guarded"), shown.config, *options, token=TOKEN) as running:
        yield running


@pytest.fixture
def unchanged(shown: Shown) -> Iterator[None]:
    """Whatever the test asks for, nothing changes."""
    shown.prepare()
    before = shown.state()
    yield
    assert shown.state() == before


# --- what is refused ---


FROM_ELSEWHERE: list[tuple[dict[str, str | None], int]] = [
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost:1"}, 403),
    ({"Origin": "http://127.0.0.1"}, 403),
    ({"X-Streams-Queue": None}, 403),
    ({"Host": "evil.example"}, 421),
    ({"Host": "127.0.0.1.evil.example"}, 421),
    ({"Host": "localhost@evil.example"}, 421),
    ({"Host": ""}, 421),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": None}, 415),
]
BAD_BODIES: list[tuple[str, Any, int]] = [
    (FLUSH, b"", 400),
    (FLUSH, b"{", 400),
    (FLUSH, b"\xff\xfe", 400),
    (FLUSH, b"[" * 60_000, 422),
    (FLUSH, b'{"confirm": "events"} {}', 400),
    (FLUSH, [], 422),
    (FLUSH, {}, 422),
    (FLUSH, {"confirm": None}, 422),
    (FLUSH, {"confirm": "Events"}, 422),
    (FLUSH, {"confirm": ""}, 422),
    (FLUSH, {**CONFIRMED, "also": 1}, 422),
    (FLUSH, TOO_LARGE, 413),
    (REDRIVE, {}, 422),
    (REDRIVE, {"ids": []}, 422),
    (REDRIVE, {"ids": ["1-1"], "all": True}, 422),
    (REDRIVE, {"ids": ["first"]}, 422),
    (REDRIVE, {"ids": ["1-99999999999999999999"]}, 422),
    (REDRIVE, {"ids": [1]}, 422),
    (REDRIVE, {"ids": ["1-1"] * 501}, 422),
    (REDRIVE, {"all": "yes"}, 422),
]
NOT_THERE = [
    ("GET", "/nothing", 404),
    ("GET", "/api/dead/1-1", 404),
    ("GET", "/api/in-flight/1-1", 404),
    ("GET", "/assets/../app.py", 404),
    ("GET", "/assets/%2e%2e/app.py", 404),
    ("GET", FLUSH, 405),
    ("PUT", FLUSH, 405),
    ("POST", "/api/health", 405),
    ("DELETE", "/api/dead/1-1", 405),
    ("GET", "/api/dead/first", 400),
    ("GET", "/api/in-flight/1-x", 400),
    ("GET", "/api/dead?after=-", 400),
    ("GET", "/api/dead?limit=0", 400),
    ("GET", "/api/dead?limit=101", 400),
    ("GET", "/api/dead?limit=many", 400),
    ("GET", f"/api/dead?filter={'x' * 201}", 400),
]
NO_HTTP = [
    b"NONSENSE\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /api/flush HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: many\r\n\r\n",
]


@pytest.mark.parametrize(("path", "body"), [(FLUSH, CONFIRMED), (REDRIVE, ALL)])
def test_a_request_from_elsewhere_is_refused(
    path: str, body: Any, dashboard: RunningDashboard, unchanged: None
) -> None:
    """Another page's, one that a form could send, or one for a name that somebody pointed at this machine."""
    answered = [(headers, dashboard.ask(path, body, headers=headers).status) for headers, _ in FROM_ELSEWHERE]
    assert answered == FROM_ELSEWHERE


def test_a_body_that_is_not_as_it_must_be_is_refused(dashboard: RunningDashboard, unchanged: None) -> None:
    """No JSON, something else than was asked for, unconfirmed, or too much of it; the answer says why."""
    for path, body, status in BAD_BODIES:
        answer = dashboard.ask(path, body if isinstance(body, bytes) else json.dumps(body).encode())
        assert (answer.status, set(answer.json)) == (status, {"error"}), body


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(dashboard: RunningDashboard, unchanged: None) -> None:
    """Sent in chunks, more than is allowed."""
    answer = dashboard.ask(FLUSH, [TOO_LARGE[:40_000], TOO_LARGE[40_000:]], chunked=True)
    assert answer.status == 413


def test_what_there_is_not_is_said(dashboard: RunningDashboard, unchanged: None) -> None:
    """No such page, no such method, no such id; always as JSON, with the headers of every answer."""
    for method, path, status in NOT_THERE:
        answer = dashboard.ask(path, None if method == "GET" else {}, method=method)
        assert (answer.status, set(answer.json)) == (status, {"error"}), path
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_is_no_http_is_a_bad_request(dashboard: RunningDashboard, unchanged: None) -> None:
    """Refused before anything of ours sees it."""
    for request in NO_HTTP:
        with socket.create_connection(("127.0.0.1", dashboard.port), timeout=30) as connection:
            connection.sendall(request)
            assert connection.recv(1024).split(b"\r\n")[0].split(b" ")[1] in {b"400", b"431"}, request[:60]


# --- the token ---


WITHOUT_TOKEN: list[dict[str, str | None]] = [
    {"Authorization": None},
    {"Authorization": "Bearer wrong-horse-battery-staple"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": "Bearer t\xf6ken"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": None, "Cookie": f"streams_queue_session={TOKEN}"},
    {"Authorization": None, "Cookie": "streams_queue_session="},
    {"Authorization": None, "Cookie": "broken; =;="},
]


def test_without_the_token_nothing_is_shown_or_done(guarded: RunningDashboard, unchanged: None) -> None:
    """Missing, wrong, or in the wrong place; a browser is led to where it is asked for."""
    for headers in WITHOUT_TOKEN:
        for path in ("live", "health", "dead", "dead/1-1", "in-flight/1-1", "nothing", f"dead?token={TOKEN}"):
            assert guarded.ask(f"/api/{path}", headers=headers).status == 401, headers
        assert guarded.ask(FLUSH, CONFIRMED, headers=headers).status == 401, headers
        assert guarded.ask(REDRIVE, ALL, headers=headers).status == 401, headers
        page = guarded.ask("/", headers=headers)
        assert (page.status, page.headers["location"], page.body) == (303, "login", b"")
        assert guarded.ask("/login", headers=headers).status == 200


def test_the_token_opens_a_session_that_can_be_ended(guarded: RunningDashboard) -> None:
    """Its cookie is no script's, leaves the site never, and only over TLS where the page came so."""
    anonymous = {"Authorization": None}
    wrong = guarded.ask("/login", {"token": "wrong-horse-battery-staple"}, headers=anonymous)
    assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
    answer = guarded.ask("/login", {"token": TOKEN}, headers=anonymous)
    secret, *attributes = answer.headers["set-cookie"].split("; ")
    assert answer.status == 204
    assert {attribute.lower() for attribute in attributes} == {"httponly", "samesite=strict", "path=/ops/"}
    session = {**anonymous, "Cookie": secret}
    assert guarded.ask("/api/health", headers=session).status == 200
    assert guarded.ask("/logout", {}, headers=session).status == 204
    assert guarded.ask("/api/health", headers=session).status == 401

    proxied = {**anonymous, "Host": "queue.example.com", "Origin": "https://queue.example.com"}
    assert "; Secure" in guarded.ask("/login", {"token": TOKEN}, headers=proxied).headers["set-cookie"]
    assert not [line for line in guarded.log if TOKEN in line or "wrong-horse" in line]
    assert [line for line in guarded.log if "gave a wrong token" in line]


@pytest.mark.parametrize("prefix", ["", "/ops"])
def test_a_proxy_may_strip_the_prefix_or_leave_it(prefix: str, guarded: RunningDashboard) -> None:
    """Both find the page, its assets and its verbs; links in the page are relative."""
    for path in ("/", "/login", "/assets/dashboard.js", "/api/health"):
        assert guarded.ask(f"{prefix}{path}").status == 200
    redirect = guarded.ask("/ops")
    assert (redirect.status, redirect.headers["location"]) == (307, "/ops/")
    assert guarded.ask("/opsapi/health").status == 404


# --- what is answered ---


def test_every_answer_has_the_security_headers(dashboard: RunningDashboard, guarded: RunningDashboard) -> None:
    """Pages, assets and answers, good and bad."""

    def check(answer: Answer) -> None:
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        for directive in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert directive in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cache-control"] in {"no-store", "no-cache"}

    for path in ("/", "/login", "/assets/dashboard.css", "/api/health", "/api/dead", "/nothing"):
        check(dashboard.ask(path))
    check(dashboard.ask("/", headers={"Host": "evil.example"}))
    check(guarded.ask("/api/dead", headers={"Authorization": None}))
    check(dashboard.ask(FLUSH, TOO_LARGE))


def test_dead_letters_are_listed_page_by_page_and_filtered(
    dashboard: RunningDashboard, shown: Shown, unchanged: None
) -> None:
    """Oldest first; a filter looks into reason, error, ids and payload, whatever the case."""
    first = dashboard.ask("/api/dead?limit=1").json
    (letter,) = first["letters"]
    one, two = shown.buried
    assert (letter["event_id"], letter["reason"], letter["deliveries"]) == (one, "rejected", 1)
    assert (first["next"], "früh" in letter["preview"]) == (letter["id"], True)
    second = dashboard.ask(f"/api/dead?limit=1&after={first['next']}").json
    assert [each["event_id"] for each in second["letters"]] == [two]
    third = dashboard.ask(f"/api/dead?after={second['next']}").json
    assert third == {"letters": [], "next": None}
    for text, found in (("FR%C3%9CH", [one]), ("TWO-", [two]), ("rejected", [one, two]), ("nowhere", [])):
        answer = dashboard.ask(f"/api/dead?filter={text}").json
        assert ([each["event_id"] for each in answer["letters"]], answer["next"]) == (found, None)
    whole = dashboard.ask(f"/api/dead/{letter['id']}").json
    assert json.loads(whole["payload"]) == event(1, said="früh")
    assert whole["chars"] == len(whole["payload"])


async def test_a_dead_letter_is_found_by_its_id(make_redis_queue: MakeQueue, raw: Redis, keys: Keys) -> None:
    """Also one that died in the same millisecond as others, and what has no neighbour; no other one in its place."""
    queue = make_redis_queue()
    ids = ["1-0", "5-4", "5-5", "5-6", "6-0"]
    for dead_id in ids:
        await raw.xadd(keys.dead, {"id": f"event {dead_id}", "payload": "{}", "reason": "rejected"}, id=dead_id)
    for dead_id in ids:
        found = await find_dead(queue, dead_id)
        assert found is not None
        assert (found["id"], found["event_id"]) == (dead_id, f"event {dead_id}")
    assert [await find_dead(queue, dead_id) for dead_id in ("0-0", "0-1", "5-3", "5-7", "7-0")] == [None] * 5


def test_dead_letters_go_back(dashboard: RunningDashboard, shown: Shown) -> None:
    """Those that are named, those that are left; what is not there any more is not counted."""
    shown.prepare()
    (first, second) = dashboard.ask("/api/dead").json["letters"]
    assert dashboard.ask(REDRIVE, {"ids": [second["id"], "1-1"]}).json == {"redriven": 1, "dead": 1}
    assert dashboard.ask(REDRIVE, {"ids": [second["id"]]}).json == {"redriven": 0, "dead": 1}
    assert dashboard.ask(REDRIVE, ALL).json == {"redriven": 1, "dead": 0}
    waiting, letters, *_ = shown.state()
    assert (len(waiting), letters) == (5, [])
    assert dashboard.ask(f"/api/dead/{first['id']}").status == 404


def test_a_confirmed_flush_buries_what_waits(dashboard: RunningDashboard, shown: Shown) -> None:
    """From the page's own origin; nothing is deleted."""
    shown.prepare()
    own = {"Origin": f"http://127.0.0.1:{dashboard.port}"}
    assert dashboard.ask(FLUSH, CONFIRMED, headers=own).json == {"moved": 3, "left": 0}
    waiting, letters, *_ = shown.state()
    assert (waiting, len(letters)) == ([], 5)
    reasons = [each["reason"] for each in dashboard.ask("/api/dead").json["letters"]]
    assert reasons == ["rejected", "rejected", "purged", "purged", "purged"]


async def test_what_is_in_flight_is_shown_live(
    dashboard: RunningDashboard, shown: Shown, make_redis_queue: MakeQueue
) -> None:
    """Who holds it, since when, and on demand its payload; the dashboard itself is no consumer."""
    await asyncio.to_thread(shown.prepare)
    settings = shown.config["queue"]
    worker = make_redis_queue(settings["redis_url"], namespace=settings["namespace"], prefetch=0)
    (held,) = await worker.receive(1, timeout=10)

    def look() -> Any:
        names = []
        for name, value in dashboard.looks():
            names.append(name)
            if name == "look" and value.get("in_flight"):
                return names, value
        raise AssertionError(names)

    names, value = await asyncio.to_thread(look)
    assert names[:3] == ["queue", "history", "look"]
    (row,) = value["in_flight"]
    assert (row["event_id"], row["id"], row["deliveries"]) == (held.event_id, held.entry_id, 1)
    assert [(each["id"], each["in_flight"]) for each in value["consumers"]] == [(row["consumer"], 1)]
    assert (value["stats"]["waiting"], value["stats"]["in_flight"], value["stats"]["dead"]) == (2, 1, 2)
    detail = await asyncio.to_thread(dashboard.ask, f"/api/in-flight/{row['id']}")
    assert json.loads(detail.json["payload"]) == held.payload
    await worker.ack(held)
    gone = await asyncio.to_thread(dashboard.ask, f"/api/in-flight/{row['id']}")
    assert gone.status == 404


# --- when something goes wrong, and at the end ---


def test_a_server_that_is_away_is_said_and_its_password_is_not(tmp_path: Path, start_server: StartServer) -> None:
    """The page stays, the answers say 503, the stream says why; all is well again when the server is back."""
    server = start_server(requirepass="hunter2-hunter2")
    config = redis_config(f"redis://:hunter2-hunter2@127.0.0.1:{server.port}/0", enqueue_timeout=0.5)
    with serving(tmp_path, config) as dashboard:
        assert dashboard.ask("/api/dead").status == 200
        server.kill()
        answer = dashboard.ask("/api/dead")
        assert answer.status == 503
        health = dashboard.ask("/api/health")
        assert (health.status, health.json["status"]) == (200, "unhealthy")
        assert dashboard.ask("/").status == 200
        trouble = next(value["trouble"] for name, value in dashboard.looks() if "trouble" in value)
        server.restart()
        assert next(value for name, value in dashboard.looks() if name == "look" and "stats" in value)
        wait_until_sync(lambda: dashboard.ask("/api/dead").status == 200)
    said = f"{answer.body!r} {health.body!r} {trouble} {dashboard.log}"
    assert "hunter2" not in said
    assert "not been asked" not in trouble


def test_sigterm_ends_it_although_somebody_watches(tmp_path: Path, shown: Shown) -> None:
    """In order, with exit code 0, and without a consumer left behind."""
    with serving(tmp_path, shown.config) as dashboard:
        watching = dashboard.looks()
        assert next(watching)[0] == "queue"
        assert dashboard.stop() == 0
        assert all(name in {"history", "look"} for name, _ in watching)
    assert [line for line in dashboard.log if "The dashboard is at" not in line] == []
    assert shown(lambda queue: queue.in_flight()).consumers == ()
