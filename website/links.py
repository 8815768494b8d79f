"""
Check the links of a built site.

    python -m website.links build/site

Every link, image, script and style sheet of every page has to be there, and every anchor in the page that it names.
Nothing may be fetched from elsewhere to show a page; links that a reader follows may lead out and are not asked.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLLOWED = {"a", "area"}
REFERENCES = {"href", "src", "poster", "data"}
DESCRIBING = {"canonical", "prev", "next"}  # rel= of links that no browser fetches


class Html(HTMLParser):
    """What one page refers to, and what in it can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[tuple[str, str]] = []  # tag, URL
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the references and the anchors of a tag."""
        values = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := values.get(name)))
        if values.get("rel") not in DESCRIBING:
            self.references += [(tag, value) for name, value in attrs if name in REFERENCES and value is not None]


def broken(root: Path) -> list[str]:
    """Return what is wrong with the site in the folder `root`, a line for each reference, by page; [] if nothing is."""
    root = root.resolve()
    pages = {path: Html(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    return [f"{path.relative_to(root)}: {problem}" for path in pages for problem in _problems(path, root, pages)]


def _problems(path: Path, root: Path, pages: Mapping[Path, Html]) -> Iterator[str]:
    for tag, url in pages[path].references:
        parts = urlsplit(url)
        if parts.scheme == "data" or (tag in FOLLOWED and parts.scheme):
            continue
        if parts.scheme or parts.netloc:
            yield f"<{tag}> fetches {url} from elsewhere"
        elif reason := _missing(path, root, url, pages):
            yield f"<{tag}> {url}: {reason}"


def _missing(path: Path, root: Path, url: str, pages: Mapping[Path, Html]) -> str | None:
    address, anchor = urldefrag(url)
    address = unquote(urlsplit(address).path)
    base = root if address.startswith("/") else path.parent
    target = (base / address.removeprefix("/")).resolve() if address else path
    if not target.is_file():
        return "no such file"
    if target in pages and unquote(anchor) not in pages[target].anchors:
        return "no such anchor"
    return None


def main(root: str) -> int:
    """Print what is wrong; 1 if anything is."""
    problems = broken(Path(root))
    print(*problems, sep="\n", end="\n" * bool(problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
