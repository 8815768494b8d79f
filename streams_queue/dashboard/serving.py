"""Serving the page until the process is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

import uvicorn

from streams_queue.dashboard.access import Access
from streams_queue.dashboard.app import Dashboard
from streams_queue.listening import listen, url_of
from streams_queue.redis_queue import RedisEventQueue

logger = logging.getLogger(__name__)

_MOST_CONNECTIONS = 256
_MOST_HEADER_BYTES = 16 * 1024
_GRACE = 10
"""Seconds for answers that are under way; streams end with the next look."""


def serve(queue: RedisEventQueue, address: str, port: int, access: Access, *, root_path: str = "") -> None:
    """Serve until SIGTERM or SIGINT; then the streams end, and the queue is cleaned up.

    Args:
        queue: To be shown; cleaned up at the end.
        address: To listen at.
        port: To listen at; 0 takes a free one.
        access: Who may come in.
        root_path: The prefix under which a proxy has the page; "" for none.

    Raises:
        UsageError: It is not possible to listen there.
    """
    with listen(address, port, "The dashboard") as listening:
        server: uvicorn.Server
        dashboard = Dashboard(queue, access, root_path=root_path, is_ending=lambda: server.should_exit)
        server = uvicorn.Server(
            uvicorn.Config(
                dashboard.app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
                timeout_graceful_shutdown=_GRACE,
            )
        )

        def end(*_: object) -> None:
            server.should_exit = True

        # Uvicorn raises the signal once more when it has ended: then there is nothing left to do.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        url = f"{url_of(listening)}{root_path}/"
        logger.info("The dashboard is at %s", url, extra={"url": url})
        asyncio.run(server.serve([listening]))
