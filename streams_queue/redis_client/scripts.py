"""Lua scripts by name, and the command that runs one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from streams_queue.redis_client.wire import Argument, Command

_INCLUDE = re.compile(r"^ *--!include (.*)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script with the SHA-1 by which the server caches it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Load `lua/<name>.lua`; a line `--!include a b` stands for fragments of `lua/shared/`, where they are needed."""
    folder = resources.files("streams_queue") / "lua"

    def fragments(found: re.Match[str]) -> str:
        return "".join((folder / "shared" / f"{each}.lua").read_text("utf-8") for each in found[1].split())

    source = _INCLUDE.sub(fragments, (folder / f"{name}.lua").read_text("utf-8"))
    # The server's cache is keyed by the SHA-1 of the source; nothing here depends on it being collision-free.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def call(wanted: Script, keys: Sequence[str], args: Sequence[Argument] = ()) -> Command:
    """Return the command that runs a script that the server knows."""
    return ("EVALSHA", wanted.sha, len(keys), *keys, *args)


def with_source(wanted: Script, command: Command) -> Command:
    """Return the same command for a server that does not know the script yet."""
    return ("EVAL", wanted.source, *command[2:])
