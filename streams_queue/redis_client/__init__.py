"""Connections to the server: one link per duty, Lua scripts by name, and the one table of the server's errors.

A link speaks redis-py's connection, not its client: every reply is judged alone (one NOSCRIPT must not throw the
events of the read beside it away), and nothing is ever sent a second time behind the caller's back. Whether to send
again is decided per command, by who knows what the command does. See docs/decisions/0003-links-instead-of-clients.md.
"""

from __future__ import annotations

from streams_queue.redis_client.clients import endpoint_from_client
from streams_queue.redis_client.endpoint import Endpoint
from streams_queue.redis_client.link import Link
from streams_queue.redis_client.patience import expire_in
from streams_queue.redis_client.refusals import from_reply, passes, worth_retrying
from streams_queue.redis_client.scripts import Script, call, script, with_source
from streams_queue.redis_client.urls import endpoint_from_url
from streams_queue.redis_client.wire import Argument, Command, OnReply, Sink

__all__ = [
    "Argument",
    "Command",
    "Endpoint",
    "Link",
    "OnReply",
    "Script",
    "Sink",
    "call",
    "endpoint_from_client",
    "endpoint_from_url",
    "expire_in",
    "from_reply",
    "passes",
    "script",
    "with_source",
    "worth_retrying",
]
