"""A producer of GitBridge's plan: pushes JSON to a list. A counter numbers what is pushed, in the list's order."""

from __future__ import annotations

import asyncio

import redis.asyncio

from tests.support.journal import arguments, say

# In one step, so that the numbers are the list's order whoever pushes.
PUSH = """
local n = redis.call('INCR', KEYS[2]) - 1
redis.call('LPUSH', KEYS[1], '{"event_type": "push", "repo": "octocat/Hello-World", "n": ' .. n .. '}')
"""


async def main(url: str, key: str, counter: str, count: int, pause: float) -> None:
    """Push one after the other, with a pause after each."""
    async with redis.asyncio.Redis.from_url(url) as client:
        push = client.register_script(PUSH)
        say("ready")
        for _ in range(count):
            await push(keys=[key, counter])
            await asyncio.sleep(pause)
    say("done")


asyncio.run(main(**arguments()))
