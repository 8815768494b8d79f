"""One scenario a module; each has `SCENARIO`, and its docstring is the question that it answers."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.model import Scenario


def names() -> list[str]:
    """Return the scenarios' names, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def is_about_peers(name: str) -> bool:
    """Tell whether a scenario measures other queues, which need environments of their own."""
    return name.startswith("peers_")


def load(name: str) -> tuple[str, Scenario]:
    """Return a scenario's question and the scenario."""
    module = importlib.import_module(f"{__name__}.{name}")
    return (module.__doc__ or "").strip().splitlines()[0], module.SCENARIO
