"""A certificate authority for tests, and a proxy that ends TLS with what it has signed."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import trustme

CHUNK = 1 << 16


class Authority:
    """Signs certificates and keeps them as files.

    Attributes:
        ca_file: Its own certificate, which whoever trusts it is given.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self._count = 0
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def certificate(self, *names: str, **options: Any) -> tuple[Path, Path]:
        """Sign one for hosts or people; returns the paths of the certificate and of its key."""
        issued = self._ca.issue_cert(*names, **options)
        self._count += 1
        certificate, key = (self._directory / f"{self._count}.{kind}.pem" for kind in ("certificate", "key"))
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def expired(self, *names: str) -> tuple[Path, Path]:
        """Sign one that was good until yesterday."""
        now = datetime.datetime.now(datetime.UTC)
        return self.certificate(
            *names, not_before=now - datetime.timedelta(days=9), not_after=now - datetime.timedelta(days=1)
        )

    def server_context(
        self,
        *names: str,
        clients_of: Authority | None = None,
        certificate: tuple[Path, Path] | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> ssl.SSLContext:
        """Return what a server for `names` needs; one that only takes clients of an authority asks for theirs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(certificate or self.certificate(*names)))
        context.maximum_version = version
        if clients_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients_of.ca_file)
        return context


class TlsProxy:
    """Ends TLS before a server that has none.

    Handshakes are OpenSSL's own on a plain socket: where one fails the client is sent the alert that says why, which
    asyncio's servers leave unsent. Connections are served in threads, since nothing but bytes is looked at.

    Attributes:
        port: Where clients connect.
        context: May be changed while it runs; new connections follow.
        bytes_forwarded: How much of what clients sent has reached the server.
    """

    def __init__(self, upstream_port: int, context: ssl.SSLContext) -> None:
        self._upstream_port = upstream_port
        self.context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.bytes_forwarded = 0
        self._thread = threading.Thread(target=self._accept, name="flaky-proxy-tls", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Close everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(5)

    def cut(self) -> None:
        """Break all connections."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def connections(self) -> int:
        """Count the clients that have shaken hands and are connected."""
        return len(self._open) // 2

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="flaky-proxy-tls", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(10)
            with (
                self.context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(("127.0.0.1", self._upstream_port)) as upstream,
            ):
                secure.settimeout(None)
                self._forward(secure, upstream)

    def _forward(self, secure: ssl.SSLSocket, upstream: socket.socket) -> None:
        pair = {secure, upstream}
        with self._lock:
            self._open |= pair
        try:
            while True:
                readable, _, _ = select.select([secure, upstream], [], [])
                if secure in readable and not self._to_server(secure, upstream):
                    return
                if upstream in readable and not _to_client(secure, upstream):
                    return
        finally:
            with self._lock:
                self._open -= pair

    def _to_server(self, secure: ssl.SSLSocket, upstream: socket.socket) -> bool:
        data = secure.recv(CHUNK)
        while secure.pending():
            data += secure.recv(CHUNK)
        upstream.sendall(data)
        self.bytes_forwarded += len(data)
        return bool(data)


def _to_client(secure: ssl.SSLSocket, upstream: socket.socket) -> bool:
    data = upstream.recv(CHUNK)
    secure.sendall(data)
    return bool(data)
