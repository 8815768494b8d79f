"""A TCP proxy between client and server that loses, holds back and delays what a test tells it to.

It runs in a thread with an event loop of its own, so that it works on while a test blocks its loop. It knows where
requests and replies end, and which reply answers which request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tests.support.resp import Frames, is_push, request_args

T = TypeVar("T")
Then = Literal["close", "refuse", "silence"]
How = Literal["reset", "fin"]
Direction = Literal["both", "requests", "replies"]
CHUNK = 1 << 20
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Trap:
    """Waits for one request or reply; `hit` is set when it has closed on it.

    Attributes:
        matches: Called with the words of a request, and for a reply trap with the reply's bytes as well.
        then: What becomes of the client's connection afterwards; with `refuse`, new ones are turned away from then on.
        request: What the trap closed on.
    """

    matches: Callable[..., bool]
    then: Then
    hit: threading.Event = field(default_factory=threading.Event)
    request: list[bytes] = field(default_factory=list)
    _held: Callable[[], None] | None = None

    def deliver(self) -> None:
        """Hand a held request to the server, on the connection on which it was sent."""
        assert self._held is not None, "nothing was held back"
        self._held()

    def close_on(self, request: list[bytes], held: Callable[[], None] | None = None) -> None:
        """Note what was caught."""
        self.request, self._held = request, held
        self.hit.set()


class FlakyProxy:
    """Forwards connections from a port of its own to `upstream_port`, with faults on demand.

    All public methods may be called from any thread and have taken effect when they return.

    Attributes:
        on_reply: Called in the proxy's thread with each reply that the server sends.
        counters: How often each thing happened: connections, requests, refused, cut, swallowed, held, muted.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="flaky-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self.new_muted: Direction | None = None
        self.latency = 0.0
        self.reply_traps: list[Trap] = []
        self.request_traps: list[Trap] = []
        self.on_reply: Callable[[bytes], None] | None = None
        self.counters: Counter[str] = Counter()
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the thread and listen."""
        self._thread.start()
        self._call(self._listen)

    def stop(self) -> None:
        """Drop everything and end the thread."""
        if self._thread.is_alive():
            self._call(self._shut_down)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    # --- faults ---

    def cut(self, how: How = "reset") -> None:
        """Close all connections, abruptly or politely; new ones are still served."""
        self._do(lambda: self._cut(how))

    def refuse(self) -> None:
        """Turn new connections away from now on, as a port does on which nobody listens any more."""
        self._do(lambda: setattr(self, "_refusing", True))

    def black_hole(self, direction: Direction = "both", *, new: bool = True) -> None:
        """Forward nothing on existing connections, without closing them; with `new` on later ones as well.

        A connection that was muted stays so: what it lost can never be made up for.
        """
        self._do(lambda: self._mute(direction, new))

    def restore(self) -> None:
        """Serve new connections properly again, and forget the traps that have not closed."""
        self._do(self._restore)

    def delay(self, seconds: float) -> None:
        """Let each chunk wait so long before it is forwarded, in both directions."""
        self._do(lambda: setattr(self, "latency", seconds))

    def lead_to(self, upstream_port: int) -> None:
        """Forward later connections to another server, as a name does after a failover."""
        self._do(lambda: setattr(self, "_upstream_port", upstream_port))

    def swallow_reply(self, matches: Callable[[list[bytes], bytes], bool], then: Then = "close") -> Trap:
        """Lose the next reply for which `matches(request words, reply)` is true; the server has done its work then."""
        trap = Trap(matches, then)
        self._do(lambda: self.reply_traps.append(trap))
        return trap

    def hold_request(self, matches: Callable[[list[bytes]], bool], then: Then = "close") -> Trap:
        """Keep the next matching request from the server until the trap's `deliver` is called."""
        trap = Trap(matches, then)
        self._do(lambda: self.request_traps.append(trap))
        return trap

    def connections(self) -> int:
        """Count the clients that are connected now."""
        return self._do(lambda: sum(link.client_open for link in self._links))

    def open_requests(self) -> int:
        """Count the requests that wait for their reply, blocked reads left out."""
        return self._do(lambda: sum(link.open_requests() for link in self._links))

    # --- inside the thread ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _call(self, function: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(10)

    def _do(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        result: T = self._call(run)
        return result

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut_down(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.drop("reset", everything=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refusing:
            self.counters["refused"] += 1
            _abort(writer)
            return
        self.counters["connections"] += 1
        await self._link(reader, writer)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port, limit=CHUNK)
        except OSError:
            _abort(writer)
            return
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        try:
            await link.run()
        except asyncio.CancelledError:
            pass
        finally:
            self._links.discard(link)

    def _cut(self, how: How) -> None:
        for link in list(self._links):
            self.counters["cut"] += link.client_open
            link.drop(how, everything=True)

    def _mute(self, direction: Direction, new: bool) -> None:
        for link in self._links:
            link.mute(direction)
        self.new_muted = direction if new else None

    def _restore(self) -> None:
        self._refusing = False
        self.new_muted = None
        self.latency = 0.0
        self.reply_traps.clear()
        self.request_traps.clear()


class _Link:
    """One client's connection and the one to the server that was opened for it."""

    def __init__(
        self,
        proxy: FlakyProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client_reader, self._client = client
        self._server_reader, self._server = server
        self._waiting: deque[list[bytes]] = deque()
        self._requests_muted = self._replies_muted = False
        self._holding = False
        self.client_open = True
        if proxy.new_muted:
            self.mute(proxy.new_muted)

    def open_requests(self) -> int:
        return sum(words[0].upper() != b"XREADGROUP" for words in self._waiting)

    def mute(self, direction: Direction) -> None:
        self._requests_muted |= direction != "replies"
        self._replies_muted |= direction != "requests"

    def drop(self, how: How, *, everything: bool = False) -> None:
        """Close the client's side; the server's too, unless it has to look as if the client were still there."""
        self.client_open = False
        _abort(self._client) if how == "reset" else self._client.close()
        if everything:
            _abort(self._server)

    async def run(self) -> None:
        replies = asyncio.create_task(self._pump_replies())
        try:
            await self._pump_requests()
            self.client_open = False
            if self._holding or self._requests_muted or self._replies_muted:
                await replies
        finally:
            replies.cancel()
            self.drop("reset", everything=True)
            await asyncio.gather(replies, return_exceptions=True)

    async def _pump_requests(self) -> None:
        frames = Frames()
        while chunk := await _read(self._client_reader):
            await asyncio.sleep(self._proxy.latency)
            for frame in frames.feed(chunk):
                self._request(frame)

    def _request(self, frame: bytes) -> None:
        if self._requests_muted:
            self._proxy.counters["muted"] += 1
            return
        words = request_args(frame)
        self._proxy.counters["requests"] += 1
        trap = _take(self._proxy.request_traps, words)
        if trap is None:
            self._forward(words, frame)
            return
        self._proxy.counters["held"] += 1
        self._holding = True
        self.mute("both")
        trap.close_on(words, lambda: self._proxy._do(lambda: self._server.write(frame)))
        if trap.then != "silence":
            self._proxy._refusing |= trap.then == "refuse"
            self.drop("reset")

    def _forward(self, words: list[bytes], frame: bytes) -> None:
        self._waiting.append(words)
        self._server.write(frame)

    async def _pump_replies(self) -> None:
        frames = Frames()
        while chunk := await _read(self._server_reader):
            await asyncio.sleep(self._proxy.latency)
            for frame in frames.feed(chunk):
                self._reply(frame)
        if not self._replies_muted:
            self.drop("fin")

    def _reply(self, frame: bytes) -> None:
        words = [] if is_push(frame) or not self._waiting else self._waiting.popleft()
        if self._proxy.on_reply is not None:
            self._proxy.on_reply(frame)
        if self._replies_muted:
            self._proxy.counters["muted"] += 1
            return
        trap = _take(self._proxy.reply_traps, words, frame) if words else None
        if trap is None:
            if not self._client.is_closing():
                self._client.write(frame)
            return
        self._proxy.counters["swallowed"] += 1
        self.mute("replies")
        trap.close_on(words)
        if trap.then != "silence":
            self._proxy._refusing |= trap.then == "refuse"
            self.drop("reset", everything=True)


def _take(traps: list[Trap], *what: Any) -> Trap | None:
    trap = next((trap for trap in traps if trap.matches(*what)), None)
    if trap is not None:
        traps.remove(trap)
    return trap


async def _read(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(OSError):
        return await reader.read(CHUNK)
    return b""


def _abort(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    writer.transport.abort()


def is_named(*names: str) -> Callable[[list[bytes]], bool]:
    """Return a request predicate: the command is one of `names`."""
    wanted = {name.upper().encode() for name in names}
    return lambda words: words[0].upper() in wanted


def request_with(*needles: bytes) -> Callable[..., bool]:
    """Return a predicate for requests (or replies to them): some argument holds each of `needles`."""
    return lambda words, _reply=b"": all(any(needle in word for word in words) for needle in needles)


def reply_with(*needles: bytes) -> Callable[[list[bytes], bytes], bool]:
    """Return a reply predicate: the reply holds all of `needles`."""
    return lambda _words, reply: all(needle in reply for needle in needles)
