"""Which commands a user may give, found out by giving them where they change nothing.

Servers check permissions before they look at what a command is about. So each command is given in a form that cannot
succeed, or has nothing to do: about a key that does not exist, or with an argument that the server refuses.
"""

from __future__ import annotations

import secrets

from streams_queue.errors import BackendError, BackendRejected
from streams_queue.keys import QueueKeys
from streams_queue.redis_client import Command, Link, from_reply, script

NO_SCRIPT = "("
"""Source that does not compile, so that the server keeps nothing."""


def attempts(keys: QueueKeys) -> dict[str, Command]:
    """Return a harmless form of each command that a queue gives, by its name in an ACL rule.

    `sadd` and `hsetnx` have none; see lua/permitted.lua.
    """
    # Within the queue's prefix, and no key that is there.
    key = f"{keys.stream}:doctor:{secrets.token_hex(8)}"
    return {
        "ping": ("PING",),
        "client|id": ("CLIENT", "ID"),
        "client|unblock": ("CLIENT", "UNBLOCK", 0),
        "role": ("ROLE",),
        "wait": ("WAIT", 0, 1),
        "eval": ("EVAL", NO_SCRIPT, 0),
        "evalsha": ("EVALSHA", "0" * 40, 0),
        "type": ("TYPE", key),
        "time": ("TIME",),
        "exists": ("EXISTS", key),
        "del": ("DEL", key),
        "get": ("GET", key),
        "set": ("SET", key, "", "XX"),
        "pexpire": ("PEXPIRE", key, 1),
        "hget": ("HGET", key, "f"),
        "hmget": ("HMGET", key, "f"),
        "hgetall": ("HGETALL", key),
        "hexists": ("HEXISTS", key, "f"),
        "hset": ("HSET", key, "f", "v", "f without a value"),
        "hdel": ("HDEL", key, "f"),
        "hincrby": ("HINCRBY", key, "f", "no number"),
        "sismember": ("SISMEMBER", key, "m"),
        "srem": ("SREM", key, "m"),
        "xadd": ("XADD", key, "no id", "f", "v"),
        "xreadgroup": ("XREADGROUP", "GROUP", "doctor", "doctor", "STREAMS", key, ">"),
        "xrange": ("XRANGE", key, "-", "+", "COUNT", 1),
        "xlen": ("XLEN", key),
        "xpending": ("XPENDING", key, "doctor"),
        "xclaim": ("XCLAIM", key, "doctor", "doctor", 0, "1-1"),
        "xack": ("XACK", key, "doctor", "1-1"),
        "xdel": ("XDEL", key, "1-1"),
        "xtrim": ("XTRIM", key, "MAXLEN", 0),
        "xgroup|create": ("XGROUP", "CREATE", key, "doctor", "0"),
        "xgroup|delconsumer": ("XGROUP", "DELCONSUMER", key, "doctor", "doctor"),
        "xinfo|groups": ("XINFO", "GROUPS", key),
        "xinfo|consumers": ("XINFO", "CONSUMERS", key, "doctor"),
        "zadd": ("ZADD", key, "XX", 1, "m"),
        "zcard": ("ZCARD", key),
        "zrange": ("ZRANGE", key, 0, 0),
        "zrangebyscore": ("ZRANGEBYSCORE", key, 0, 0),
        "zrem": ("ZREM", key, "m"),
    }


async def try_all(link: Link, keys: QueueKeys, *, fsynced: bool, timeout: float) -> tuple[dict[str, str], str]:
    """Return the commands that are denied, with what the server says, and why it takes no writes now, if it does not.

    Args:
        link: On which to ask; the server must be a primary.
        keys: Of the queue.
        fsynced: Whether the queue waits for the disk, which needs one command more.
        timeout: Seconds for each of the two round trips.

    Raises:
        BackendUnavailable, BackendTimeout: It does not answer.
    """
    commands = attempts(keys) | ({"waitaof": ("WAITAOF", 0, 0, 1)} if fsynced else {})
    replies = dict(zip(commands, await link.call(*commands.values(), timeout=timeout), strict=True))
    denied = {name: str(reply) for name, reply in replies.items() if is_denied(reply)}
    if "eval" not in denied:
        denied |= await _try_in_script(link, keys, timeout=timeout)
    written = replies["set"]
    refusal = str(written) if isinstance(written, BackendError) and "set" not in denied else ""
    return denied, refusal


async def _try_in_script(link: Link, keys: QueueKeys, *, timeout: float) -> dict[str, str]:
    try:
        replies = await link.run(script("permitted"), (keys.stats,), timeout=timeout)
    except BackendRejected:
        # A key of the wrong type, or one of the commands that were tried before: that is told anyway.
        return {}
    words = dict(zip(("hsetnx", "sadd"), (reply.decode("utf-8", "replace") for reply in replies), strict=False))
    return {name: word for name, word in words.items() if is_denied(from_reply(Exception(word)))}


def is_denied(reply: object) -> bool:
    """Whether a reply says that this user may not."""
    return isinstance(reply, BackendRejected) and reply.code == "NOPERM"
