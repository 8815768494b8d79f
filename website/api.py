"""
Write docs/reference/api.md: the public names of streams_queue, with their signatures and docstrings.

    python -m website.api

A test compares the committed page with what this would write.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import griffe

import streams_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs" / "reference" / "api.md"
INTRODUCTION = """\
# API

The public names of `streams_queue`, as `from streams_queue import …` gives them, with what their docstrings say.
*Redis* tells what a call sends, *Cancelled* what is left behind when its task is cancelled, *Source* why. Names that
are not here may change with any release. This page is made from the code: `make api-page`.
"""
GROUPS = {
    "Making a queue": ("QueueFactory", "load_config", "Settings"),
    "Queues": ("Queue", "RedisEventQueue", "EventQueue", "ResilientQueue", "RolloutQueue", "SyncQueue"),
    "Working": ("Worker", "Reject", "RetryLater"),
    "What travels": ("Delivery", "Receipt", "DeadLetter", "QueueStats"),
    "Watching": ("check_redis_health", "Observer"),
}
LISTED = {
    "parameters": "Args",
    "attributes": "Attributes",
    "returns": "Returns",
    "yields": "Yields",
    "raises": "Raises",
}
LINE_WIDTH = 100


def page() -> str:
    """Return the whole page."""
    package = griffe.load("streams_queue", search_paths=[CHECKOUT], docstring_parser="google")
    parts = [INTRODUCTION]
    for title, names in _groups():
        parts.append(f"## {title}\n")
        parts += [_entry(name, _resolved(package[name])) for name in names]
    return "\n".join(parts)


def _groups() -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the public names by group."""
    yield from GROUPS.items()
    grouped = {name for names in GROUPS.values() for name in names}
    others = [name for name in streams_queue.__all__ if name not in grouped and not name.startswith("__")]
    if strangers := [name for name in others if not _is_error(getattr(streams_queue, name))]:
        raise ValueError(f"GROUPS in website/api.py has no place for {', '.join(strangers)}")
    yield "Errors", others


def _is_error(named: object) -> bool:
    return isinstance(named, type) and issubclass(named, Exception)


def _resolved(member: Any) -> Any:
    return member.final_target if member.is_alias else member


def _entry(name: str, member: Any) -> str:
    parts = [f"### {name}\n", _signature(name, member)]
    if bases := [str(base) for base in getattr(member, "bases", ()) if str(base) in streams_queue.__all__]:
        parts.append("Is a " + ", ".join(f"[`{base}`](#{base.lower()})" for base in bases) + ".\n")
    parts += _docstring(member)
    if member.is_class:
        methods = [_resolved(method) for method in member.members.values() if _is_told(method)]
        parts += [
            part
            for method in methods
            for part in (f"#### {name}.{method.name}\n", _signature(method.name, method), *_docstring(method))
        ]
    return "\n".join(parts)


def _is_told(member: Any) -> bool:
    return (
        not member.name.startswith("_")
        and member.docstring is not None
        and (member.is_function or "property" in member.labels)
    )


def _signature(name: str, member: Any) -> str:
    if "property" in member.labels:
        return f"```py\n{name}: {member.annotation}\n```\n"
    told = member.signature(name=name) if member.is_function else _constructor(name, member)
    prefix = "async def " if "async" in member.labels else "def " if member.is_function else "class "
    return f"```py\n{_wrapped(prefix + told)}\n```\n"


def _constructor(name: str, member: Any) -> str:
    """Return how a class is called, or only its name where nobody makes one by hand."""
    if (init := member.members.get("__init__")) is not None:
        return str(init.signature(name=name)).removesuffix(" -> None").replace("(self, ", "(").replace("(self)", "()")
    fields = [f"{each.name}: {each.annotation}" for each in member.members.values() if _is_field(each)]
    return f"{name}({', '.join(fields)})" if fields and "dataclass" in member.labels else name


def _is_field(member: Any) -> bool:
    return bool(member.is_attribute and "instance-attribute" in member.labels and not member.name.startswith("_"))


def _wrapped(signature: str) -> str:
    """Put each parameter onto its own line where one line does not hold them."""
    signature = signature.replace("(self, ", "(").replace("(self)", "()")
    if len(signature) <= LINE_WIDTH:
        return signature
    head, inner, tail = re.fullmatch(r"([^(]*\()(.*)(\)[^)]*)", signature, re.DOTALL).groups()  # type: ignore[union-attr]
    return "\n".join([head, *(f"    {parameter}," for parameter in _parameters(inner)), tail])


def _parameters(inner: str) -> list[str]:
    parameters, depth, start = [], 0, 0
    for at, character in enumerate(inner):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parameters.append(inner[start:at].strip())
            start = at + 1
    return [*parameters, inner[start:].strip()]


def _docstring(member: Any) -> Iterator[str]:
    if member.docstring is None:
        return
    for section in member.docstring.parsed:
        if section.kind.value in {"returns", "yields"}:
            yield f"*{LISTED[section.kind.value]}*: {_flowing(' '.join(item.description for item in section.value))}\n"
        elif section.kind.value in LISTED:
            rows = [_row(section.kind.value, item) for item in section.value]
            yield f"*{LISTED[section.kind.value]}*\n\n" + "\n".join(rows) + "\n"
        elif section.kind.value == "admonition":
            yield f"*{section.title}*: {_flowing(section.value.description)}\n"
        elif section.kind.value == "examples":
            yield "*Example*\n\n" + "\n".join(text for _, text in section.value) + "\n"
        else:
            yield f"{_linked(section.value)}\n"


def _row(kind: str, item: Any) -> str:
    name = f"`{item.annotation}`" if kind == "raises" else f"`{item.name}`" if getattr(item, "name", "") else ""
    return f"- {name}{': ' if name else ''}{_flowing(item.description)}"


def _flowing(text: str) -> str:
    return _linked(" ".join(text.split()))


def _linked(text: str) -> str:
    """Link pages that a docstring names by their path, and set off the headings that only this package has."""
    text = re.sub(r"^(Redis|Cancelled|Source):", r"*\1*:", text, flags=re.MULTILINE)
    return re.sub(r"docs/([\w./-]+\.md)", lambda found: f"[{Path(found[1]).stem}](../{found[1]})", text)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
