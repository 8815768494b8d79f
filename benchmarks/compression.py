"""What compressing payloads saves and costs: `python -m benchmarks.compression`; it is no scenario of the suite.

Sizes are exact. Times are CPU time of this process, per payload, through a queue time by the clock; the best of several
runs, since what others do on a shared machine only ever makes a run slower.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import redis
import zstandard

from streams_queue import RedisEventQueue
from streams_queue.codec import make_codec
from streams_queue.demo.github_events import GitHubEvents, gitbridge_event
from streams_queue.embedded import EmbeddedServer

_DISTINCT = 400
_STORED = 4000
_RUNS = 15
_LEVELS = (1, 3)
_BATCH = 100
_QUEUE_RUNS = 5


def payloads() -> dict[str, list[dict[str, Any]]]:
    """Return the payloads to measure with, by what they are."""
    source, hooks = random.Random(7), GitHubEvents(seed=7)
    return {
        "GitBridge event": [gitbridge_event(source) for _ in range(_DISTINCT)],
        "push, release": [hooks.make(("push", "release")[i % 2]).payload for i in range(_DISTINCT)],
        "pull_request": [hooks.make("pull_request").payload for _ in range(_DISTINCT)],
        "all kinds": [webhook.payload for webhook in hooks.take(_DISTINCT)],
    }


def micros(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Return the CPU time of `work` on one item, in microseconds."""
    best = float("inf")
    for _ in range(_RUNS):
        began = time.process_time()
        for item in items:
            work(item)
        best = min(best, time.process_time() - began)
    return best / len(items) * 1e6


def stored_bytes(client: redis.Redis, payloads: Sequence[bytes], meta: bytes) -> float:
    """Return what one waiting event takes in the server's memory."""
    client.delete("events")
    for number in range(_STORED):
        client.xadd("events", {"id": f"{number:032x}", "payload": payloads[number % len(payloads)], "meta": meta})
    return float(client.memory_usage("events", samples=0) or 0) / _STORED


async def through_a_queue(url: str, payloads: Sequence[Any], compression: dict[str, Any] | None) -> tuple[float, float]:
    """Return what enqueueing one event, and receiving and acknowledging it, takes by the clock, in microseconds."""
    config = {"redis_url": url, "max_size": 2 * _STORED, "timeout": 5, "compression": compression}
    async with RedisEventQueue({"queue": config}) as queue:
        began = time.perf_counter()
        for start in range(0, _STORED, _BATCH):
            await queue.enqueue_many([payloads[(start + i) % len(payloads)] for i in range(_BATCH)])
        enqueued, left = time.perf_counter(), _STORED
        while left:
            deliveries = await queue.receive(_BATCH, timeout=5)
            await queue.ack(*deliveries)
            left -= len(deliveries)
        return (enqueued - began) / _STORED * 1e6, (time.perf_counter() - enqueued) / _STORED * 1e6


def _print_queue(url: str, made: dict[str, list[dict[str, Any]]]) -> None:
    print(("\n{:<16}" + "{:>9}" * 3).format("queue", "", "enqueue", "receive"))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(_QUEUE_RUNS):
        for kind, payloads in made.items():
            for name, compression in (("plain", None), ("zstd", {"type": "zstd"})):
                times = asyncio.run(through_a_queue(url, payloads, compression))
                found.setdefault((kind, name), []).append(times)
    for (kind, name), runs in found.items():
        print(f"{kind:<16}{name:>9}" + "".join(f"{min(times):>9.0f}" for times in zip(*runs, strict=True)))


def main() -> None:
    """Print one line per kind of payload and level, and what that makes through a queue."""
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        print(f"zstandard {zstandard.__version__}, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}")
        columns = ("payload", "level", "bytes", "memory", "encode", "compress", "decode", "expand")
        print(("{:<16}" + "{:>9}" * 7).format(*columns))
        made_of_kind = payloads()
        for kind, made in made_of_kind.items():
            codec = make_codec(None, max_bytes=10 * 1024 * 1024)
            plain = [msgspec.json.encode(payload) for payload in made]
            _line(
                kind,
                "-",
                plain,
                stored_bytes(client, plain, b'{"v":1}'),
                micros(codec.encode, made),
                0.0,
                micros(codec.decode, plain),
                0.0,
            )
            for level in _LEVELS:
                compress = zstandard.ZstdCompressor(level=level).compress
                packed = [compress(data) for data in plain]
                expand = zstandard.ZstdDecompressor().decompress
                memory = stored_bytes(client, packed, b'{"v":2,"ce":"zstd"}')
                _line(kind, str(level), packed, memory, 0.0, micros(compress, plain), 0.0, micros(expand, packed))
        client.close()
        _print_queue(server.url, made_of_kind)


def _line(kind: str, level: str, sizes: Sequence[bytes], memory: float, *times: float) -> None:
    figures = (statistics.mean(map(len, sizes)), memory, *times)
    print(
        f"{kind:<16}{level:>9}"
        + "".join(f"{figure:>9.1f}" if figure < 100 else f"{figure:>9.0f}" for figure in figures)
    )


if __name__ == "__main__":
    main()
