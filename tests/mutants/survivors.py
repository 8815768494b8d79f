"""Mutants that no test can tell from the original, each with the reason."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.mutants.mutant import Mutant

FILE = Path(__file__).with_name("survivors.toml")

Place = tuple[str, str, str]


def known() -> Mapping[Place, str]:
    """Return the reason for each accepted survivor, by file, line of code and change."""
    entries = tomllib.loads(FILE.read_text("utf-8")).get("survivor", [])
    return {(entry["file"], entry["code"], entry["change"]): entry["reason"] for entry in entries}


def place(mutant: Mutant) -> Place:
    """Return what a mutant is known by, wherever in its file the line moves."""
    return mutant.path, mutant.code, mutant.change


def gone(mutants: Iterable[Mutant]) -> list[Place]:
    """Return the accepted survivors whose code is not there any more."""
    there = set(map(place, mutants))
    return [each for each in known() if each not in there]
