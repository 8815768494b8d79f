"""A server that answers as Redis 5.0 does, for which there is no package: a real one without what came later."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from typing import Any

from tests.support.resp import Frames, request_args

VERSION = b"5.0.14"
# Of what the doctor asks. Redis 5 answers so to what it does not know, and to arguments that it does not know.
UNKNOWN = {b"HELLO", b"ACL", b"WAITAOF", b"XACKDEL", b"XDELEX", b"XNACK", b"XCFGSET", b"XAUTOCLAIM"}
CHUNK = 1 << 16


class OldServer(socketserver.ThreadingTCPServer):
    """Forwards to a real server on `upstream_port` what Redis 5 knows, and answers the rest as Redis 5 does."""

    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, upstream_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.upstream_port = upstream_port
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name="flaky-proxy")

    def __enter__(self) -> OldServer:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self._thread.join()
        # Waits for the conversations, which end with their clients.
        self.server_close()


class _Conversation(socketserver.BaseRequestHandler):
    server: OldServer

    def handle(self) -> None:
        """Take requests one by one until the client hangs up."""
        requests = Frames()
        with socket.create_connection(("127.0.0.1", self.server.upstream_port), timeout=10) as upstream:
            while data := self.request.recv(CHUNK):
                for frame in requests.feed(data):
                    self.request.sendall(self._answer(frame, upstream))

    def _answer(self, frame: bytes, upstream: socket.socket) -> bytes:
        words = request_args(frame)
        name = words[0].upper()
        if name in UNKNOWN:
            return b"-ERR unknown command `%s`, with args beginning with: \r\n" % words[0]
        if name == b"XPENDING" and b"IDLE" in words:
            return b"-ERR syntax error\r\n"
        if name == b"XRANGE" and any(word.startswith(b"(") for word in words):
            return b"-ERR Invalid stream ID specified as stream command argument\r\n"
        upstream.sendall(frame)
        reply = _whole_reply(upstream)
        return _with_old_version(reply) if name == b"INFO" else reply


def _whole_reply(upstream: socket.socket) -> bytes:
    replies = Frames()
    while True:
        if found := replies.feed(upstream.recv(CHUNK)):
            return found[0]


def _with_old_version(reply: bytes) -> bytes:
    text = reply.partition(b"\r\n")[2][:-2]
    text = re.sub(rb"(redis|valkey)_version:[^\r]*", rb"\1_version:" + VERSION, text)
    return b"$%d\r\n%s\r\n" % (len(text), text)
