"""Lua scripts by name, and the command that runs one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from streams_queue.redis_client.wire import Argument, Command


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script with the SHA-1 by which the server caches it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Load `lua/<name>.lua`; its first line may name fragments of `lua/shared/` that go before it."""
    folder = resources.files("streams_queue") / "lua"
    source = (folder / f"{name}.lua").read_text("utf-8")
    first, _, _ = source.partition("\n")
    if first.startswith("--!include "):
        fragments = first.removeprefix("--!include ").split()
        source = "".join((folder / "shared" / f"{each}.lua").read_text("utf-8") for each in fragments) + source
    # The server's cache is keyed by the SHA-1 of the source; nothing here depends on it being collision-free.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def call(wanted: Script, keys: Sequence[str], args: Sequence[Argument] = (), *, by_source: bool = False) -> Command:
    """Return the command that runs a script: EVALSHA, or EVAL where the server does not know it yet."""
    if by_source:
        return ("EVAL", wanted.source, len(keys), *keys, *args)
    return ("EVALSHA", wanted.sha, len(keys), *keys, *args)
