"""The one table of the server's errors: what each refusal means, and whether it passes."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator

from redis import exceptions as redis_errors

from streams_queue.errors import BackendError, BackendRejected, BackendUnavailable, StateError
from streams_queue.redis_client.tls import from_handshake

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
_NOT_LOGGED_IN = "Authentication required"
_TOO_MANY_CLIENTS = "max number of clients"
# What a script is denied, by the words of Redis from 7 and of Redis 6.2.
_DENIED_IN_SCRIPT = re.compile(r"ACL failure in script|[Tt]he user executing the script can't")
# Of WAIT, which has no code for it.
_ON_A_REPLICA = "cannot be used with replica instances"
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
    elif code == "WRONGPASS" and _NOT_LOGGED_IN in message:
        code = "NOAUTH"
    elif _ON_A_REPLICA in message:
        code = "READONLY"
    elif _DENIED_IN_SCRIPT.search(message):
        code = "NOPERM"
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


def not_connected(name: str, error: Exception, *, tls: bool) -> BackendError:
    """Tell why a connection could not be made: refused with a word, not trusted, or not reached."""
    if is_refusal(error):
        return said_by(name, error)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and (judged := from_handshake(name, cause)):
            return judged
    reason = next(filter(None, (_strerror(cause) for cause in causes if isinstance(cause, OSError))), "")
    return BackendUnavailable(f"cannot connect to {name}{' over TLS' if tls else ''}: {reason or type(error).__name__}")


def _strerror(error: OSError) -> str:
    """Return what the operating system says; asyncio puts an address in its place."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it, the outermost first; redis-py wraps what the operating system says."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def said_by(name: str, error: Exception) -> BackendError:
    """Turn an error reply into one of this package's errors that names who said it."""
    refusal = from_reply(error)
    if isinstance(refusal, BackendRejected):
        return BackendRejected(f"{name}: {refusal}", code=refusal.code, passing=refusal.passing)
    return refusal


def worth_retrying(error: BackendError) -> bool:
    """Whether the same command may succeed shortly: a lost connection, a failover, a server that is starting."""
    return error.retryable or (isinstance(error, BackendRejected) and error.code in _RETRIED)


def passes(error: BackendError) -> bool:
    """Whether it ends by itself, shortly or not: the connection is lost, or the server cannot do it now."""
    return error.retryable or (isinstance(error, BackendRejected) and error.passing)


def is_elsewhere(error: BackendError) -> bool:
    """Whether the server is not the one to talk to any more: the next call looks it up again."""
    return isinstance(error, BackendRejected) and error.code in _ELSEWHERE
