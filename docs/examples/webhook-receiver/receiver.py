"""Receive GitHub's webhooks: check each one, hand it to the queue, and answer 202 when the queue holds it.

Run it with uvicorn; README.md says how.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from handler import handle
from starlette.requests import ClientDisconnect

from streams_queue import (
    BackendError,
    EventQueue,
    MessageError,
    MessageTooLarge,
    Queue,
    QueueFactory,
    RolloutQueue,
    load_config,
)

logger = logging.getLogger("webhook_receiver")

MAX_BODY_BYTES = 25 * 1024 * 1024  # GitHub sends no more
# Together less than the 10 s after which GitHub hangs up.
BODY_TIMEOUT = 4.0
ENQUEUE_TIMEOUT = 5.0
RETRY_AFTER = {"Retry-After": "30"}


class RefusedError(Exception):
    """The webhook is not taken; says why, and with which HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


def create_app(config: Any = None, secret: str | None = None) -> FastAPI:
    """Make the application.

    Args:
        config: Of the queue; None reads the file that STREAMS_QUEUE_CONFIG names.
        secret: The webhook's, as set on GitHub; None reads GITHUB_WEBHOOK_SECRET.

    Raises:
        RuntimeError: There is no secret; anybody could sign.
        ConfigError: The configuration cannot be used.
    """
    settings = load_config(config)
    key = (os.environ.get("GITHUB_WEBHOOK_SECRET", "") if secret is None else secret).encode()
    if not key:
        raise RuntimeError("GITHUB_WEBHOOK_SECRET is not set")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with QueueFactory.create_queue(settings) as queue:
            app.state.queue = queue
            working = [asyncio.create_task(work(part)) for part in in_process(queue)]
            yield
            for task in working:
                task.cancel()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.post("/webhook")
    async def receive(request: Request) -> JSONResponse:
        try:
            await take(request, app.state.queue, key)
        except RefusedError as refused:
            headers = RETRY_AFTER if refused.status == 503 else None
            return JSONResponse({"error": refused.reason}, refused.status, headers)
        return JSONResponse({"status": "accepted"}, 202)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        health = await app.state.queue.check_health()
        return JSONResponse({"status": health["status"]}, 503 if health["status"] == "unhealthy" else 200)

    return app


async def take(request: Request, queue: Queue, key: bytes) -> None:
    """Check a webhook and put it into the queue. Raises RefusedError."""
    signature = _header(request, "X-Hub-Signature-256", 401)
    delivery_id = _header(request, "X-GitHub-Delivery", 400)
    event_type = _header(request, "X-GitHub-Event", 400)
    body = await read_body(request)
    check_signature(key, body, signature)
    await put(queue, {"event_type": event_type, "payload": parse(body)}, delivery_id)


def _header(request: Request, name: str, status: int) -> str:
    value = request.headers.get(name, "").strip()
    if not value:
        raise RefusedError(status, f"the header {name} is missing")
    return value


async def read_body(request: Request) -> bytes:
    """Read the body, but no more than GitHub would send, and no longer than it would wait. Raises RefusedError."""
    declared = request.headers.get("Content-Length", "0")
    if not declared.isdecimal() or int(declared) > MAX_BODY_BYTES:
        raise RefusedError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RefusedError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {BODY_TIMEOUT:g} s") from None
    except ClientDisconnect:
        raise RefusedError(400, "the connection broke before the end of the body") from None
    return bytes(body)


def check_signature(key: bytes, body: bytes, signature: str) -> None:
    """Compare in constant time. Raises RefusedError."""
    expected = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    # As bytes: of str, compare_digest takes ASCII only, and a header may hold anything.
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise RefusedError(401, "the signature does not match")


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises RefusedError."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON; choose application/json as the webhook's content type") from None
    if not isinstance(payload, dict):
        raise RefusedError(400, "the body is not a JSON object")
    return payload


async def put(queue: Queue, event: dict[str, Any], delivery_id: str) -> None:
    """Put an event into the queue; a delivery that it has, or had, already is not added again. Raises RefusedError."""
    try:
        async with asyncio.timeout(ENQUEUE_TIMEOUT):
            held = await queue.enqueue(event, event_id=delivery_id)
    except MessageTooLarge as error:
        raise RefusedError(413, str(error)) from None
    except MessageError as error:
        raise RefusedError(400, str(error)) from None
    except (BackendError, TimeoutError) as error:
        # Perhaps it is in the queue all the same: the id makes it safe to send it again.
        logger.warning("Delivery %r was not taken (%s)", delivery_id, error or "no answer in time")
        raise RefusedError(503, "the queue cannot take it now; redeliver it later") from None
    if not held:
        logger.warning("Delivery %r was not taken: the queue is full", delivery_id)
        raise RefusedError(503, "the queue is full; redeliver it later")


def in_process(queue: Queue) -> list[Queue]:
    """Return the asyncio queues in a queue: they live in this process, and so must whoever works through them."""
    if isinstance(queue, RolloutQueue):
        return in_process(queue.old_queue) + in_process(queue.new_queue)
    return [queue] if isinstance(queue, EventQueue) else []


async def work(queue: Queue) -> None:
    """Handle events in this process; for an asyncio queue only, all others have `streams-queue worker`."""
    while queue.is_running():
        for delivery in await queue.receive():
            try:
                await asyncio.to_thread(handle, delivery)
            except Exception as error:
                logger.exception("Delivery %r failed", delivery.event_id)
                await queue.nack(delivery, error=type(error).__name__)
            else:
                await queue.ack(delivery)
