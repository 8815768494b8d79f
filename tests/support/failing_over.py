"""A primary that dies under load and a replica that takes its place; what was accepted, and what is there afterwards.

`python -m tests.support.failing_over` measures how many accepted events a failover loses.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.builders import Keys, redis_config
from tests.support.processes import Program
from tests.support.sentinels import SERVICE, SentinelServer
from tests.support.servers import RedisServer, chosen_flavour, require_binary
from tests.support.slow_line import SlowLine
from tests.support.stored import MARK
from tests.support.waiting import wait_until_sync


@dataclass
class Pair:
    """A primary, its replica behind a line, and two sentinels that name the primary and fail nothing over.

    One sentinel would know no primary at all while it is told of the new one.
    """

    primary: RedisServer
    replica: RedisServer
    line: SlowLine
    sentinels: tuple[SentinelServer, SentinelServer]

    @property
    def url(self) -> str:
        """Where a queue finds whichever of them is the primary."""
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}"

    def lose_primary(self) -> None:
        """Lose the machine: the process, and what was on its way to the replica."""
        os.kill(self.primary.pid, signal.SIGKILL)
        self.line.cut()
        self.primary.kill()

    def promote_replica(self) -> None:
        """Do by hand what sentinels would do after they have agreed."""
        self.replica.promote()
        for sentinel in self.sentinels:
            sentinel.watch(self.replica)


@contextmanager
def pair(delay: float) -> Iterator[Pair]:
    """Start two servers and their sentinels; what the primary sends reaches the replica `delay` seconds later."""
    binary = require_binary(chosen_flavour())
    with ExitStack() as ending:
        primary = RedisServer(binary)
        ending.callback(primary.stop)
        primary.start()
        line = SlowLine(primary.port, delay)
        line.start()
        ending.callback(line.stop)
        replica = RedisServer(binary, replicaof=primary, through=line)
        ending.callback(replica.stop)
        replica.start()
        sentinels = (SentinelServer(binary), SentinelServer(binary))
        for sentinel in sentinels:
            ending.callback(sentinel.stop)
            sentinel.configure(primary, [], [])
            sentinel.start()
        yield Pair(primary, replica, line, sentinels)


def numbers(program: Program, verb: str) -> set[int]:
    """Return the events of which a journal says this."""
    return {line[1] for line in list(program.journal) if line[0] == verb}


def stored_numbers(server: RedisServer, keys: Keys) -> set[int]:
    """Return the events in the stream of a server."""
    entries = server.command("XRANGE", keys.stream, "-", "+")
    return {int(found[1]) for _, fields in entries if (found := MARK.search(fields[b"payload"]))}


def accepted(program: Program, count: int) -> bool:
    """Tell whether a journal says of so many events that they were accepted."""
    return len(numbers(program, "accepted")) >= count


@dataclass(frozen=True)
class Loss:
    """One failover: events accepted by then, the rate at which they were, and those that are gone."""

    accepted: int
    per_second: float
    lost: int


def measure(delay: float, rate: float, tasks: int, seconds: float, **queue: Any) -> Loss:
    """Lose the primary once, with nobody consuming, so that each lost event counts."""
    keys = Keys(f"t{uuid.uuid4().hex[:12]}")
    with pair(delay) as servers:
        config = redis_config(servers.url, namespace=keys.namespace, max_size=10_000_000, **queue)
        producer = Program("keep_enqueueing", config=config, tasks=tasks, rate=rate)
        try:
            wait_until_sync(lambda: accepted(producer, 100))
            before, began = len(numbers(producer, "accepted")), time.monotonic()
            time.sleep(seconds)
            took = time.monotonic() - began
            servers.lose_primary()
            time.sleep(0.3)  # what the producer was told before the end is in its journal by then
            told = numbers(producer, "accepted")
            servers.promote_replica()
            gone = told - stored_numbers(servers.replica, keys)
        finally:
            producer.kill()
    return Loss(len(told), (len(told) - before) / took, len(gone))


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description="Measure how many accepted events a failover loses.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--durability", default="accepted")
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.005, 0.05])
    parser.add_argument("--rates", type=float, nargs="+", default=[1000.0, 0.0])
    given = parser.parse_args()
    print(f"{given.durability} on {chosen_flavour()}, {given.rounds} failovers each")
    for delay in given.delays:
        for rate in given.rates:
            losses = [measure(delay, rate, 32, 1.0, durability=given.durability) for _ in range(given.rounds)]
            lost = sorted(loss.lost for loss in losses)
            pace = statistics.median(loss.per_second for loss in losses)
            print(
                f"line {delay * 1000:g} ms, {pace:,.0f} events/s: lost median {statistics.median(lost):g}, "
                f"max {lost[-1]}, failovers without loss {lost.count(0)} of {len(lost)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
