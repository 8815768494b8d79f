"""
A hook of MkDocs: what pages link to outside of docs/ comes with the site, under repository/.

Pages link to configuration files, tests and figures of the checkout by relative paths, so that the links work where the
repository is read. On the site each such file becomes a page that shows it, a Markdown file a page like any other, a
folder a list of what is in it, and what is too large or no text a download.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, InclusionLevel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = "repository"
FENCED = re.compile(r"^(`{3,})[^`].*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(?=[)#\s])")
SHOWN_BYTES = 100_000
LANGUAGES = {
    ".py": "python",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".json": "json",
    ".toml": "toml",
    ".lua": "lua",
    ".service": "ini",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what is linked to, and what that links to in turn."""
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    known = {file.src_uri for file in files}
    while waiting:
        for target in _targets(*waiting.pop()):
            if (uri := _source_uri(target)) in known or target.startswith("docs/") or not (CHECKOUT / target).exists():
                continue  # what does not exist MkDocs itself reports
            known.add(uri)
            files.append(file := _file(target, uri, config))
            if target.endswith(".md"):
                waiting.append((target, file.content_string))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Point links at the places that files of the repository have on the site."""
    source = _repository_path(page.file.src_uri)
    if not (CHECKOUT / source).exists():  # a view of a file, made below
        return markdown
    fences = [match.span() for match in FENCED.finditer(markdown)]

    def rewritten(link: re.Match[str]) -> str:
        fenced = any(start < link.start() < end for start, end in fences)
        return link[1] if fenced else _on_the_site(source, page.file.src_uri, link[1])

    return LINK.sub(rewritten, markdown)


def _targets(source: str, markdown: str) -> Iterator[str]:
    for link in LINK.findall(FENCED.sub("", markdown)):
        yield _resolved(source, link)


def _on_the_site(source: str, uri: str, link: str) -> str:
    target = _resolved(source, link)
    if not (CHECKOUT / target).exists() or (target.startswith("docs/") and source.startswith("docs/")):
        return link
    return os.path.relpath(_source_uri(target), PurePosixPath(uri).parent)


def _resolved(source: str, link: str) -> str:
    """Return the path in the checkout that a link on the page `source` means."""
    return os.path.normpath(PurePosixPath(source).parent / link)


def _source_uri(path: str) -> str:
    """Return where a path of the checkout is among the files that the site is made of."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".md"):
        return f"{FOLDER}/{path}"
    return f"{FOLDER}/{path}.md" if _shown(CHECKOUT / path) else f"{FOLDER}/{path}"


def _repository_path(uri: str) -> str:
    return uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else f"docs/{uri}"


def _shown(path: Path) -> bool:
    return path.is_dir() or (path.stat().st_size <= SHOWN_BYTES and b"\0" not in path.read_bytes())


def _file(target: str, uri: str, config: MkDocsConfig) -> File:
    path = CHECKOUT / target
    if target.endswith(".md") or not _shown(path):
        return File.generated(config, uri, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV)
    return File.generated(
        config, uri, content=_listing(path) if path.is_dir() else _view(path), inclusion=InclusionLevel.NOT_IN_NAV
    )


def _view(path: Path) -> str:
    language = LANGUAGES.get(path.suffix, "text")
    return f"# `{path.relative_to(CHECKOUT)}`\n\n````{language}\n{path.read_text(encoding='utf-8')}\n````\n"


def _listing(folder: Path) -> str:
    names = sorted(
        entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith((".", "__"))
    )
    return f"# `{folder.relative_to(CHECKOUT)}/`\n\n" + "\n".join(f"- `{name}`" for name in names)
