"""One change to one file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A file with one place changed.

    Attributes:
        path: The file, relative to the checkout.
        line: Where, counted from 1.
        code: That line as it was, stripped; says what the place is when line numbers have moved.
        change: What was done to it, in words.
        source: The file's new text.
    """

    path: str
    line: int
    code: str
    change: str
    source: str


def changed(path: str, source: str, start: int, end: int, text: str, change: str) -> Mutant:
    """Return the mutant in which source[start:end] is replaced by `text`."""
    line = source.count("\n", 0, start) + 1
    return Mutant(path, line, source.splitlines()[line - 1].strip(), change, source[:start] + text + source[end:])
