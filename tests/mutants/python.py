"""Mutants of a pure Python module: each comparison negated and moved by one, `and` for `or`, min for max."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from tests.mutants.mutant import Mutant, changed

_OPERATORS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", (">=", "<=")),
    ast.LtE: ("<=", (">", "<")),
    ast.Gt: (">", ("<=", ">=")),
    ast.GtE: (">=", ("<", ">")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_OTHER = {"min": "max", "max": "min"}


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Yield all mutants of one module."""
    places = _Places(source)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, ops=ops, comparators=others):
                for (before, after), operator in zip(pairwise([left, *others]), ops, strict=True):
                    yield from _comparisons(path, source, places.between(before, after), operator)
            case ast.BoolOp(op=op, values=values):
                for before, after in pairwise(values):
                    word, other = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                    yield _replaced(path, source, places.between(before, after), word, other)
            case ast.IfExp(test=test) if not isinstance(test, ast.Compare):
                start, end = places.of(test)
                yield changed(path, source, start, end, f"not ({source[start:end]})", "the condition is negated")
            case ast.Call(func=ast.Name(id=("min" | "max") as name) as function):
                yield changed(path, source, *places.of(function), _OTHER[name], f"{name} is {_OTHER[name]}")


def _comparisons(path: str, source: str, place: tuple[int, int], operator: ast.cmpop) -> Iterator[Mutant]:
    word, others = _OPERATORS[type(operator)]
    for other in others:
        yield _replaced(path, source, place, word, other)


def _replaced(path: str, source: str, place: tuple[int, int], word: str, other: str) -> Mutant:
    start = source.index(word, *place)
    return changed(path, source, start, start + len(word), other, f"{word} is {other}")


class _Places:
    """Positions of nodes in a source that is ASCII where there is code."""

    def __init__(self, source: str) -> None:
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def of(self, node: ast.expr) -> tuple[int, int]:
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def between(self, before: ast.expr, after: ast.expr) -> tuple[int, int]:
        return self.of(before)[1], self.of(after)[0]
