"""The thread in which all work on the spool's files is done, one job at a time; between jobs it looks for left files.

The directory, and with it every SQLite connection, is known to this thread's own stack and to nothing else. A forked
child has no such thread, and nothing in it can reach a connection of its parent to use or close it, not even at exit:
closing one there would write into the parent's file. See docs/decisions/0031-spool.md.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from streams_queue.errors import SpoolError
from streams_queue.resilient_queue.spool_directory import Holdings, SpoolDirectory

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK_EVERY = (3.0, 5.0)
_LONGEST_JOB = 10.0

_Job = tuple[Callable[[SpoolDirectory], Any], "Future[Any]"]


class SpoolThread:
    """Runs jobs on a spool directory.

    Args:
        path: The directory.
        queue_name: As for SpoolDirectory.
        holdings: As for SpoolDirectory.
        on_found: Called in the thread after a look of its own that found something.
    """

    def __init__(self, path: Path, queue_name: str, holdings: Holdings, on_found: Callable[[], None]) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._between_jobs = threading.Lock()
        thread = threading.Thread(
            target=_work,
            args=(self._jobs, self._between_jobs, path, queue_name, holdings, on_found),
            name="streams_queue.spool",
            daemon=True,
        )
        _threads.add(self)
        thread.start()

    def submit(self, job: Callable[[SpoolDirectory], T]) -> Future[T]:
        """Run a job after those that were submitted before."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future

    def end(self) -> None:
        """Close all files after the jobs that were submitted before, and end."""
        self._jobs.put(None)

    def pause(self) -> None:
        """Wait until no job is being done, and let none begin; for a fork."""
        if not self._between_jobs.acquire(timeout=_LONGEST_JOB):
            logger.error("A process forks while its spool does not answer; the child may find it locked for ever")

    def resume(self) -> None:
        """End a pause."""
        if self._between_jobs.locked():
            self._between_jobs.release()


def _work(
    jobs: queue.SimpleQueue[_Job | None],
    between_jobs: threading.Lock,
    path: Path,
    queue_name: str,
    holdings: Holdings,
    on_found: Callable[[], None],
) -> None:
    """Do jobs until there are no more to come."""
    directory = SpoolDirectory(path, queue_name, holdings)
    while True:
        try:
            job = jobs.get(timeout=random.uniform(*_LOOK_EVERY))
        except queue.Empty:
            with between_jobs:
                _look(directory, holdings, on_found)
            continue
        with between_jobs:
            if job is None:
                directory.close()
                return
            _do(directory, *job)
            # The outcome must not live until the next job comes.
            del job
            if jobs.empty():
                _tidy(directory)


def _do(directory: SpoolDirectory, job: Callable[[SpoolDirectory], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job(directory)
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
        future.set_exception(error)
    else:
        future.set_result(result)


def _look(directory: SpoolDirectory, holdings: Holdings, on_found: Callable[[], None]) -> None:
    before = holdings.held
    try:
        directory.look()
    except SpoolError as error:
        logger.debug("Looking for left files failed (%s)", error)
    except Exception:
        logger.exception("Looking for left files failed")
    if holdings.held > before:
        on_found()


def _tidy(directory: SpoolDirectory) -> None:
    try:
        directory.tidy()
    except SpoolError as error:
        logger.debug("Tidying up failed (%s)", error)
    except Exception:
        logger.exception("Tidying up failed")


# --- forks: none while a job is being done, or a lock inside SQLite might never be released in the child ------------

_threads: weakref.WeakSet[SpoolThread] = weakref.WeakSet()
_paused: list[SpoolThread] = []


def _before_fork() -> None:
    _paused.extend(_threads)
    for thread in _paused:
        thread.pause()


def _after_fork() -> None:
    while _paused:
        _paused.pop().resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
