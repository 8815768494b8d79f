"""`redis-cli` for pages of the documentation: sends its arguments to the test's server, which has to take them."""

from __future__ import annotations

import os
import sys

import redis

client = redis.Redis.from_url(os.environ["STREAMS_QUEUE_REDIS_URL"])
client.response_callbacks.clear()  # show the reply as it is
print(client.execute_command(*sys.argv[1:]))
