"""Dead letters and events as the page shows them: always as text, never more than it can show."""

from __future__ import annotations

import json
import re
from typing import Any

from streams_queue.messages import Consumer, DeadLetter, InFlightEvent
from streams_queue.redis_queue import RedisEventQueue

PREVIEW_CHARS = 160
PAYLOAD_CHARS = 256 * 1024
SEARCHED = 1000
"""Dead letters that one request looks at."""

_CHUNK = 50
_ENTRY_ID = re.compile(r"(\d{1,20})-(\d{1,20})")
_LARGEST = 2**64 - 1


def is_entry_id(text: str) -> bool:
    """Whether this can be the id of a stream's entry."""
    found = _ENTRY_ID.fullmatch(text)
    return found is not None and all(int(part) <= _LARGEST for part in found.groups())


async def list_dead(queue: RedisEventQueue, *, after: str | None, text: str, most: int) -> dict[str, Any]:
    """
    Return a page of dead letters, oldest first, that have `text` in reason, error, event id or payload.

    Redis: 1 round trip for each 50 dead letters looked at. Raises BackendError.

    Returns:
        `letters`, and `next`: the id behind which to go on, or None if there are no more.
    """
    found: list[dict[str, Any]] = []
    wanted = text.casefold()
    for _ in range(SEARCHED // _CHUNK):
        page = await queue.dead_letters(_CHUNK, after=after)
        for letter in page:
            after = letter.dead_id
            shown = payload_text(letter.payload, letter.raw)
            if not wanted or any(wanted in each.casefold() for each in _searched(letter, shown)):
                found.append(_summary(letter, shown))
                if len(found) == most:
                    return {"letters": found, "next": after}
        if len(page) < _CHUNK:
            return {"letters": found, "next": None}
    return {"letters": found, "next": after}


async def find_dead(queue: RedisEventQueue, dead_id: str) -> dict[str, Any] | None:
    """Return one dead letter with its payload; None if it is not there. Redis: 1 round trip. Raises BackendError."""
    for letter in await queue.dead_letters(1, after=_before(dead_id)):
        if letter.dead_id == dead_id:
            shown = payload_text(letter.payload, letter.raw, indent=2)
            return {**_summary(letter, shown), "enqueued_at": letter.enqueued_at, **_cut(shown)}
    return None


async def find_in_flight(queue: RedisEventQueue, entry_id: str) -> dict[str, Any] | None:
    """Return an event in flight with its payload; None if it is not. Redis: 1 round trip. Raises BackendError."""
    for event in (await queue.in_flight(1, first=entry_id, payloads=True)).events:
        if event.entry_id == entry_id:
            return {**show_in_flight(event), **_cut(payload_text(event.payload, event.raw, indent=2))}
    return None


def show_in_flight(event: InFlightEvent) -> dict[str, Any]:
    """Return what a row shows of an event in flight."""
    return {
        "id": event.entry_id,
        "event_id": event.event_id,
        "consumer": event.consumer,
        "deliveries": event.deliveries,
        "enqueued_at": event.enqueued_at,
        "age": event.age,
        "idle": event.idle,
    }


def show_consumer(consumer: Consumer) -> dict[str, Any]:
    """Return what a row shows of a consumer."""
    return {"id": consumer.name, "in_flight": consumer.in_flight, "idle": consumer.idle}


def payload_text(payload: Any, raw: Any, *, indent: int | None = None) -> str:
    """Return a payload as JSON; of one that could not be decoded, its stored fields."""
    if payload is None:
        payload = {name: value.decode("utf-8", "backslashreplace") for name, value in raw.items()}
    return json.dumps(payload, ensure_ascii=False, default=str, indent=indent)


def _before(entry_id: str) -> str:
    """Return the id right before this one."""
    milliseconds, number = map(int, entry_id.split("-"))
    if number:
        return f"{milliseconds}-{number - 1}"
    return f"{max(0, milliseconds - 1)}-{_LARGEST}" if milliseconds else "0-0"


def _searched(letter: DeadLetter, shown: str) -> tuple[str, ...]:
    return (letter.dead_id, letter.event_id, letter.reason, letter.error, shown)


def _summary(letter: DeadLetter, shown: str) -> dict[str, Any]:
    return {
        "id": letter.dead_id,
        "event_id": letter.event_id,
        "reason": letter.reason,
        "error": letter.error,
        "deliveries": letter.deliveries,
        "died_at": letter.died_at,
        "preview": shown if len(shown) <= PREVIEW_CHARS else shown[: PREVIEW_CHARS - 1] + "…",
    }


def _cut(shown: str) -> dict[str, Any]:
    return {"payload": shown[:PAYLOAD_CHARS], "chars": len(shown)}
