"""Sockets that something served over HTTP listens at."""

from __future__ import annotations

import socket

from streams_queue.errors import UsageError


def listen(address: str, port: int, what: str) -> socket.socket:
    """Listen at an address, by name or number, of IPv4 or IPv6.

    Args:
        address: To listen at.
        port: To listen at; 0 takes a free one.
        what: For the error: who wants to listen.

    Raises:
        UsageError: It is not possible to listen there.
    """
    try:
        family, *_, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no such name"
        # Where it was tried follows in brackets.
        raise UsageError(f"{what} cannot listen at {address}, port {port}: {why.partition(' (')[0]}") from error


def url_of(listening: socket.socket) -> str:
    """Return where a socket listens, without a path."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
