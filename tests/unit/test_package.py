from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streams_queue

PROMISED = {
    "DeadLetter",
    "Delivery",
    "EventQueue",
    "Observer",
    "Queue",
    "QueueFactory",
    "QueueStats",
    "Receipt",
    "RedisEventQueue",
    "Reject",
    "ResilientQueue",
    "RetryLater",
    "RolloutQueue",
    "Settings",
    "SyncQueue",
    "Worker",
    "check_redis_health",
    "load_config",
}
ERRORS = {
    "BackendError",
    "BackendRejected",
    "BackendTimeout",
    "BackendUnavailable",
    "ConfigError",
    "DecodeError",
    "EncodeError",
    "LeaseLost",
    "MessageError",
    "MessageTooLarge",
    "MissingExtraError",
    "NotDurable",
    "QueueClosed",
    "SpoolError",
    "StateError",
    "StreamsQueueError",
    "UsageError",
}


def modules_after(statement: str) -> set[str]:
    """Return the names of all modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_public_names_are_exactly_these() -> None:
    """Nothing is exported by accident, and nothing that was promised is missing."""
    assert set(streams_queue.__all__) == PROMISED | ERRORS | {"__version__"}
    assert list(streams_queue.__all__) == sorted(streams_queue.__all__)


@pytest.mark.parametrize("name", sorted(PROMISED | ERRORS))
def test_every_public_name_can_be_imported_and_is_called_what_it_says(name: str) -> None:
    """The lazy table points at things that exist."""
    assert getattr(streams_queue, name).__name__ == name
    assert name in dir(streams_queue)


def test_all_error_classes_are_public() -> None:
    """Whoever wants to catch an error finds it at the top."""
    from streams_queue import errors

    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == ERRORS | {"Reject", "RetryLater"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A slip reads as it does with every other module."""
    with pytest.raises(AttributeError, match="module 'streams_queue' has no attribute 'RedisQueue'"):
        streams_queue.RedisQueue  # noqa: B018 - the access is the test


def test_the_version_is_the_one_of_the_installed_package() -> None:
    """There is one place that says which version this is."""
    assert streams_queue.__version__ == importlib.metadata.version("streams-queue")


def test_a_bare_import_loads_nothing_heavy() -> None:
    """A command line, or a program that only might use the queue, starts quickly."""
    loaded = modules_after("import streams_queue")
    assert {name for name in loaded if name.startswith("streams_queue")} == {"streams_queue"}
    assert not loaded & {"asyncio", "msgspec", "opentelemetry", "redis", "tenacity", "yaml"}


@pytest.mark.parametrize("name", ["EventQueue", "Queue", "Worker", "load_config"])
def test_what_needs_no_server_does_not_load_redis(name: str) -> None:
    """The asyncio queue works where redis cannot even be imported."""
    assert not modules_after(f"from streams_queue import {name}") & {"redis", "opentelemetry"}


def test_the_package_is_typed_and_brings_its_scripts() -> None:
    """What is not Python is part of the package, too: the marker for type checkers and the Lua scripts."""
    package = Path(streams_queue.__file__).parent
    assert (package / "py.typed").is_file()
    assert list((package / "lua").glob("*.lua"))


def test_the_pages_assets_are_all_there() -> None:
    """What the page names is in the package, and nothing that it does not name; licences go with what others wrote."""
    assets = Path(streams_queue.__file__).parent / "dashboard" / "assets"
    pages = [page.read_text(encoding="utf-8") for page in assets.glob("*.html")]
    named = {name for page in pages for name in re.findall(r'"assets/([^"]+)"', page)}
    present = {file.name for file in assets.iterdir()}
    assert present == named | {"index.html", "login.html", "uPlot.LICENSE.txt"}
    assert not [page for page in pages if re.search(r"https?:|<style|style=|\son[a-z]+=|<script>", page)]
