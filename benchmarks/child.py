"""A process that measures one side: reads a case a line, answers with figures a line, ends with its parent."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import traceback
from collections.abc import Callable

from benchmarks.model import Case, Measure, Scenario


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes event loops: `asyncio` or `uvloop`."""
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def _find(scenario: str, side: str, role: str) -> Measure:
    found: Scenario = importlib.import_module(f"benchmarks.scenarios.{scenario}").SCENARIO
    measure = getattr(found.sides[side], role)
    if measure is None:
        raise LookupError(f"{side} has no {role}")
    return measure  # type: ignore[no-any-return]


def _run(measure: Measure, case: Case, loop: str) -> dict[str, object]:
    gc.collect()
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            return {"figures": runner.run(measure(case))}  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - the parent raises it
        return {"error": traceback.format_exc()}


def main() -> None:
    """Measure until the parent has no more to ask."""
    *what, loop = sys.argv[1:5]
    measure = _find(*what)
    for line in sys.stdin:
        print(json.dumps(_run(measure, Case(**json.loads(line)), loop)), flush=True)


if __name__ == "__main__":
    main()
