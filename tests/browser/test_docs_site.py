"""The site of the documentation in a browser: it fetches nothing from elsewhere, and its search finds pages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.chromium import Browser, chromium
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the site and serve it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", "website/mkdocs.yml", "--site-dir", str(folder)]
    subprocess.run(build, cwd=CHECKOUT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True, timeout=110)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Open one window."""
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("page", ["index.html", "explanation/life-of-an-event.html", "reference/api.html"])
def test_a_page_asks_nobody_but_its_own_server(browser: Browser, url: str, page: str) -> None:
    """Whatever the scripts do: no font, style, script or picture from elsewhere, and nothing that is missing."""
    browser.open(f"{url}/{page}")
    browser.until(lambda: browser.run("return document.readyState === 'complete';"))
    asked = browser.run("return performance.getEntriesByType('resource').map((each) => each.name);")
    assert asked
    assert [address for address in asked if not address.startswith((url, "data:"))] == []
    assert browser.errors() == []


def test_the_search_finds_a_page(browser: Browser, url: str) -> None:
    """As one types."""
    browser.look_like()
    browser.open(f"{url}/index.html")
    browser.click(".md-search__input")
    browser.press("poisonous")
    found = "return [...document.querySelectorAll('.md-search-result__link')].map((each) => each.getAttribute('href'));"
    browser.until(lambda: any("how-to/survive-poisonous-events.html" in (each or "") for each in browser.run(found)))
