"""Which of two queues a new event goes to: the same answer everywhere, and only as many keys move as asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.config import load_config
from streams_queue.rollout_queue.routing import Route, key_of, position
from tests.support.builders import queue_config

PATHS = ("repository.full_name", "repo", "payload.repository.full_name")


def route(percentage: float) -> Route:
    """Return a route with the default paths."""
    return Route(percentage, PATHS)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("octocat/Hello-World", 61.44), ("torvalds/linux", 80.94), ("", 89.32)],
)
def test_a_position_never_changes(key: str, expected: float) -> None:
    """Another one would send keys to the other queue in the middle of a rollout, or in another release."""
    assert round(position(key), 2) == expected


def test_a_position_is_the_same_in_another_process() -> None:
    """Python's own hash is not."""
    code = "from streams_queue.rollout_queue.routing import position; print(repr(position('octocat/Hello-World')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == position("octocat/Hello-World")


@given(st.text(), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_share_only_moves_keys_to_the_new_queue(key: str, one: float, other: float) -> None:
    """None goes back, whatever the two shares are."""
    low, high = sorted((one, other))
    went, goes = (route(share).goes_to_new({"repo": key}, None) for share in (low, high))
    assert not went or goes


@pytest.mark.parametrize(("percentage", "low", "high"), [(0, 0, 0), (1, 0.7, 1.3), (50, 48, 52), (100, 100, 100)])
def test_the_share_of_keys_is_what_was_asked_for(percentage: float, low: float, high: float) -> None:
    """Of 20,000 repositories."""
    went = sum(route(percentage).goes_to_new({"repo": f"octocat/repo-{number}"}, None) for number in range(20_000))
    assert low <= went / 200 <= high


@dataclass
class Payload:
    """A payload type of a caller's own."""

    repo: str | None


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        ({"repository": {"full_name": "octocat/a"}, "repo": "octocat/b"}, "octocat/a"),
        ({"repository": {"name": "a"}, "repo": "octocat/b"}, "octocat/b"),
        ({"repository": "octocat/a", "repo": 17}, "17"),
        ({"repository": None, "repo": ""}, None),
        ({"repo": True}, None),
        ({"repo": ["octocat/b"]}, None),
        ({}, None),
        ([], None),
        (Payload("octocat/c"), "octocat/c"),
        (Payload(None), None),
    ],
)
def test_the_first_path_that_leads_to_a_text_or_number_is_the_key(payload: Any, key: str | None) -> None:
    """GitHub's own events have repository.full_name, GitBridge's have repo."""
    assert key_of(payload, PATHS) == key


def test_a_webhook_in_the_form_of_the_example_receiver_goes_by_its_repository() -> None:
    """Its body is under `payload`. By their ids a repository's events would be in both queues, out of order."""
    shares = {"percentage": 50, "old": {"type": "asyncio"}, "new": {}}
    settings = load_config(queue_config(type="rollout", redis_url="redis://localhost", rollout=shares), environ={})
    assert settings.rollout is not None
    webhook = {"event_type": "push", "payload": {"repository": {"full_name": "octocat/Hello-World"}}}
    assert key_of(webhook, settings.rollout.key) == "octocat/Hello-World"


def test_an_event_without_a_key_goes_by_its_id_and_without_that_only_at_the_end() -> None:
    """So that each has one place, whichever process sends it."""
    by_id = [route(50).goes_to_new({}, f"delivery-{number}") for number in range(1000)]
    assert 400 < sum(by_id) < 600
    assert [route(share).goes_to_new({}, None) for share in (0, 50, 99.9, 100)] == [False, False, False, True]
