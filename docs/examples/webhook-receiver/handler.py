"""What is done with a webhook: here, a row in a database, once per delivery.

Run it with `streams-queue worker handler:handle`; README.md says how.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import Any

from streams_queue import Delivery

DATABASE = os.environ.get("WEBHOOK_DATABASE", "webhooks.sqlite3")

SCHEMA = """
CREATE TABLE IF NOT EXISTS handled (delivery_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS effects (delivery_id TEXT NOT NULL, event_type TEXT NOT NULL, repository TEXT);
"""

_threads = threading.local()


def handle(delivery: Delivery) -> None:
    """Handle one event, which may come twice: after a crash, for instance.

    The note that it was handled and what it leads to are one transaction, so that both are there or neither is.
    """
    event = delivery.payload
    with database() as transaction:
        noted = transaction.execute("INSERT OR IGNORE INTO handled VALUES (?)", (delivery.event_id,))
        if noted.rowcount:
            transaction.execute(
                "INSERT INTO effects VALUES (?, ?, ?)",
                (delivery.event_id, event["event_type"], repository_of(event["payload"])),
            )


def repository_of(payload: dict[str, Any]) -> str | None:
    """Return what a payload is about, if it says so: some events of GitHub are about no repository."""
    repository = payload.get("repository")
    return str(repository.get("full_name")) if isinstance(repository, dict) else None


def database() -> sqlite3.Connection:
    """Return this thread's connection."""
    if not hasattr(_threads, "connection"):
        connection = sqlite3.connect(DATABASE, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        _threads.connection = connection
    found: sqlite3.Connection = _threads.connection
    return found
