"""The one table of the server's errors: what each refusal means, and whether it passes."""

from __future__ import annotations

import re

from redis import exceptions as redis_errors

from streams_queue.errors import BackendError, BackendRejected, StateError

# Codes of refusals that pass by themselves; those in _RETRIED are worth trying again at once, on a new connection.
_PASSING = frozenset(
    {
        "OOM",
        "MISCONF",
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "UNBLOCKED",
        "NOREPLICAS",
        "BUSY",
        "MAXCLIENTS",
    }
)
_RETRIED = _PASSING - {"OOM", "MISCONF", "NOREPLICAS"}
# redis-py takes the code off the message of those for which it has a class.
_CLASSES = {
    "NoScriptError": "NOSCRIPT",
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "WRONGPASS",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}
_TOO_MANY_CLIENTS = "max number of clients"
# What a server says that was demoted, or never was the primary.
_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})
_OURS = frozenset({"SCHEMA", "OTHERGROUP"})
_CODES = re.compile(
    r"\b(NOSCRIPT|NOGROUP|WRONGTYPE|NOPERM|NOAUTH|WRONGPASS|" + "|".join(sorted(_PASSING | _OURS)) + r")\b"
)


def from_reply(error: Exception) -> BackendError:
    """Turn an error reply into one of this package's errors.

    Before Redis 7 an error inside a script keeps its code in the middle of the message, so it is looked for everywhere.
    """
    message = str(error)
    found = _CODES.search(message)
    code = next((code for name, code in _CLASSES.items() if isinstance(error, getattr(redis_errors, name))), "")
    if _TOO_MANY_CLIENTS in message:
        code = "MAXCLIENTS"
    elif not code and found:
        code = found.group(1)
    if code in _OURS:
        return StateError(message.split(code, 1)[-1].strip())
    text = message if not code or code in message else f"{code} {message}"
    return BackendRejected(text, code=code, passing=code in _PASSING)


def is_refusal(error: Exception) -> bool:
    """Whether the server answered, with a no; redis-py makes connection errors of some such answers."""
    refusals = (redis_errors.ResponseError, redis_errors.AuthenticationError, redis_errors.BusyLoadingError)
    return isinstance(error, refusals) or _TOO_MANY_CLIENTS in str(error)


def worth_retrying(error: BackendError) -> bool:
    """Whether the same command may succeed shortly: a lost connection, a failover, a server that is starting."""
    return error.retryable or (isinstance(error, BackendRejected) and error.code in _RETRIED)


def is_elsewhere(error: BackendError) -> bool:
    """Whether the server is not the one to talk to any more: the next call looks it up again."""
    return isinstance(error, BackendRejected) and error.code in _ELSEWHERE
