"""Whatever stands in a configuration: Settings come of it, or a ConfigError that names places and no secret."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams_queue import EventQueue, QueueFactory, RedisEventQueue, ResilientQueue, RolloutQueue
from streams_queue.config import FACTORY_REQUIRES, MEMORY_REQUIRES, REDIS_REQUIRES, Settings, load_config
from streams_queue.errors import ConfigError
from tests.fuzz.configs import SECRET, Configs
from tests.fuzz.test_raw_entries import the_seed


def attempt(make: Callable[[], Any]) -> Any:
    """Return what is made, or None if it is refused with a ConfigError that lists problems and tells no secret."""
    try:
        return make()
    except ConfigError as error:
        refusal = error
    assert refusal.problems
    assert all(isinstance(problem, str) and ":" in problem for problem in refusal.problems), refusal.problems
    assert_printable(str(refusal))
    for told in told_by(refusal):
        assert SECRET not in told, told
    return None


def told_by(error: BaseException) -> Iterator[str]:
    """Yield all that a log, a traceback or a debugger's first look would show of an error and of what led to it."""
    yield "".join(traceback.format_exception(error))
    chain: list[BaseException | None] = [error]
    while chain:
        found = chain.pop()
        if found is not None:
            yield f"{found} {found!r} {found.args!r} {getattr(found, '__notes__', '')!r}"
            chain += [found.__cause__, found.__context__]


def assert_printable(text: str) -> None:
    """What is printed or logged is one line that every terminal can show."""
    assert text.isprintable(), ascii(text)
    text.encode()


def renamed(settings: Settings) -> Settings:
    """Return the settings without what is for everybody to see: names."""
    telemetry, rollout = dataclasses.replace(settings.telemetry, service_name="n"), settings.rollout
    if rollout is not None:
        rollout = dataclasses.replace(rollout, old=renamed(rollout.old), new=renamed(rollout.new), key=("k",))
    return dataclasses.replace(
        settings,
        name="n",
        group="g",
        namespace="n",
        telemetry=telemetry,
        fallback=None,  # type: ignore[arg-type]
        rollout=rollout,
    )


def look_at(settings: Settings) -> None:
    """A configuration that was taken makes queues, or is refused by them in the same way; neither shows its secret."""
    assert SECRET not in repr(renamed(settings))
    for make in (RedisEventQueue, EventQueue, ResilientQueue, RolloutQueue, QueueFactory.create_queue):
        queue = attempt(lambda make=make: make(settings))  # type: ignore[misc]
        if queue is not None:
            assert SECRET not in repr(queue)
            assert SECRET not in str(queue)


def fuzz(seed: int, count: int, folder: Path) -> tuple[int, int]:
    """Load `count` configurations in three ways; return how many were taken and how many refused."""
    taken = 0
    for number in range(count):
        configs = Configs(seed + number)
        try:
            taken += load_one(configs, folder)
        except BaseException as error:
            error.add_note(f"STREAMS_QUEUE_FUZZ_SEED={seed + number} does it at once")
            raise
    return taken, count - taken


def load_one(configs: Configs, folder: Path) -> bool:
    """Load one configuration; tell whether it was taken."""
    environ, environment = configs.environ(), configs.environment()
    require = configs.random.choice((FACTORY_REQUIRES, MEMORY_REQUIRES, REDIS_REQUIRES))
    source: Any = None
    kind = configs.random.randrange(4)
    if kind < 2:
        source = configs.mapping()
    elif kind == 2:
        source = folder / "config.yaml"
        source.write_bytes(configs.text())
        if configs.random.random() < 0.3:
            environ["STREAMS_QUEUE_CONFIG"], source = str(source), None
    settings = attempt(lambda: load_config(source, environment=environment, environ=environ, require=require))
    if settings is None:
        return False
    assert isinstance(settings, Settings)
    look_at(settings)
    return True


@pytest.mark.timeout(60)
def test_fuzzed_configurations_are_taken_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never another exception, never a hang, never the secret, and both kinds do occur."""
    taken, refused = fuzz(the_seed(), 400, tmp_path)

    assert taken > 20
    assert refused > 100
    assert SECRET not in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_fuzzed_configurations_are_taken_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for a while."""
    fuzz(the_seed(), 10_000, tmp_path)

    assert SECRET not in caplog.text
