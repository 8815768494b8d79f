"""A process that measures one side: reads a case a line, answers with figures a line, ends with its parent."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.metadata
import json
import platform
import sys
import traceback
from collections.abc import Callable

from benchmarks.counting import QUANTILES, percentile
from benchmarks.model import Case, Figures, Measure, Scenario, Taken

_PACKAGES = ("streams-queue", "redis", "coredis", "hiredis", "msgspec", "uvloop")
_PEERS = ("ardiq", "arq", "faststream", "saq", "streaq", "taskiq", "taskiq-redis")


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
            measured: Figures | Taken = runner.run(measure(case))  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - the parent raises it
        return {"error": traceback.format_exc()}
    taken = measured if isinstance(measured, Taken) else Taken(measured, {})
    quantiles = {
        name: [percentile(sample, percent / 100) for percent in QUANTILES] for name, sample in taken.samples.items()
    }
    return {"figures": taken.figures, "quantiles": quantiles, "versions": versions()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed and could matter."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *_PEERS):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure until the parent has no more to ask."""
    *what, loop = sys.argv[1:5]
    measure = _find(*what)
    for line in sys.stdin:
        print(json.dumps(_run(measure, Case(**json.loads(line)), loop)), flush=True)


if __name__ == "__main__":
    main()
