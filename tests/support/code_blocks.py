"""The code blocks of the documentation: what is in them, what they are written in, and which of them are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXCEPTION = re.compile(r"<!-- not run: (\S.*?) -->")
_FENCE = re.compile(r"^(`{3,})(\w*)$")
_LIST = re.compile(r"^ {0,3}([-*+]|\d+\.) ")
_ASSIGNMENT = re.compile(r"^\w+=")
_OPERATORS = set("|&;()<>")


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        page: Where it stands.
        line: Of its first line, from 1.
        language: What its fence says; `sh` for an indented block.
        code: Its text, with no indentation of its own.
        exception: Why it is not run, as the comment above it says; None if it is.
    """

    page: Path
    line: int
    language: str
    code: str
    exception: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order. What is quoted (`>`) is none: it is somebody else's."""
    return list(_Reader(page).blocks())


class _Reader:
    def __init__(self, page: Path) -> None:
        self._page = page
        self._lines = page.read_text(encoding="utf-8").splitlines()
        self._exception: str | None = None

    def blocks(self) -> Iterator[Block]:
        at, in_list = 0, False
        while at < len(self._lines):
            line = self._lines[at]
            if fence := _FENCE.match(line):
                end = self._lines.index(fence[1], at + 1)
                yield self._block(at + 1, end, fence[2], 0)
                at = end
            elif line.startswith("    ") and not in_list and self._begins_a_paragraph(at):
                end = self._end_of_indented(at)
                yield self._block(at, end, "sh", 4)
                at = end - 1
            elif line.strip():
                found = EXCEPTION.fullmatch(line.strip())
                self._exception = found[1] if found else None
                in_list = bool(_LIST.match(line)) or (in_list and line.startswith(" "))
            at += 1

    def _begins_a_paragraph(self, at: int) -> bool:
        return at == 0 or not self._lines[at - 1].strip()

    def _end_of_indented(self, start: int) -> int:
        """Return the index behind the last indented line; blank lines in between belong to the block."""
        end = start + 1
        for at in range(start, len(self._lines)):
            if self._lines[at].startswith("    "):
                end = at + 1
            elif self._lines[at].strip():
                break
        return end

    def _block(self, start: int, end: int, language: str, indentation: int) -> Block:
        code = "\n".join(line[indentation:] for line in self._lines[start:end]) + "\n"
        exception, self._exception = self._exception, None
        return Block(self._page, start + 1, language, code, exception)


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of shell code, without redirections, assignments and comments."""
    for line in re.sub(r"\\\n", " ", code).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for token in lexer:
            if set(token) <= _OPERATORS:
                redirected = token in {">", ">>", "<"}
                if not redirected:
                    yield from [words] if words else []
                    words = []
            elif redirected:
                redirected = False
            elif words or not _ASSIGNMENT.match(token):
                words.append(token)
        yield from [words] if words else []
