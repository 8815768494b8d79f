"""A newcomer gets from nothing to a processed event by the tutorial's words alone, in an empty directory."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.code_blocks import Block, blocks
from tests.support.processes import CHECKOUT
from tests.support.waiting import wait_until_sync

PAGE = CHECKOUT / "docs" / "tutorial" / "first-queue.md"
FILE_NAME = re.compile(r"into `([\w.]+)`:$")
WORKER = "streams-queue worker tasks:handle"
WORKING = "working on push of octocat/Hello-World"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Build the wheel of this checkout, which stands for the one that the index will have."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "wheel"), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    return next((tmp_path / "wheel").glob("*.whl"))


class Terminal:
    """A shell that is typed into, block by block; `said` is what came back."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.said = ""
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._blocks = 0

    def type(self, code: str) -> None:
        """Type the lines of a block; does not wait for them."""
        self._blocks += 1
        assert self._shell.stdin
        self._shell.stdin.write(f"set -e -o pipefail\n{code}\necho end of block {self._blocks}\n")
        self._shell.stdin.flush()

    def wait(self, seconds: float) -> None:
        """Wait until all lines of the block have succeeded."""
        end = f"end of block {self._blocks}\n"
        wait_until_sync(lambda: end in self.said or self._shell.poll() is not None, timeout=seconds)
        assert end in self.said, self.said[-4000:]

    def press_ctrl_c(self, command: str) -> None:
        """Interrupt what runs in the foreground, which is this command."""
        running = psutil.Process(self._shell.pid).children()
        (process,) = [each for each in running if command in " ".join(each.cmdline())]
        process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the shell and what it left running."""
        children = psutil.Process(self._shell.pid).children(recursive=True) if self._shell.poll() is None else []
        self._shell.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        with self._shell:  # closes both pipes
            self._reader.join(10)

    def _read(self) -> None:
        assert self._shell.stdout
        for line in self._shell.stdout:
            self.said += line


@pytest.fixture
def terminal(tmp_path: Path, wheel: Path) -> Iterator[Terminal]:
    """Return a shell in an empty directory, which knows nothing of this checkout or of the tests' environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 6390))  # the tutorial's port: nobody else's server may be there
    folder = tmp_path / "empty"
    folder.mkdir()
    kept = (
        "HOME",
        "LANG",
        "TMPDIR",
        "PIP_",
        "SSL_",
        "REQUESTS_",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    )
    environ = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(sys.prefix))
    python = tmp_path / "python"
    python.mkdir()
    (python / "python3").symlink_to(
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    environ |= {"PATH": f"{python}{os.pathsep}{path}", "PYTHONUNBUFFERED": "1"}
    environ |= {"PIP_FIND_LINKS": str(wheel.parent), "PIP_CONSTRAINT": str(CHECKOUT / "constraints.txt")}
    shell = Terminal(folder, environ)
    yield shell
    shell.close()
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((folder / "server.pid").read_text()), signal.SIGKILL)


def file_of(block: Block) -> str:
    """Return the name of the file into which the page wants a block of Python written."""
    before = PAGE.read_text(encoding="utf-8").splitlines()[: block.line - 2]
    found = FILE_NAME.search(next(line for line in reversed(before) if line.strip()))
    assert found, f"the block of line {block.line} is for no file"
    return found[1]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_newcomer_gets_from_nothing_to_a_processed_event(terminal: Terminal, tmp_path: Path) -> None:
    """Every file is written and every command typed, in order and word by word; the text in between is not needed."""
    for block in blocks(PAGE):
        if block.language == "python":
            (tmp_path / "empty" / file_of(block)).write_text(block.code, encoding="utf-8")
        elif block.language == "sh":
            assert block.exception is None
            terminal.type(block.code)
            if WORKER in block.code:
                wait_until_sync(lambda: WORKING in terminal.said, timeout=30)
                terminal.press_ctrl_c(WORKER)
            terminal.wait(120)
    said = terminal.said
    assert re.search(r"^Processing \S+/wheel/streams_queue-", said, re.MULTILINE)
    assert "['push', 'star']" in said
    assert "lost 0, redelivered" in said
    assert "lost 1, redelivered" in said
    assert "the exit code is 1" in said
    assert re.search(r"^processed +1$", said, re.MULTILINE)
    assert re.search(r"^waiting +0$", said, re.MULTILINE)
    assert "healthy" in said
