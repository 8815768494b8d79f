"""One run of the storm in one arena: build up, rage, calm, drain, look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.arena import Arena, Settings, Theft, sample, watch_owners
from tests.chaos.faults import Fault, Storm, notice_failovers
from tests.chaos.nemesis import Lane, rage, supervise
from tests.chaos.processes import Guard
from tests.support.waiting import wait_until

PRODUCERS_END_WITHIN = 40.0
ENQUEUE_REPLY = b"*4\r\n$2\r\nok\r\n:"


@dataclass
class Aftermath:
    """What the storm left beside the journals.

    Attributes:
        directory: Where the journals are.
        lease: Of the queue, in seconds.
        max_size: Of the queue.
        prefetch: Of each worker.
        began: When the storm began, on the monotonic clock.
        calmed: When the last fault was mended.
        ended: When the queue was empty, or was given up.
        faults: All that were fired.
        samples: Time, entries, delayed, dead letters.
        thefts: Time, entry, from whom, by whom.
        most_held: The largest size that an enqueue reply named.
        dead: Event and reason of the dead letters.
        left: Events that the queue still holds.
        accidents: Processes that ended by themselves.
    """

    directory: str
    lease: float
    max_size: int
    prefetch: int
    began: float
    calmed: float = 0.0
    ended: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)
    thefts: list[Theft] = field(default_factory=list)
    most_held: int = 0
    dead: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    accidents: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write it beside the journals."""
        path = Path(self.directory) / "aftermath.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Aftermath:
        """Read what `save` wrote."""
        stored: dict[str, Any] = json.loads((directory / "aftermath.json").read_text(encoding="utf-8"))
        faults = [Fault(**fault) for fault in stored.pop("faults")]
        return cls(**{**stored, "faults": faults, "directory": str(directory)})


async def run(make_arena: type[Arena], settings: Settings, lanes: Mapping[str, Lane]) -> Aftermath:
    """Let the storm rage, then let everything come to rest. No process is left when this returns or raises."""
    with Guard() as guard:
        arena = make_arena(settings, guard)
        try:
            await arena.open()
            return await _play(arena, lanes)
        finally:
            await asyncio.shield(arena.close())


async def _play(arena: Arena, lanes: Mapping[str, Lane]) -> Aftermath:
    settings, storm = arena.settings, Storm(arena)
    after = Aftermath(
        str(settings.directory),
        settings.lease,
        settings.max_size,
        settings.prefetch,
        time.monotonic(),
        faults=storm.faults,
        accidents=storm.accidents,
    )
    arena.watch_replies(lambda frame: _watch(after, frame))
    looks = (sample(arena, after.samples), watch_owners(arena, after.thefts))
    async with _beside(*looks, supervise(storm), notice_failovers(storm)):
        await rage(storm, settings.seconds, settings.seed, lanes)
        after.calmed = time.monotonic()
        await asyncio.gather(*(slot.terminate(PRODUCERS_END_WITHIN) for slot in arena.producers()))
        with contextlib.suppress(AssertionError):
            await wait_until(lambda: _is_empty(arena), settings.patience)
        after.ended = time.monotonic()
    await asyncio.gather(*(slot.terminate(15.0) for slot in arena.workers()))
    after.dead = [letter async for letter in arena.dead_letters()]
    after.left = await arena.left()
    after.save()
    return after


@contextlib.asynccontextmanager
async def _beside(*work: Any) -> AsyncIterator[None]:
    """Run coroutines around the block; one that breaks breaks the storm at its end."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        results = [await _ended(task) for task in tasks]
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _ended(task: asyncio.Task[None]) -> BaseException | None:
    """Cancel a task until it has ended: redis-py may take a cancellation for a lost connection, and go on."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)
    return None if task.cancelled() else task.exception()


async def _is_empty(arena: Arena) -> bool:
    sizes = await arena.sizes()
    return sizes is not None and sizes[0] == sizes[1] == 0


def _watch(after: Aftermath, frame: bytes) -> None:
    """Read the queue's size off an enqueue reply; called in the threads of the proxies."""
    if frame.startswith(ENQUEUE_REPLY):
        held = int(frame[len(ENQUEUE_REPLY) : frame.index(b"\r\n", len(ENQUEUE_REPLY))])
        after.most_held = max(after.most_held, held)
