"""The same machine on every queue: wherever the calls lead, each event is in exactly one place, and in its order."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams_queue import EventQueue, RedisEventQueue, ResilientQueue
from streams_queue.clock import ManualClock
from streams_queue.queue import Queue
from tests.conftest import StartServer
from tests.model.machine import SETTINGS, QueueMachine, Target
from tests.support.builders import Keys, memory_config, redis_config
from tests.support.clock_step import FakeredisClock, ServerClock, StepClock
from tests.support.stored import StoredQueue

OVERFLOWS = pytest.mark.parametrize("overflow", ["reject", "drop_oldest"])


def explore(make: Callable[[], Target], *, examples: int, steps: int = 25) -> None:
    """Run the machine on many random histories."""

    async def made() -> Target:
        return make()

    run_state_machine_as_test(
        lambda: QueueMachine(made),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


class InProcess(Target):
    """The asyncio queue by a clock of the test's own."""

    def __init__(self, overflow: str) -> None:
        self._clock = ManualClock()
        config = memory_config(**SETTINGS, overflow=overflow)
        super().__init__([EventQueue(config, clock=self._clock)], can_jump=True, drops_oldest=overflow != "reject")

    def jump(self, seconds: float) -> float:
        """Time goes by, for what is delayed too; a wall clock that is set back matters to nobody."""
        if seconds > 0:
            self._clock.advance(seconds)
            return seconds
        self._clock.step(seconds)
        return 0.0

    def let_time_pass(self) -> None:
        """A moment."""
        self._clock.advance(0.1)


class OnRedis(Target):
    """Two consumers of one queue, which begin anew when they were cleaned up."""

    def __init__(self, make: Callable[[], Queue], *, clock: StepClock | None = None, **options: Any) -> None:
        super().__init__([make(), make()], can_jump=clock is not None, **options)
        self._make = make
        self._clock = clock
        self._jumped = 0.0

    def restart(self, consumer: int) -> Queue:
        """Another queue with the same configuration."""
        return self._make()

    def jump(self, seconds: float) -> float:
        """The server's clock is all that delays go by."""
        assert self._clock is not None
        self._clock.step(seconds)
        self._jumped += seconds
        return seconds

    def heard(self, delivery_paused: bool) -> bool:
        """Look into the readers: no verb tells what a process has heard."""
        engines = [getattr(queue, "redis_queue", queue) for queue in self.queues]
        return all(engine._session.reader._paused == delivery_paused for engine in engines)

    def is_reading(self) -> bool:
        """Look into the readers: a read that outlives its caller may bring what goes to the end of the line later."""
        readers = [getattr(queue, "redis_queue", queue)._session.reader for queue in self.queues]
        return any(reader.is_reading or reader.buffered for reader in readers)

    def close(self) -> None:
        """Set the clock right again."""
        if self._clock is not None:
            self._clock.step(-self._jumped)


class OnServer(OnRedis):
    """The same on a real server, and a third consumer that only ever dies."""

    def __init__(
        self,
        url: str,
        *,
        kind: Any = RedisEventQueue,
        overflow: str = "reject",
        clock: StepClock | None = None,
        **config: Any,
    ) -> None:
        self._url, self._keys = url, Keys(f"m{uuid.uuid4().hex[:12]}")
        found = redis_config(url, **SETTINGS, **config, overflow=overflow, namespace=self._keys.namespace)
        super().__init__(lambda: kind(found), clock=clock, can_crash=True, drops_oldest=overflow != "reject")

    async def crash(self) -> str | None:
        """Read one entry as a consumer that is never heard of again."""
        raw = redis.asyncio.Redis.from_url(self._url)
        stored = StoredQueue(raw, self._keys)
        try:
            found: Any = await raw.xreadgroup("processors", "ghost", {self._keys.stream: ">"}, count=1)
            if not found:
                return None
            ((_, ((entry_id, fields),)),) = found
            await stored.age(entry_id.decode(), 3600)
            return str(fields[b"id"].decode())
        finally:
            await raw.aclose()


@OVERFLOWS
def test_the_asyncio_queue_agrees_with_the_model(overflow: str) -> None:
    """The in-process queue, with time going by."""
    explore(lambda: InProcess(overflow), examples=30)


@OVERFLOWS
def test_the_redis_queue_on_fakeredis_agrees_with_the_model(overflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two consumers on an emulated server whose clock is set."""
    clock = FakeredisClock(monkeypatch)

    def make() -> Target:
        server = fakeredis.FakeServer()
        config = redis_config("redis://localhost:6379/0", **SETTINGS, overflow=overflow)

        def queue() -> Queue:
            client = fakeredis.FakeAsyncRedis(server=server, retry=Retry(NoBackoff(), 0), socket_timeout=5)
            return RedisEventQueue(config, client=client)

        return OnRedis(queue, clock=clock, drops_oldest=overflow != "reject")

    explore(make, examples=4)


@pytest.mark.integration
@OVERFLOWS
def test_the_redis_queue_on_a_server_agrees_with_the_model(overflow: str, redis_url: str) -> None:
    """Two consumers on a real server, and others that die with an event in hand."""
    explore(lambda: OnServer(redis_url, overflow=overflow), examples=5)


@pytest.mark.integration
def test_the_redis_queue_agrees_with_the_model_while_clocks_are_set(start_server: StartServer, tmp_path: Path) -> None:
    """On a real server whose clock is set forwards and back, by seconds and by hours."""
    clock = ServerClock(tmp_path)
    server = start_server(clock=clock)
    explore(lambda: OnServer(server.url, clock=clock), examples=6)


@pytest.mark.integration
@pytest.mark.parametrize("spool", [False, True], ids=["in memory", "spool"])
def test_the_resilient_queue_agrees_with_the_model(spool: bool, redis_url: str, tmp_path: Path) -> None:
    """With its server at hand, it is the Redis queue; nothing of the fallback shows."""
    fallback = {"spool": str(tmp_path / "spool")} if spool else {}
    explore(lambda: OnServer(redis_url, kind=ResilientQueue, fallback=fallback), examples=3)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(900)
@OVERFLOWS
def test_the_redis_queue_agrees_with_the_model_over_long_histories(
    overflow: str, start_server: StartServer, tmp_path: Path
) -> None:
    """The same with many more and longer histories, and with clocks that are set."""
    clock = ServerClock(tmp_path)
    server = start_server(clock=clock)
    explore(lambda: OnServer(server.url, overflow=overflow, clock=clock), examples=40, steps=50)
