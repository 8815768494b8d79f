"""The mutants that `make mutants` tries, themselves: scripts that load, each changed in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from tests.mutants import lua, python, survivors
from tests.mutants.__main__ import all_mutants
from tests.support.servers import RedisServer

LUA = Path(__file__).parents[2] / "streams_queue" / "lua"
SCRIPT = """\
-- redis.call('DEL', 'in a comment') == nothing
if redis.call('XLEN', KEYS[1]) > 0 then
  redis.call('HSET', KEYS[2], 'a == b',
    'c')
end
return redis.pcall('HGET', KEYS[2], 'x')
"""


def test_every_call_and_every_comparison_of_a_script_has_its_mutant() -> None:
    """Statements go, replies become nothing, and what is written in comments and strings is left alone."""
    made = [(mutant.line, mutant.change) for mutant in lua.mutants("a.lua", SCRIPT)]
    assert made == [
        (2, "0 for the reply of XLEN"),
        (3, "no HSET"),
        (6, "false for the reply of HGET"),
        (2, "> is <="),
    ]
    without = next(mutant.source for mutant in lua.mutants("a.lua", SCRIPT) if mutant.change == "no HSET")
    assert without == SCRIPT.replace("redis.call('HSET', KEYS[2], 'a == b',\n    'c')", "")


def test_every_comparison_of_a_decision_is_negated_and_moved() -> None:
    """Chains, words and both ends of a range."""
    source = "def f(a, b):\n    return max(a, 1) if 0 < a <= b and a is not b else 0\n"
    made = [mutant.source.splitlines()[1].strip() for mutant in python.mutants("a.py", source)]
    assert sorted(made) == sorted(
        [
            "return min(a, 1) if 0 < a <= b and a is not b else 0",
            "return max(a, 1) if 0 >= a <= b and a is not b else 0",
            "return max(a, 1) if 0 <= a <= b and a is not b else 0",
            "return max(a, 1) if 0 < a > b and a is not b else 0",
            "return max(a, 1) if 0 < a < b and a is not b else 0",
            "return max(a, 1) if 0 < a <= b or a is not b else 0",
            "return max(a, 1) if 0 < a <= b and a is b else 0",
            "return max(a, 1) if not (0 < a <= b and a is not b) else 0",
        ]
    )


def test_no_command_of_any_script_is_passed_over() -> None:
    """As many as a plain search finds."""
    calls = sum(len(re.findall(r"redis\.p?call", path.read_text("utf-8"))) for path in LUA.rglob("*.lua"))
    assert (
        sum(
            mutant.change.startswith("no ") or " for the reply of " in mutant.change
            for mutant in all_mutants()
            if mutant.path.endswith(".lua")
        )
        == calls
    )


def test_the_accepted_survivors_are_still_there() -> None:
    """A reason for code that has gone is no reason."""
    assert survivors.gone(all_mutants()) == []
    assert all(survivors.known().values())


@pytest.mark.integration
def test_every_mutant_of_a_script_loads(redis_server: RedisServer) -> None:
    """One that does not would be noticed by every test, whatever it changes."""
    with redis.Redis(port=redis_server.port, socket_timeout=10) as raw:
        for mutant in all_mutants():
            if mutant.path.endswith(".lua"):
                raw.script_load(mutant.source)
