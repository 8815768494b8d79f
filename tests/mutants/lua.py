"""Mutants of a Lua script: each redis.call deleted, each comparison negated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.mutants.mutant import Mutant, changed

_CALL = re.compile(r"redis\.p?call\('(\w+)'")
_COMPARISON = re.compile(r"==|~=|<=|>=|<|>")
_NEGATED = {"==": "~=", "~=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_QUIET = re.compile(r"--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
# What the script goes on with where the reply was used: nothing found, nothing there, nothing done.
_NOTHING = {
    **dict.fromkeys(("HGET", "GET"), "false"),
    **dict.fromkeys(("XRANGE", "XPENDING", "XINFO", "ZRANGE", "ZRANGEBYSCORE", "HMGET", "HGETALL", "XCLAIM"), "({})"),
    "TIME": "({ '0', '0' })",
    "TYPE": "{ ok = 'none' }",
    "XADD": "'0-1'",
}


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Yield all mutants of one script or fragment."""
    code = _blanked(source)
    for found in _CALL.finditer(source):
        if code[found.start()] != " ":
            yield _without_call(path, source, found.start(), found.group(1))
    for found in _COMPARISON.finditer(code):
        before, after = found.group(), _NEGATED[found.group()]
        yield changed(path, source, *found.span(), after, f"{before} is {after}")


def _blanked(source: str) -> str:
    """Return the source with comments and strings blanked out, of the same length."""
    return _QUIET.sub(lambda found: " " * len(found.group()), source)


def _without_call(path: str, source: str, start: int, command: str) -> Mutant:
    end = _closing(source, start)
    if _is_statement(source, start, end):
        return changed(path, source, start, end, "", f"no {command}")
    nothing = _NOTHING.get(command, "0")
    return changed(path, source, start, end, nothing, f"{nothing} for the reply of {command}")


def _closing(source: str, start: int) -> int:
    """Return the position behind the parenthesis that closes the call."""
    code, depth = _blanked(source), 0
    for position in range(start, len(code)):
        depth += {"(": 1, ")": -1}.get(code[position], 0)
        if code[position] == ")" and depth == 0:
            return position + 1
    raise ValueError(f"the call at {start} is not closed")


def _is_statement(source: str, start: int, end: int) -> bool:
    """Whether the call stands alone on its lines; no script here begins a line with a call whose reply it uses."""
    before = source[source.rfind("\n", 0, start) + 1 : start]
    after = source[end : source.find("\n", end)] if "\n" in source[end:] else source[end:]
    return not before.strip() and not after.strip()
