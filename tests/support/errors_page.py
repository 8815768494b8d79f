"""The reference of errors, drawn from what their classes say of themselves: `python -m tests.support.errors_page`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from streams_queue import errors
from streams_queue.errors import StreamsQueueError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"
BEGIN, END = "<!-- from the classes' docstrings: make errors-page -->\n", "<!-- end -->\n"
HEAD = "| error | says | when | retryable | what to do |\n| --- | --- | --- | --- | --- |\n"


def classes() -> list[type[Exception]]:
    """Return all errors and signals, in the order of the module."""
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__]
    return sorted(found, key=lambda each: inspect.getsourcelines(each)[1])


def told(error: type[Exception], what: str) -> str:
    """Return one paragraph of a class's docstring on one line, without the word that it begins with."""
    paragraphs = inspect.cleandoc(error.__doc__ or "").split("\n\n")
    (found,) = [text.removeprefix(what) for text in paragraphs if text.startswith(what)]
    return re.sub(r"\s+", " ", found).strip()


def row(error: type[Exception]) -> str:
    """Return the row of one error."""
    meaning = re.sub(r"\s+", " ", inspect.cleandoc(error.__doc__ or "").split("\n\n")[0])
    bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__ if base is not Exception)
    name = f"`{error.__name__}`" + (f" ({bases})" if bases else "")
    retryable = "yes" if issubclass(error, StreamsQueueError) and error.retryable else "no"
    when, to_do = (told(error, what).removesuffix(".") for what in ("When:", "What to do:"))
    return f"| {name} | {meaning} | {when} | {retryable} | {to_do} |\n"


def drawn(page: str) -> str:
    """Return a page with its table drawn anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + HEAD + "".join(map(row, classes())) + END + after


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text("utf-8")), "utf-8")
