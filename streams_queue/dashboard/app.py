"""The page's routes: what a browser may ask, and what it gets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from streams_queue.config import Settings
from streams_queue.dashboard.access import Access, Sessions
from streams_queue.dashboard.gate import COOKIE, Gate, refused, session_of
from streams_queue.dashboard.letters import (
    find_dead,
    find_in_flight,
    is_entry_id,
    list_dead,
    show_consumer,
    show_in_flight,
)
from streams_queue.dashboard.sampler import Sampler
from streams_queue.errors import BackendError
from streams_queue.redis_queue import RedisEventQueue

logger = logging.getLogger(__name__)
T = TypeVar("T")

ASSETS = Path(str(resources.files("streams_queue.dashboard") / "assets"))

_BODY_TIMEOUT = 10.0
_MOST_STREAMS = 64
_MOST_LETTERS = 100
_LONGEST_FILTER = 200
_SHOWN_CONSUMERS = 200


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """What a browser sends to come in."""

    token: Annotated[str, msgspec.Meta(max_length=512)]


class Redrive(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead letters to put back: these, or all of them if it says so."""

    ids: Annotated[list[Annotated[str, msgspec.Meta(max_length=41)]], msgspec.Meta(max_length=500)] = []
    all: bool = False


class Flush(msgspec.Struct, forbid_unknown_fields=True):
    """The name of the queue, typed by whoever wants to flush it."""

    confirm: str


class Dashboard:
    """Answers for one queue.

    Args:
        queue: To be shown.
        access: Who may come in.
        root_path: The prefix under which a proxy has the page; "" for none.
        is_ending: Tells whether the server is about to end, and with it all streams.
    """

    def __init__(
        self, queue: RedisEventQueue, access: Access, *, root_path: str = "", is_ending: Callable[[], bool]
    ) -> None:
        self._queue = queue
        self._settings: Settings = queue.settings
        self._access = access
        self._root_path = root_path
        self._is_ending = is_ending
        self._sessions = Sessions()
        self._sampler = Sampler(queue)
        self._streams = 0
        self.gate: Gate
        self.app: ASGIApp = self._compose()

    def _compose(self) -> ASGIApp:
        routes = [
            Route("/", self._page("index.html")),
            Route("/login", self._page("login.html"), methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/api/live", self._live),
            Route("/api/health", self._health),
            Route("/api/dead", self._dead),
            Route("/api/dead/{id}", self._dead_letter),
            Route("/api/in-flight/{id}", self._in_flight),
            Route("/api/redrive", self._redrive, methods=["POST"]),
            Route("/api/flush", self._flush, methods=["POST"]),
            Mount("/assets", StaticFiles(directory=ASSETS)),
        ]
        handlers: dict[Any, Any] = {HTTPException: _answer_refusal, BackendError: _answer_trouble}
        inner = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)
        self.gate = Gate(inner, self._access, self._sessions, self._root_path)
        return self.gate

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._queue:
            sampling = asyncio.create_task(self._sampler.run(), name="streams_queue.dashboard")
            try:
                yield
            finally:
                sampling.cancel()
                await asyncio.wait([sampling])

    # --- pages ---

    @staticmethod
    def _page(name: str) -> Callable[[Request], Any]:
        async def page(_: Request) -> Response:
            return FileResponse(ASSETS / name)

        return page

    async def _login(self, request: Request) -> Response:
        asked = await _read(request, Login)
        if self._access.token is not None and not self._access.admits_token(asked.token):
            client = request.client.host if request.client else "somewhere"
            logger.warning("Somebody at %s gave a wrong token to the dashboard", client, extra={"client": client})
            return refused(401, "That is not the token")
        answer = Response(status_code=204)
        answer.set_cookie(
            COOKIE,
            self._sessions.begin(),
            path=f"{self._root_path}/",
            httponly=True,
            samesite="strict",
            # Behind a proxy that ends TLS, the browser knows better than this side of it.
            secure=request.headers.get("origin", "").startswith("https://"),
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        self._sessions.end(session_of(request.headers))
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, path=f"{self._root_path}/", httponly=True, samesite="strict")
        return answer

    # --- looking ---

    async def _live(self, request: Request) -> Response:
        if self._streams >= _MOST_STREAMS:
            return refused(503, "Too many pages are open")
        return StreamingResponse(self._events(request), media_type="text/event-stream")

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            yield _event("queue", self._about())
            yield _event("history", list(self._sampler.history)[:-1])
            yield _event("look", self._look())
            async for _ in self._sampler.follow():
                if self._is_ending() or not self.gate.is_admitted(request.headers):
                    return
                yield _event("look", self._look())
        finally:
            self._streams -= 1

    def _about(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "name": settings.name,
            "namespace": settings.namespace,
            "version": metadata.version("streams-queue"),
            "needs_token": self._access.token is not None,
            "dead_max_size": settings.dead_letter.max_size,
            "dead_when_full": settings.dead_letter.when_full,
        }

    def _look(self) -> dict[str, Any]:
        sampler = self._sampler
        if sampler.stats is None:
            return {"trouble": sampler.trouble or "the server has not been asked yet"}
        look: dict[str, Any] = {"stats": sampler.stats, "point": sampler.point}
        if sampler.in_flight is not None:
            consumers = sorted(sampler.in_flight.consumers, key=lambda each: (-each.in_flight, each.name))
            look["consumers"] = [show_consumer(each) for each in consumers[:_SHOWN_CONSUMERS]]
            look["in_flight"] = [show_in_flight(each) for each in sampler.in_flight.events]
        return look

    async def _health(self, _: Request) -> Response:
        return JSONResponse(await self._queue.check_health())

    async def _dead(self, request: Request) -> Response:
        query = request.query_params
        after, text, limit = query.get("after"), query.get("filter", ""), query.get("limit", "50")
        if after is not None and not is_entry_id(after):
            return refused(400, "after must be the id of a dead letter")
        if len(text) > _LONGEST_FILTER:
            return refused(400, f"filter may have {_LONGEST_FILTER} characters")
        if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= _MOST_LETTERS):
            return refused(400, f"limit must be a number from 1 to {_MOST_LETTERS}")
        return _json(await list_dead(self._queue, after=after, text=text, most=int(limit)))

    async def _dead_letter(self, request: Request) -> Response:
        return await self._one(request, find_dead)

    async def _in_flight(self, request: Request) -> Response:
        return await self._one(request, find_in_flight)

    async def _one(self, request: Request, find: Callable[[RedisEventQueue, str], Any]) -> Response:
        wanted = request.path_params["id"]
        if not is_entry_id(wanted):
            return refused(400, "That is no id of an entry")
        found = await find(self._queue, wanted)
        return refused(404, "It is not there any more") if found is None else _json(found)

    # --- changing something ---

    async def _redrive(self, request: Request) -> Response:
        asked = await _read(request, Redrive)
        if bool(asked.ids) == asked.all:
            return refused(422, "Name dead letters, or say all, but not both")
        if not all(map(is_entry_id, asked.ids)):
            return refused(422, "ids must be those of dead letters")
        redriven = await self._queue.redrive(*asked.ids)
        logger.info("%d dead letters put back, asked for in the dashboard", redriven, extra={"events": redriven})
        return JSONResponse({"redriven": redriven, "dead": (await self._queue.stats()).dead})

    async def _flush(self, request: Request) -> Response:
        asked = await _read(request, Flush)
        if asked.confirm != self._settings.name:
            return refused(422, "confirm must be the name of the queue")
        moved = await self._queue.purge()
        logger.warning(
            "%d events flushed to the dead letters, asked for in the dashboard", moved, extra={"events": moved}
        )
        stats = await self._queue.stats()
        return JSONResponse({"moved": moved, "left": stats.waiting + stats.delayed})


async def _read(request: Request, kind: type[T]) -> T:
    """Return the JSON body. Raises HTTPException: 408 too slow, 413 too large, 415, 400 no JSON, 422 not as wanted."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "The body must be application/json")
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            body = await request.body()
        return msgspec.json.decode(body, type=kind)
    except TimeoutError as error:
        raise HTTPException(408, "The body did not come in time") from error
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"The body is not as it must be: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON") from error


async def _answer_refusal(_: Request, error: HTTPException) -> Response:
    return refused(error.status_code, error.detail, dict(error.headers or {}))


async def _answer_trouble(_: Request, error: BackendError) -> Response:
    return refused(503, str(error))


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _event(name: str, value: Any) -> bytes:
    """Return one server-sent event; JSON has no line breaks."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(value))
