"""The webhooks that demo, tests and benchmarks use: as large, as deep and as mixed as GitHub's."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from streams_queue.demo.github_events import MEDIAN_BYTES, WEIGHTS, GitHubEvents, gitbridge_event
from streams_queue.demo.tasks import PROCESSORS, TaskChain, TaskState
from streams_queue.errors import Reject


def size(payload: dict[str, Any]) -> int:
    """Return the payload's size as compact JSON."""
    return len(msgspec.json.encode(payload))


def depth(value: Any) -> int:
    """Return how deep the containers of a JSON value are nested."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


@pytest.mark.parametrize("kind", MEDIAN_BYTES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_kind_has_the_size_that_github_publishes(kind: str, seed: int) -> None:
    """The median of each kind is within 15 % of the median of GitHub's own examples."""
    source = GitHubEvents(seed)
    median = statistics.median(size(source.make(kind).payload) for _ in range(200))
    assert median == pytest.approx(MEDIAN_BYTES[kind], rel=0.15)


@pytest.mark.parametrize("kind", MEDIAN_BYTES)
def test_each_payload_comes_back_from_json_as_it_went(kind: str) -> None:
    """Payloads hold nothing that JSON would change."""
    payload = GitHubEvents(5).make(kind).payload
    assert msgspec.json.decode(msgspec.json.encode(payload)) == payload


@pytest.mark.parametrize("kind", MEDIAN_BYTES)
def test_each_kind_has_the_fields_that_every_webhook_has(kind: str) -> None:
    """Repository and sender carry the links that GitHub documents for them."""
    payload = GitHubEvents(6).make(kind).payload
    assert sum(name.endswith("_url") for name in payload["repository"]) >= 35
    assert sum(name.endswith("_url") for name in payload["sender"]) >= 10
    assert payload["repository"]["full_name"] == f"octo-org/{payload['repository']['name']}"


def test_payloads_are_nested_as_deep_as_real_ones() -> None:
    """A pull request nests an owner in a repository in a branch in the pull request in the event."""
    assert depth(GitHubEvents(7).make("pull_request").payload) >= 5


def test_one_seed_gives_one_sequence() -> None:
    """The same seed makes the same webhooks; another seed makes others, with other ids."""
    first, again, other = (list(GitHubEvents(seed).take(50)) for seed in ("a/1", "a/1", "a/2"))
    assert first == again
    assert {webhook.delivery_id for webhook in first}.isdisjoint(webhook.delivery_id for webhook in other)


def test_kinds_are_mixed_by_their_weights() -> None:
    """Over many webhooks each kind has its share, and delivery ids never repeat."""
    webhooks = list(GitHubEvents(8).take(4_000))
    kinds = Counter(webhook.kind for webhook in webhooks)
    assert set(kinds) == set(WEIGHTS)
    assert sum(WEIGHTS.values()) == 100
    assert kinds["push"] / 4_000 == pytest.approx(WEIGHTS["push"] / 100, abs=0.03)
    assert len({webhook.delivery_id for webhook in webhooks}) == 4_000


def test_webhooks_are_made_faster_than_any_queue_takes_them() -> None:
    """Making an event costs so little processor time that a benchmark measures the queue and not its source."""
    source = GitHubEvents(9)
    began = time.process_time()
    for _ in source.take(2_000):
        pass
    assert time.process_time() - began < 0.5


def test_gitbridges_own_events_are_small() -> None:
    """The small form has GitBridge's seven fields and about 0.3 KB."""
    source = random.Random(10)
    made = [gitbridge_event(source) for _ in range(200)]
    assert {tuple(event) for event in made} == {
        ("event_type", "repo", "user", "message", "files", "timestamp", "retry_count")
    }
    assert statistics.median(map(size, made)) == pytest.approx(300, rel=0.2)


@pytest.mark.parametrize("kind", MEDIAN_BYTES)
async def test_there_is_a_processor_for_each_kind(kind: str) -> None:
    """Each kind of webhook becomes a task with a summary for the agent who caused it, and is handed over."""
    told: list[str] = []

    async def notify() -> None:
        told.append(kind)

    payload = GitHubEvents(11).make(kind).payload
    task = await TaskChain(notify).process("delivery-1", kind, payload)
    assert (task.task_id, task.agent, task.state) == ("delivery-1", payload["sender"]["login"], TaskState.ASSIGNED)
    assert task.summary.startswith(payload["repository"]["full_name"])
    assert told == [kind]
    assert kind in PROCESSORS


async def test_a_redelivered_event_makes_the_same_task_again() -> None:
    """Two tasks of one id are one task, in state CREATED until it is handed over."""

    async def notify() -> None:
        """Nobody is told."""

    chain = TaskChain(notify)
    task = await chain.create_task("delivery-1", "octocat")
    assert task.state is TaskState.CREATED
    assert await chain.create_task("delivery-1", "hubot") is task


async def test_an_unknown_kind_is_rejected() -> None:
    """An event that no processor knows can never be processed."""

    async def notify() -> None:
        """Nobody is told."""

    with pytest.raises(Reject, match="no processor for 'marketplace'"):
        await TaskChain(notify).process("delivery-1", "marketplace", {})
