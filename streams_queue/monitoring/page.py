"""The page of one process: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever starts and stops processes.

It is served from threads of its own, so that a scrape takes nothing of the event loop but the questions that only the
loop can answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector

from streams_queue.listening import url_of

logger = logging.getLogger(__name__)

WhyNot = Callable[[], Awaitable[str | None]]
"""Asked in the event loop whether a process is ready: None if it is, else the reason why not, which all may know."""

_LOOP_PATIENCE = 5.0
_SOCKET_TIMEOUT = 10.0
_MOST_CONNECTIONS = 32
_POLL = 0.2
_OK = "ok"


class MetricsPage:
    """Metrics and probes of this process.

    Args:
        listening: Where it is served; closed at the end.

    Attributes:
        registry: What `/metrics` shows; the process's memory and processor time are in it from the beginning.
    """

    def __init__(self, listening: socket.socket) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self._listening = listening

    @asynccontextmanager
    async def served(self, why_not_ready: WhyNot) -> AsyncIterator[None]:
        """Serve while the block runs, about the event loop that it runs in."""
        probes = _Probes(asyncio.get_running_loop(), why_not_ready)
        with _Server(self._listening, self.registry, probes) as server:
            thread = threading.Thread(
                target=server.serve_forever, args=(_POLL,), name="streams_queue.metrics", daemon=True
            )
            thread.start()
            url = f"{url_of(self._listening)}/metrics"
            logger.info("Metrics are at %s", url, extra={"url": url})
            try:
                yield
            finally:
                await asyncio.to_thread(server.shutdown)
                await asyncio.to_thread(thread.join)


class _Probes:
    """Asks the event loop, from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, why_not_ready: WhyNot) -> None:
        self._loop = loop
        self._why_not_ready = why_not_ready

    def why_not_alive(self) -> str | None:
        """Return None if the event loop responds."""
        return self._ask(_nothing())

    def why_not_ready(self) -> str | None:
        """Return None if the process does what it is for."""
        return self._ask(self._readiness())

    async def _readiness(self) -> str | None:
        return await self._why_not_ready()

    def _ask(self, question: Coroutine[Any, Any, str | None]) -> str | None:
        try:
            answer: Future[str | None] = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:
            question.close()
            return "the event loop has ended"
        try:
            return answer.result(_LOOP_PATIENCE)
        except TimeoutError:
            answer.cancel()
            return f"the event loop does not respond within {_LOOP_PATIENCE:g} s"
        except CancelledError:
            return "the event loop is ending"


async def _nothing() -> None:
    """Be run by the event loop."""


class _Handler(MetricsHandler):
    """Answers one request; only GET is known."""

    server: _Server
    timeout = _SOCKET_TIMEOUT

    @property
    def registry(self) -> CollectorRegistry:  # type: ignore[override]
        """What `/metrics` shows."""
        return self.server.registry

    def do_GET(self) -> None:  # noqa: N802 - as the library calls it
        """Answer."""
        path = urlsplit(self.path).path
        try:
            if path == "/metrics":
                super().do_GET()
            elif path == "/healthz":
                self._tell(self.server.probes.why_not_alive())
            elif path == "/readyz":
                self._tell(self.server.probes.why_not_ready())
            else:
                self._send(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
        except OSError:
            raise
        except Exception:
            logger.exception("A request to the page of metrics failed in a way that it should not")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "an error, which the log tells")

    def _tell(self, why_not: str | None) -> None:
        if why_not is None:
            self._send(HTTPStatus.OK, _OK)
        else:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, why_not)

    def _send(self, status: HTTPStatus, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Name no versions."""
        return "streams-queue"


class _Server(ThreadingHTTPServer):
    """Serves on a socket that listens already, so many connections at a time."""

    def __init__(self, listening: socket.socket, registry: CollectorRegistry, probes: _Probes) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.registry = registry
        self.probes = probes
        self._free = threading.Semaphore(_MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, or close it if there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Say little of what goes wrong with a connection: who asked is gone."""
        logger.debug("A request to the page of metrics broke off (%s)", type(sys.exception()).__name__)
