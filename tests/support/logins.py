"""Queues that log in as the user of config/redis/, who may do nothing but what a queue of one namespace does.

With STREAMS_QUEUE_TEST_USER=acl every configuration that tests make for a server of theirs names such a user, made for
its namespace from the shipped rule; what tests do beside the queue goes on as the default user.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "only-this-namespace"
SHIPPED_NAMESPACE, SHIPPED_PASSWORD = "gitbridge", "CHANGE-ME"

# Of each port, the users that the server there has, and has again when it is started anew.
_users: defaultdict[int, dict[str, list[str]]] = defaultdict(dict)
# Which port is behind that of a proxy.
_behind: dict[int, int] = {}


def shipped_rule(namespace: str, *, newest: bool = True) -> list[str]:
    """Return the words behind the user's name in the shipped file, for another namespace and password.

    Args:
        namespace: In place of the file's.
        newest: Take the file for servers from 7.2, not the one for all.
    """
    text = (CHECKOUT / "config" / "redis" / ("users-7.2.acl" if newest else "users.acl")).read_text("utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(f"user {SHIPPED_NAMESPACE} "))
    return line.replace(SHIPPED_PASSWORD, PASSWORD).replace(f"{SHIPPED_NAMESPACE}:", f"{namespace}:").split()[2:]


def stands_before(front: int, port: int) -> None:
    """Note that a proxy listens on `front` for the server on `port`."""
    _behind[front] = port


def users_of(port: int) -> dict[str, list[str]]:
    """Return the users that a server on this port is started with, and their rules."""
    return _users[port]


def login(url: str, namespace: str) -> str:
    """Return a URL that logs in as the namespace's user, whom the server has then, if this run asks for that.

    URLs with a user, and those that lead elsewhere than to a port of this machine, stay as they are.
    """
    parts = urlsplit(url)
    if os.environ.get("STREAMS_QUEUE_TEST_USER") != "acl" or parts.scheme != "redis" or "@" in parts.netloc:
        return url
    if parts.port is None:
        return url
    port = _behind.get(parts.port, parts.port)
    if namespace not in _users[port]:
        _make_user(port, namespace)
    return url.replace("redis://", f"redis://{namespace}:{PASSWORD}@", 1)


def _make_user(port: int, namespace: str) -> None:
    rule = shipped_rule(namespace, newest=not os.environ.get("STREAMS_QUEUE_TEST_SERVER", "").startswith("redis-6"))
    # A server that does not answer now is given its users when it is started.
    with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
        try:
            _command(port, "ACL", "SETUSER", namespace, *rule)
        except redis.ResponseError:
            rule = shipped_rule(namespace, newest=False)
            _command(port, "ACL", "SETUSER", namespace, *rule)
    _users[port][namespace] = rule


def denials(port: int) -> list[dict[str, Any]]:
    """Return what the users made here were denied on a server, but for telling the name of redis-py before 7.2."""
    found = _command(port, "ACL", "LOG", "1000")
    entries = [entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in found]
    named = [{_text(name): _text(value) for name, value in entry.items()} for entry in entries]
    return [entry for entry in named if entry["username"] in _users[port] and entry["object"] != "client"]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _command(port: int, *words: str) -> Any:
    with contextlib.closing(redis.Redis(port=port, socket_timeout=2)) as client:
        return client.execute_command(*words)  # type: ignore[no-untyped-call]
