"""Which events of an exported file are in a queue: all up to a number, but for some gaps. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from streams_queue.draining.errors import ExportError

MOST_GAPS: Final = 10_000

_WRITTEN = re.compile(r"\d{1,15}( \d{1,15}-\d{1,15})*")


@dataclass(frozen=True, slots=True)
class Progress:
    """What is in, as the server keeps it: `last`, and ranges up to it that are not in, `from-to` each.

    A gap is where a line could not be read, or had been taken back; such a line may come later.

    Attributes:
        last: The highest number that is in; 0 for none.
        gaps: Ranges of lower ones that are not, ascending, both ends included.
    """

    last: int = 0
    gaps: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `str` wrote; empty text is nothing. Raises ExportError if it is neither."""
        if not text:
            return cls()
        if not _WRITTEN.fullmatch(text):
            raise ExportError("what the server keeps of this import cannot be read")
        last, *ranges = text.split(" ")
        return cls(
            int(last), tuple((int(start), int(end)) for start, _, end in (each.partition("-") for each in ranges))
        )

    def __str__(self) -> str:
        """Write it."""
        return " ".join((str(self.last), *(f"{start}-{end}" for start, end in self.gaps)))

    def has(self, number: int) -> bool:
        """Tell whether an event is in."""
        return number <= self.last and not any(start <= number <= end for start, end in self.gaps)

    def adding(self, numbers: Iterable[int]) -> Progress:
        """Return what is in when these are as well. Raises ExportError for more than MOST_GAPS gaps."""
        last, gaps = self.last, list(self.gaps)
        for number in numbers:
            if number > last:
                gaps += [(last + 1, number - 1)] if number > last + 1 else []
                last = number
            else:
                gaps = [piece for gap in gaps for piece in _without(gap, number)]
        if len(gaps) > MOST_GAPS:
            raise ExportError(f"more than {MOST_GAPS} stretches of lines cannot be read; mend the file first")
        return Progress(last, tuple(gaps))


def _without(gap: tuple[int, int], number: int) -> list[tuple[int, int]]:
    start, end = gap
    if not start <= number <= end:
        return [gap]
    return [(low, high) for low, high in ((start, number - 1), (number + 1, end)) if low <= high]
