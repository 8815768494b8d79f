"""`enqueue`: JSON lines into a queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from streams_queue.cli import exit_codes
from streams_queue.cli.options import ConfigOption, EnvironmentOption, JsonOption, UrlOption, open_queue
from streams_queue.cli.output import Advance, print_error, print_json, print_line, progress
from streams_queue.errors import BackendError, EncodeError, MessageError
from streams_queue.messages import Receipt, ReceiptStatus
from streams_queue.queue import Queue


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input that can be enqueued.

    Attributes:
        number: Counted from 1.
        payload: The event.
        event_id: Found in it, where the command was told to look.
    """

    number: int
    payload: dict[str, Any]
    event_id: str | None


@dataclass(slots=True)
class Outcome:
    """What became of the lines so far.

    Attributes:
        accepted: Now in the queue.
        duplicates: Were in the queue already.
        not_accepted: Refused by the queue: full, or paused.
        bad: Could not be enqueued.
        last_sent: The number of the last line whose fate is known.
    """

    accepted: int = 0
    duplicates: int = 0
    not_accepted: int = 0
    bad: int = 0
    last_sent: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all lines are in the queue."""
        return not self.not_accepted and not self.bad


class StrictStop(Exception):  # noqa: N818 - a signal, not an error
    """The first line that did not go in ends a strict run."""


def enqueue(
    source: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="[FILE]", help="JSON lines, one object each; - is standard input.")
    ] = "-",  # type: ignore[assignment]
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
    event_id_field: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where an event's id is, such as delivery.id; twice is once.")
    ] = None,
    delay: Annotated[float, typer.Option(min=0, help="Seconds before the events may be handed out.")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines go out at once.")] = 100,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first line that does not go in.")] = False,
) -> None:
    """Enqueue JSON lines. A line that does not go in is reported and the others go in; exit code 1 tells."""
    queue = open_queue(config, url, environment)
    outcome = Outcome()
    try:
        with progress("enqueued", _size(source), "bytes") as advance:
            Run(queue, outcome, advance, event_id_field, delay, batch, strict=strict).play(source)
    except StrictStop:
        pass
    except BackendError:
        print_error(f"stopped; the lines up to {outcome.last_sent} are done")
        raise
    finally:
        _print(outcome, as_json=as_json)
    raise typer.Exit(exit_codes.OK if outcome.is_complete else exit_codes.NO)


def _print(outcome: Outcome, *, as_json: bool) -> None:
    figures = {
        "accepted": outcome.accepted,
        "duplicates": outcome.duplicates,
        "not_accepted": outcome.not_accepted,
        "bad": outcome.bad,
    }
    if as_json:
        print_json(figures)
    else:
        print_line(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in figures.items()))


def _size(source: IO[bytes]) -> int | None:
    name = getattr(source, "name", None)
    path = Path(name) if isinstance(name, str) else None
    return path.stat().st_size if path is not None and path.is_file() else None


class Run:
    """One run over the input.

    It reads between the runs of the event loop and not inside them, so that Ctrl-C ends a read that waits for input.
    """

    def __init__(
        self,
        queue: Queue,
        outcome: Outcome,
        advance: Advance,
        event_id_field: str | None,
        delay: float,
        batch: int,
        *,
        strict: bool,
    ) -> None:
        self._queue = queue
        self._outcome = outcome
        self._advance = advance
        self._event_id_field = event_id_field
        self._delay = delay
        self._batch = batch
        self._strict = strict

    def play(self, source: Iterable[bytes]) -> None:
        """Enqueue everything; raises StrictStop or BackendError where it stops before the end."""
        lines = self._lines(source)
        with asyncio.Runner() as runner:
            try:
                while batch := list(islice(lines, self._batch)):
                    runner.run(self._send(batch))
            finally:
                runner.run(self._queue.cleanup())

    def _lines(self, source: Iterable[bytes]) -> Iterator[Line]:
        for number, text in enumerate(source, start=1):
            self._advance(len(text))
            if not text.strip():
                continue
            try:
                yield parse(number, text, self._event_id_field)
            except MessageError as error:
                self._report_bad(number, error)

    def _report_bad(self, number: int, error: MessageError) -> None:
        self._outcome.bad += 1
        self._report(number, str(error))

    def _report(self, number: int, what: str) -> None:
        print_error(f"line {number}: {what}")
        if self._strict:
            raise StrictStop

    async def _send(self, batch: list[Line]) -> None:
        try:
            await self._send_together(batch)
        except MessageError:
            # Nothing was sent; one by one the good ones go in and the bad ones get their own line number.
            for line in batch:
                await self._send_alone(line)

    async def _send_alone(self, line: Line) -> None:
        try:
            await self._send_together([line])
        except MessageError as error:
            self._report_bad(line.number, error)

    async def _send_together(self, lines: list[Line]) -> None:
        payloads = [line.payload for line in lines]
        event_ids = [line.event_id for line in lines]
        receipts = await self._queue.enqueue_many(payloads, event_ids=event_ids, delay=self._delay)
        self._outcome.last_sent = lines[-1].number
        for line, receipt in zip(lines, receipts, strict=True):
            self._count(line, receipt)

    def _count(self, line: Line, receipt: Receipt) -> None:
        if receipt.status is ReceiptStatus.ACCEPTED:
            self._outcome.accepted += 1
        elif receipt.status is ReceiptStatus.DUPLICATE:
            self._outcome.duplicates += 1
        else:
            self._outcome.not_accepted += 1
            self._report(line.number, f"not accepted, the queue is {receipt.status}")


def parse(number: int, text: bytes, event_id_field: str | None) -> Line:
    """
    Read one line.

    Raises:
        MessageError: It is not a JSON object, or has no id where one is to be.
    """
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise MessageError(f"a JSON object is wanted, not {type(payload).__name__}")
    return Line(number, payload, find_event_id(payload, event_id_field) if event_id_field else None)


def find_event_id(payload: dict[str, Any], path: str) -> str:
    """
    Find the event's id at a dotted path.

    Raises:
        EncodeError: There is none, or it is neither a string nor an integer.
    """
    found: Any = payload
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise EncodeError(path, "an event id is wanted here, a string or an integer")
    return str(found)
