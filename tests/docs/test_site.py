from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT
from website import links

PAGES = sorted((CHECKOUT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, strictly: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", "website/mkdocs.yml", "--site-dir", str(folder)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(build, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=110, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return folder


@pytest.mark.slow
def test_no_link_of_the_site_is_broken_and_nothing_comes_from_elsewhere(site: Path) -> None:
    """Links, anchors, images, scripts and style sheets of all pages are part of the site."""
    assert links.broken(site) == []


@pytest.mark.slow
def test_every_page_of_the_docs_is_on_the_site_and_in_its_navigation(site: Path) -> None:
    """No page needs to be named anywhere to be found."""
    front = links.Html((site / "index.html").read_text(encoding="utf-8"))
    reached = {url for tag, url in front.references if tag == "a"}
    for page in PAGES:
        address = (
            page.relative_to(CHECKOUT / "docs").with_suffix(".html").as_posix().replace("README.html", "index.html")
        )
        assert (site / address).is_file(), address
        assert address in reached or address == "reference/chaos/index.html", address


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="nowhere.html">x</a>', "<a> nowhere.html: no such file"),
        ('<a href="other.html#nowhere">x</a>', "<a> other.html#nowhere: no such anchor"),
        ('<a href="#nowhere">x</a>', "<a> #nowhere: no such anchor"),
        ('<a href="folder">x</a>', "<a> folder: no such file"),
        ('<img src="none.png">', "<img> none.png: no such file"),
        (
            '<script src="https://example.org/x.js"></script>',
            "<script> fetches https://example.org/x.js from elsewhere",
        ),
        ('<link rel="stylesheet" href="//example.org/x.css">', "<link> fetches //example.org/x.css from elsewhere"),
    ],
)
def test_the_link_check_finds(body: str, problem: str, tmp_path: Path) -> None:
    """It tells what is wrong, and on which page."""
    (tmp_path / "index.html").write_text(body)
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1>')
    (tmp_path / "folder").mkdir()
    assert links.broken(tmp_path) == [f"index.html: {problem}"]


def test_the_link_check_lets_pass_what_is_there(tmp_path: Path) -> None:
    """Relative and absolute addresses, anchors, and links that a reader may follow to somewhere else."""
    (tmp_path / "other.html").write_text('<h1 id="here there">x</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="other.html#here%20there">x</a><a href="/other.html">x</a><a href="https://example.org">x</a>'
        '<a href="#">x</a><a href="mailto:x@example.org">x</a><img src="data:image/png;base64,AAAA">'
    )
    assert links.broken(tmp_path) == []
