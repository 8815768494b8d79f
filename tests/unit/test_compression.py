"""Compression: what went in comes out, nothing larger than allowed is ever made, and what is missing is named."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from streams_queue import QueueFactory, compression
from streams_queue.compression import CannotExpandError, check_compression, compress, expand
from streams_queue.config import CompressionSettings
from streams_queue.errors import ConfigError, DecodeError, MessageTooLarge
from tests.support.builders import memory_config, redis_config

EVERYTHING = CompressionSettings(min_bytes=0)
REPEATING = b'{"url":"https://api.github.com/repos/octocat/Hello-World"}' * 100
# Most bytes at random do not get smaller; a few of them over and over do.
data = st.binary(max_size=200) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=20), st.integers(1, 500))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Python without the extra."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    compression._library.cache_clear()
    yield
    compression._library.cache_clear()


@given(data, st.integers(1, 19))
def test_what_is_compressed_comes_back(payload: bytes, level: int) -> None:
    """At every level; and it is smaller, or was not compressed."""
    packed = compress(payload, CompressionSettings(min_bytes=0, level=level))
    assert packed is None or len(packed) < len(payload)
    assert packed is None or expand(packed, "zstd", max_bytes=len(payload)) == payload


@pytest.mark.parametrize(("size", "compressed"), [(99, False), (100, True), (101, True)])
def test_payloads_from_the_threshold_on_are_compressed(size: int, compressed: bool) -> None:
    """Its very size counts."""
    assert (compress(b"x" * size, CompressionSettings(min_bytes=100)) is not None) == compressed


def test_a_bomb_is_not_unpacked() -> None:
    """A few kilobytes that stand for 64 MiB are refused by their size, which is told; nothing is allocated for them."""
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge, match="67108864 bytes; max_event_bytes is 1000000"):
            expand(bomb, "zstd", max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert len(expand(bomb, "zstd", max_bytes=64 * 1024 * 1024)) == 64 * 1024 * 1024


@pytest.mark.parametrize("claimed", [1, 5_799, 5_801, 60_000])
def test_a_bomb_that_lies_about_its_size_is_broken(claimed: int) -> None:
    """No more is made than it has said, and what does not add up is refused."""
    assert len(REPEATING) == 5_800
    honest = zstandard.ZstdCompressor(level=1).compress(REPEATING)
    # Magic, a descriptor that says "two bytes of size, one segment", the size less 256.
    assert honest[4] >> 5 == 0b011
    assert int.from_bytes(honest[5:7], "little") + 256 == 5_800
    lie = honest[:5] + max(0, claimed - 256).to_bytes(2, "little") + honest[7:]
    with pytest.raises(DecodeError):
        expand(lie, "zstd", max_bytes=1_000_000)


def test_a_frame_that_keeps_its_size_to_itself_is_refused() -> None:
    """Else as much as is allowed would have to be allocated for it, and a window besides."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(REPEATING)
    with pytest.raises(DecodeError, match="must say how large"):
        expand(frame, "zstd", max_bytes=1_000_000)


@pytest.mark.parametrize("frame", [b"", b"{}", REPEATING, b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd"])
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    """Nothing, plain JSON under a wrong label, a frame that ends after its first word, one that is to be skipped."""
    with pytest.raises(DecodeError, match=r"^the compressed payload is broken$"):
        expand(frame, "zstd", max_bytes=1_000_000)


@given(cut=st.integers(0, 10_000), extra=st.binary(max_size=3))
def test_a_frame_that_is_cut_off_or_goes_on_is_refused(cut: int, extra: bytes) -> None:
    """Half a payload is none, and neither is one with something behind it."""
    frame = zstandard.ZstdCompressor().compress(REPEATING)
    changed = frame[: cut % len(frame)] if not extra else frame + extra
    with pytest.raises(DecodeError):
        expand(changed, "zstd", max_bytes=1_000_000)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_change_of_a_byte_is_survived(place: int, value: int) -> None:
    """It may come out as something else, never as more than is allowed."""
    frame = bytearray(zstandard.ZstdCompressor().compress(REPEATING))
    frame[place % len(frame)] = value
    try:
        assert len(expand(bytes(frame), "zstd", max_bytes=6_000)) <= 6_000
    except (DecodeError, MessageTooLarge):
        pass


def test_threads_do_not_share_what_must_not_be_shared() -> None:
    """A compressor used by two threads at once may crash the process, or mix up their payloads."""
    start = threading.Barrier(4)

    def work(mark: int) -> list[int]:
        start.wait(10)
        payload = bytes([mark]) + REPEATING
        for _ in range(50):
            packed = compress(payload, EVERYTHING)
            assert packed is not None
            assert expand(packed, "zstd", max_bytes=10_000) == payload
        start.wait(10)
        return [id(tool) for tool in compression._tools.made.values()]

    with ThreadPoolExecutor(4) as threads:
        tools = list(threads.map(work, range(4)))
    assert [len(each) for each in tools] == [2] * 4
    assert len({tool for each in tools for tool in each}) == 8


def test_an_encoding_that_nobody_here_knows_is_left_to_others() -> None:
    """It is no fault of the entry."""
    with pytest.raises(CannotExpandError, match="knows its content encoding"):
        expand(REPEATING, "br", max_bytes=1_000_000)


def test_without_the_library_nothing_is_expanded(no_library: None) -> None:
    """The reason says what to install."""
    frame = b"\x28\xb5\x2f\xfd\x04\0"
    with pytest.raises(CannotExpandError, match=r"pip install 'streams-queue\[compression\]'"):
        expand(frame, "zstd", max_bytes=1_000_000)


def test_compression_without_its_library_is_an_error_of_the_configuration(no_library: None) -> None:
    """Told when the queue is made, with the extra to install, and not at the first large event."""
    with pytest.raises(ConfigError, match=r"^queue\.compression: .* pip install 'streams-queue\[compression\]'$"):
        QueueFactory.create_queue(redis_config("redis://localhost:1", compression={"type": "zstd"}))


@pytest.mark.parametrize("compression", [None, {"type": "none"}, {"type": "none", "min_bytes": 1}])
def test_without_compression_no_library_is_needed(no_library: None, compression: object) -> None:
    """Nor where nothing goes to a server."""
    QueueFactory.create_queue(redis_config("redis://localhost:1", compression=compression))
    QueueFactory.create_queue(memory_config(compression={"type": "zstd"}))


def test_none_is_no_compression() -> None:
    """The section may be there and switched off, by an environment variable for instance."""
    assert check_compression(CompressionSettings(type="none")) is None
    assert check_compression(None) is None
    assert check_compression(EVERYTHING) == EVERYTHING
