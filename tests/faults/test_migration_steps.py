"""A migration that dies between two of its commands, whichever: who goes on ends where it would have ended."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from streams_queue.config import load_config
from streams_queue.migration import Asked, Migration, Report
from streams_queue.redis_client import Link
from tests.conftest import MakeClient, MakeConfig, StartServer
from tests.support.builders import Keys
from tests.support.plan_lists import PlanLists, payloads, pushed

pytestmark = [pytest.mark.faults, pytest.mark.integration]


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Fuse:
    """Lets so many commands through, and then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: float = float("inf")
        call = Link.call

        async def burn(link: Link, *commands: Any, timeout: float) -> list[Any]:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return await call(link, *commands, timeout=timeout)

        monkeypatch.setattr(Link, "call", burn)


async def state(lists: PlanLists, queue: redis.asyncio.Redis, keys: Keys, folder: Path) -> dict[str, Any]:
    """Return everything that a migration leaves behind."""
    return {
        "stream": await payloads(queue, keys.stream),
        "enqueued": await queue.hget(keys.stats, "enqueued"),
        "keys": sorted([key async for key in queue.scan_iter(f"{keys.stream}*") if not await _is_going(queue, key)]),
        "lists": await lists.left_behind(),
        "files": await asyncio.to_thread(lambda: {each.name: each.read_bytes() for each in folder.iterdir()}),
    }


async def _is_going(queue: redis.asyncio.Redis, key: bytes) -> bool:
    """Tell whether a key ends by itself, within a minute."""
    return 0 < await queue.pttl(key) <= 60_000


@pytest.mark.parametrize(
    ("servers", "processing"),
    [(1, "newest:120"), (1, "export"), (2, "newest:120")]
    + [pytest.param(*each, marks=pytest.mark.slow) for each in ((1, "requeue"), (2, "requeue"), (2, "export"))],
)
async def test_whenever_it_dies_the_end_is_the_same(  # noqa: PLR0917 - fixtures go by name
    servers: int,
    processing: str,
    start_server: StartServer,
    make_client: MakeClient,
    make_config: MakeConfig,
    keys: Keys,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before its first command, its second one and so on, until it is through before it is killed."""
    at = [start_server().url for _ in range(servers)]
    queue, lists = make_client(at[0]), PlanLists(make_client(at[-1]), namespace)
    fuse = Fuse(monkeypatch)
    # It is full twice, so that a chunk goes in parts.
    settings = load_config(make_config(redis_url=at[0], max_size=200))

    async def run(folder: Path) -> Report:
        asked = lists.asked(f"export:{folder / 'out.jsonl'}" if processing == "export" else processing)
        return await Migration(settings, asked, from_url=at[1] if servers == 2 else None).run()

    async def begin(folder: Path) -> None:
        await asyncio.to_thread(folder.mkdir)
        for each in (queue, lists.raw):
            await each.flushall()
        await lists.push([*pushed(range(149)), b"placeholder", *pushed(range(149, 190)), b"no", b"placeholder"])
        await lists.take(150)

    await begin(tmp_path / "whole")
    whole = await run(tmp_path / "whole")
    expected = await state(lists, queue, keys, tmp_path / "whole")
    for commands in itertools.count():
        folder = tmp_path / str(commands)
        await begin(folder)
        fuse.left = commands
        try:
            assert await run(folder) == whole
            break
        except Killed:
            fuse.left = float("inf")
        assert await run(folder) == whole, f"killed after {commands} commands"
        assert await state(lists, queue, keys, folder) == expected, f"killed after {commands} commands"
    assert commands > 9


async def test_whenever_it_dies_with_a_full_queue_the_end_is_the_same(
    start_server: StartServer,
    make_client: MakeClient,
    make_config: MakeConfig,
    keys: Keys,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two servers a chunk of which only a part had room is the hardest: the rest goes under a new sequence."""
    at = [start_server().url, start_server().url]
    queue, lists = make_client(at[0]), PlanLists(make_client(at[1]), namespace)
    fuse = Fuse(monkeypatch)
    asked = lists.asked(wait_for_room=0.0)

    async def run(asked: Asked, max_size: int) -> Report:
        settings = load_config(make_config(redis_url=at[0], max_size=max_size))
        return await Migration(settings, asked, from_url=at[1]).run()

    for commands in itertools.count():
        for each in (queue, lists.raw):
            await each.flushall()
        await lists.push(pushed(range(130)))
        fuse.left = commands
        try:
            report = await run(asked, 70)
            assert (report.finished, report.waiting.on_the_way, report.waiting.left) == (False, 30, 30)
            break
        except Killed:
            fuse.left = float("inf")
        await run(asked, 70)
        assert await payloads(queue, keys.stream) == pushed(range(70)), f"killed after {commands} commands"
        report = await run(asked, 1000)
        assert (report.finished, report.waiting.moved, report.adds_up) == (True, 130, True)
        assert await payloads(queue, keys.stream) == pushed(range(130)), f"killed after {commands} commands"
    assert commands > 4
