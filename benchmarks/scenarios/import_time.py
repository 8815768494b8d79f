"""How long does `import streams_queue` take, and how much memory?

Each import runs in a new interpreter, which measures itself; `redis.asyncio` and nothing at all stand beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable

from benchmarks.model import Case, Figures, Scenario, Side, Target

_PROGRAM = """
import json, resource, time
began = time.perf_counter()
{statement}
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"import": seconds, "resident": peak}}))
"""


def _importing(statement: str) -> Callable[[Case], Awaitable[Figures]]:
    async def measure(_case: Case) -> Figures:
        program = _PROGRAM.format(statement=statement)
        # The event loop has nothing else to do meanwhile.
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)  # noqa: ASYNC221
        figures: Figures = json.loads(done.stdout)
        return figures

    return measure


SCENARIO = Scenario(
    units={"import": "s", "resident": "MiB"},
    cases=[Case(name="new interpreter")],
    quick_cases=[Case(name="new interpreter")],
    sides={
        "nothing": Side(_importing("pass")),
        "redis.asyncio": Side(_importing("import redis.asyncio")),
        "streams_queue": Side(_importing("import streams_queue")),
        "all public names": Side(_importing("from streams_queue import *")),
    },
    targets=[Target(side="streams_queue", metric="import", at_most=0.15)],
)
