"""Send webhooks at a constant rate, whatever the answers take, and print one line per request.

Open loop: request number n is due at start + n / rate, and its latency counts from then. If the receiver, or this
process, falls behind, that shows. Each request in flight has a connection of its own; free ones are used again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
import uuid
from collections import deque
from typing import NamedTuple, cast

import uvloop

from streams_queue.demo.github_events import GitHubEvents
from tests.support.journal import arguments, say

# Of a hundred: how many requests are not just new and valid.
SHARES = {"repeated": 4, "bad_signature": 2, "no_id": 2, "no_json": 2}
FALSE_SIGNATURE = "sha256=" + "0" * 64
BODIES = 200
GIVE_UP_AFTER = 15.0
# A connection that has been free for longer may be closed by the receiver just when it is used again.
USABLE_FOR = 3.0


class Body(NamedTuple):
    """What is sent, and of which kind of event it is."""

    event_type: str
    content: bytes
    signature: str


class Connection(asyncio.Protocol):
    """One connection; it carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answered: asyncio.Future[int] | None = None
        self._used = time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self._transport = cast(asyncio.Transport, transport)

    @property
    def usable(self) -> bool:
        """Whether it can carry another request."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and time.perf_counter() - self._used < USABLE_FOR

    async def post(self, request: bytes) -> int:
        """Send a request; return the status of the answer, 0 if the connection breaks before it."""
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._received.clear()
        self._transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        """Wait for head and body of the answer."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and len(body) >= _length(bytes(head)):
            self._answer(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """There will be no answer."""
        self._answer(0)

    def _answer(self, status: int) -> None:
        self._used = time.perf_counter()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(status)

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.abort()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class Sender:
    """Sends webhooks to one receiver.

    Attributes:
        done: Per request: seconds after the start at which it was due, latency, kind, delivery id, status (0: none).
    """

    def __init__(self, port: int, secret: str, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._bodies = make_bodies(secret.encode(), seed)
        half = self._bodies[0].content[:-1]
        self._no_json = Body("push", half, signature_of(secret.encode(), half))
        self._free: deque[Connection] = deque()
        self._sent_ids: list[str] = []
        self.done: list[tuple[float, float, str, str, int]] = []

    def next_request(self) -> tuple[str, str, bytes]:
        """Return kind, delivery id and bytes of the next request."""
        kind = self._kind()
        body = self._no_json if kind == "no_json" else self._random.choice(self._bodies)
        if kind == "repeated":
            delivery_id = self._random.choice(self._sent_ids)
        else:
            delivery_id = str(uuid.UUID(int=self._random.getrandbits(128)))
        if kind == "valid":
            self._sent_ids.append(delivery_id)
        head = [
            "POST /webhook HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "User-Agent: GitHub-Hookshot/test",
            "Content-Type: application/json",
            f"X-GitHub-Event: {body.event_type}",
            f"X-Hub-Signature-256: {FALSE_SIGNATURE if kind == 'bad_signature' else body.signature}",
            f"Content-Length: {len(body.content)}",
            *([] if kind == "no_id" else [f"X-GitHub-Delivery: {delivery_id}"]),
        ]
        return kind, delivery_id, "\r\n".join(head).encode() + b"\r\n\r\n" + body.content

    def _kind(self) -> str:
        drawn = self._random.randrange(100)
        for kind, share in SHARES.items():
            if drawn < share and (kind != "repeated" or self._sent_ids):
                return kind
            drawn -= share
        return "valid"

    async def send(self, due: float, since: float, kind: str, delivery_id: str, request: bytes) -> None:
        """Send one request and note what became of it; `since` is the start of it all."""
        connection = await self._connection()
        status = 0
        if connection is not None:
            try:
                async with asyncio.timeout(GIVE_UP_AFTER):
                    status = await connection.post(request)
            except TimeoutError:
                connection.close()
            if connection.usable:
                self._free.append(connection)
        self.done.append((due - since, time.perf_counter() - due, kind, delivery_id, status))

    async def _connection(self) -> Connection | None:
        while self._free:
            if (connection := self._free.pop()).usable:
                return connection
            connection.close()
        try:
            _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        except OSError:
            return None
        return made

    def close(self) -> None:
        """Close all connections."""
        while self._free:
            self._free.pop().close()


def make_bodies(secret: bytes, seed: int) -> list[Body]:
    """Return webhooks of GitHub's kinds and sizes, signed."""
    bodies = []
    for webhook in GitHubEvents(seed).take(BODIES):
        content = json.dumps(webhook.payload, separators=(",", ":")).encode()
        bodies.append(Body(webhook.kind, content, signature_of(secret, content)))
    return bodies


def signature_of(secret: bytes, content: bytes) -> str:
    """Return the header X-Hub-Signature-256 of a body."""
    return "sha256=" + hmac.new(secret, content, hashlib.sha256).hexdigest()


async def main(port: int, secret: str, rate: float, seconds: float, seed: int) -> None:
    """Send for so long, wait for the answers, and tell of all requests in one line."""
    sender = Sender(port, secret, seed)
    count = int(rate * seconds)
    start = time.perf_counter()
    say("started")
    async with asyncio.TaskGroup() as running:
        for number in range(count):
            due = start + number / rate
            prepared = sender.next_request()
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            running.create_task(sender.send(due, start, *prepared))
    sender.close()
    say("done", sender.done)


uvloop.run(main(**arguments()))
