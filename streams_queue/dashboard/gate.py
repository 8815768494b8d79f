"""What every request passes before it reaches a page, and the headers that every answer gets.

Plain ASGI, around the whole application, so that also its errors have the headers.
"""

from __future__ import annotations

import logging
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams_queue.dashboard.access import Access, Sessions, is_own_origin

logger = logging.getLogger(__name__)

COOKIE = "streams_queue_session"
OWN_HEADER = "X-Streams-Queue"
MOST_BODY_BYTES = 64 * 1024

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OPEN_PATHS = ("/login", "/assets/")
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    # Text that came out of a queue cannot become markup, not even by a mistake of ours.
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """Turns away who may not come in.

    Args:
        app: What is behind it.
        access: Who may come in.
        sessions: Of browsers that have shown the token.
        root_path: The prefix under which a proxy has the page; "" for none. It may strip the prefix or leave it.
    """

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions, root_path: str = "") -> None:
        self._app = app
        self._access = access
        self._sessions = sessions
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path and scope["path"].startswith(f"{self._root_path}/"):
            scope = {**scope, "path": scope["path"].removeprefix(self._root_path)}
            scope.pop("raw_path", None)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send, "no-store"))
        else:
            kept = "no-cache" if scope["path"].startswith("/assets/") else "no-store"
            await self._app(scope, _bounded(receive), _with_headers(send, kept))

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host")
        if not self._access.knows_host(host):
            return refused(421, "The dashboard has no such name; see --allowed-host")
        if self._root_path and path == self._root_path:
            return RedirectResponse(f"{self._root_path}/")
        if scope["method"] not in _SAFE_METHODS:
            origin = headers.get("origin")
            if origin is not None and not is_own_origin(origin, host or ""):
                return refused(403, "The request comes from another page than the dashboard's")
            if headers.get(OWN_HEADER) is None:
                return refused(403, f"A request that changes something needs the header {OWN_HEADER}")
        if not path.startswith(_OPEN_PATHS) and not self.is_admitted(headers):
            if path == "/":
                return RedirectResponse("login", 303)
            return refused(401, "The dashboard's token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BODY_BYTES:
            return refused(413, f"A request may have {MOST_BODY_BYTES} bytes", {"Connection": "close"})
        return None

    def is_admitted(self, headers: Headers) -> bool:
        """Whether a request shows the token, or a session that began with it; where there is no token, everybody."""
        if self._access.token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._access.admits_token(token.strip()):
            return True
        return self._sessions.holds(session_of(headers))


def session_of(headers: Headers) -> str:
    """Return the secret of the session that a browser says it has; "" for none."""
    try:
        cookies: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer that says why not."""
    return JSONResponse({"error": why}, status, headers)


def _bounded(receive: Receive) -> Receive:
    """Count what arrives: a body that is sent in chunks does not say before how long it is."""
    received = 0

    async def receive_within_bounds() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MOST_BODY_BYTES:
            raise HTTPException(413, f"A request may have {MOST_BODY_BYTES} bytes", {"Connection": "close"})
        return message

    return receive_within_bounds


def _with_headers(send: Send, cache_control: str) -> Send:
    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers["Cache-Control"] = cache_control
        await send(message)

    return send_with_headers
