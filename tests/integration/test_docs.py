from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.logins import login

CHECKOUT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
PROGRAMS = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]
DOCUMENTED_URL = "redis://localhost:6379/0"


def page_id(page: Path) -> str:
    """Name a page by its path in the checkout."""
    return str(page.relative_to(CHECKOUT))


@pytest.mark.integration
@pytest.mark.parametrize("page", PROGRAMS, ids=page_id)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, start_server: StartServer) -> None:
    """All Python blocks of a page, one after the other, are a program that ends well and warns of nothing."""
    redis_url = login(start_server().url, "gitbridge")
    program = "\n\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))).replace(DOCUMENTED_URL, redis_url)
    script = tmp_path / "page.py"
    script.write_text(program, encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_QUEUE_")}
    environ["STREAMS_QUEUE_REDIS_URL"] = redis_url
    result = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Every relative link points at a file or folder of the checkout."""
    targets = [page.parent / target for target in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [str(target) for target in targets if not target.exists()] == []
