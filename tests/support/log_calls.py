"""Every call of a logger in the package, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import streams_queue

PACKAGE = Path(streams_queue.__file__).parent
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


@dataclass(frozen=True)
class LogCall:
    """One call: of which logger, at which level, what it says, which values it has, and what it gives along."""

    logger: str
    level: str
    message: str
    values: int
    fields: tuple[str, ...]
    where: str


def log_calls() -> list[LogCall]:
    """Return all calls, by logger."""
    return [call for path in sorted(PACKAGE.rglob("*.py")) for call in _calls_in(path)]


def _calls_in(path: Path) -> Iterator[LogCall]:
    tree = ast.parse(path.read_text("utf-8"))
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=method), args=[said, *values]):
                where = f"{path.name}:{node.lineno}"
                yield LogCall(name, LEVELS[method], _text(said, constants, where), len(values), _fields(node), where)


def _text(said: ast.expr, constants: dict[str, str], where: str) -> str:
    """Return a message with … where values go."""
    match said:
        case ast.Constant(value=str(text)):
            pass
        case ast.Name(id=name) if name in constants:
            text = constants[name]
        case _:
            raise AssertionError(f"{where}: the message is not a constant")
    for placeholder in ("%s", "%d", "%g", "%.1f"):
        text = text.replace(placeholder, "…")
    assert "%" not in text, where
    return text


def _fields(node: ast.Call) -> tuple[str, ...]:
    (extra,) = [keyword.value for keyword in node.keywords if keyword.arg == "extra"] or [ast.Dict([], [])]
    assert isinstance(extra, ast.Dict)
    return tuple(key.value for key in extra.keys if isinstance(key, ast.Constant))
