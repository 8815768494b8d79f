"""The proxy itself: a fault test proves nothing if the fault did not happen."""

from __future__ import annotations

import pytest
import redis

from tests.conftest import MakeClient
from tests.support.proxy import FlakyProxy, is_named, reply_with, request_with
from tests.support.resp import Frames, frame_end, request_args
from tests.support.stored import StoredQueue
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

MESSAGES = [
    b"+OK\r\n",
    b":42\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"%1\r\n+key\r\n*0\r\n",
    b"|1\r\n+ttl\r\n:1\r\n$1\r\nx\r\n",
    b">2\r\n+message\r\n_\r\n",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_end_where_they_end(message: bytes) -> None:
    """Every kind of message is recognised as whole with its last byte and not before."""
    assert frame_end(message) == len(message)
    assert [frame_end(message[:length]) for length in range(len(message))] == [None] * len(message)


def test_a_stream_is_cut_into_messages_however_it_arrives() -> None:
    """Byte by byte or at once makes no difference."""
    frames, stream = Frames(), b"".join(MESSAGES)
    assert Frames().feed(stream) == MESSAGES
    assert [frame for byte in stream for frame in frames.feed(bytes([byte]))] == MESSAGES
    assert request_args(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n") == [b"GET", b"x"]


async def test_a_swallowed_reply_was_applied(proxy: FlakyProxy, make_client: MakeClient, stored: StoredQueue) -> None:
    """The server did what was asked, only the client does not know."""
    client, key = make_client(proxy.url), stored.keys.stats
    trap = proxy.swallow_reply(request_with(key.encode()))
    with pytest.raises(redis.ConnectionError):
        await client.set(key, "1")

    assert trap.hit.is_set()
    assert await client.get(key) == b"1"
    assert proxy.counters["swallowed"] == 1


async def test_only_the_reply_asked_for_is_swallowed(
    proxy: FlakyProxy, make_client: MakeClient, stored: StoredQueue
) -> None:
    """A reply trap looks at what the reply holds, and leaves pipelined neighbours alone up to that point."""
    client, key = make_client(proxy.url), stored.keys.stats
    await client.set(key, "needle")
    trap = proxy.swallow_reply(reply_with(b"needle"))
    assert await client.exists(key) == 1
    with pytest.raises(redis.ConnectionError):
        await client.pipeline(transaction=False).exists(key).get(key).execute()

    assert trap.request == [b"GET", key.encode()]


async def test_a_held_request_arrives_when_it_is_delivered(
    proxy: FlakyProxy, make_client: MakeClient, stored: StoredQueue
) -> None:
    """Until then the server knows nothing of it; the client meanwhile works on another connection."""
    client, key = make_client(proxy.url), stored.keys.stats
    trap = proxy.hold_request(is_named("INCRBY"))
    with pytest.raises(redis.ConnectionError):
        await client.incr(key)
    assert await client.incr(key) == 1

    trap.deliver()

    async def twice() -> bool:
        return bool(await client.get(key) == b"2")

    await wait_until(twice)


async def test_a_black_hole_keeps_connections_open_and_says_nothing(
    proxy: FlakyProxy, make_client: MakeClient, stored: StoredQueue
) -> None:
    """With replies muted the server still hears; with everything muted it does not; new connections are as told."""
    client, key = make_client(proxy.url, socket_timeout=0.2), stored.keys.stats
    await client.ping()
    proxy.black_hole("replies", new=False)
    with pytest.raises(redis.TimeoutError):
        await client.incr(key)
    assert await client.get(key) == b"1"

    proxy.black_hole("both")
    with pytest.raises(redis.TimeoutError):
        await client.incr(key)
    proxy.restore()

    assert await client.get(key) == b"1"


async def test_refused_and_cut_connections_fail_at_once(proxy: FlakyProxy, make_client: MakeClient) -> None:
    """A cut ends what is open, a refusal what would be opened; both are over with `restore`."""
    client = make_client(proxy.url)
    await client.ping()
    proxy.refuse()
    proxy.cut()
    with pytest.raises(redis.ConnectionError):
        await client.ping()
    with pytest.raises(redis.ConnectionError):
        await client.ping()
    proxy.restore()

    assert await client.ping()
    assert proxy.counters["cut"] == 1
    assert proxy.counters["refused"] >= 1
