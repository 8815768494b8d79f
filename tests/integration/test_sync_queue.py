"""SyncQueue on a server: what the server knows when a call has returned."""

from __future__ import annotations

import threading
import time

from streams_queue import SyncQueue
from tests.conftest import MakeConfig, StartServer
from tests.support.builders import event, events


def test_after_task_done_the_server_knows(make_config: MakeConfig) -> None:
    """A process that ends right after it, as children of multiprocessing do, has left nothing to be done again."""
    with SyncQueue(make_config()) as queue:
        queue.enqueue_many(events(20))
        in_flight = []
        for _ in range(20):
            thread = threading.Thread(target=lambda: (queue.dequeue(), queue.task_done()))
            thread.start()
            thread.join()
            in_flight.append(queue.stats().in_flight)
    assert in_flight == [0] * 20


def test_task_done_does_not_raise_while_the_server_is_away(make_config: MakeConfig, start_server: StartServer) -> None:
    """It waits for enqueue_timeout: the event is done, and the server is told when it is back."""
    server = start_server()
    with SyncQueue(make_config(server.url, enqueue_timeout=0.3)) as queue:
        queue.enqueue(event(0))
        assert queue.dequeue() == event(0)
        server.stop()
        started = time.monotonic()
        queue.task_done()
        assert 0.2 < time.monotonic() - started < 2
