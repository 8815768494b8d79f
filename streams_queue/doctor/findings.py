"""From what was seen to what is wrong, why it matters and how to mend it: pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from streams_queue.config import Settings
from streams_queue.doctor.seen import OnServer, Seen, Server, Unusable
from streams_queue.keys import QueueKeys

# The newest layout of keys that this release can share; see lua/open.lua.
_SCHEMA = 1
# The mean of GitHub's webhooks as compact JSON is 10.3 KB; taken where the queue holds no event to go by.
TYPICAL_EVENT_BYTES = 10_400
_NEARLY_FULL = 0.8
_CLOCK_TOLERANCE = 2.0
_GITHUB_PATIENCE = 10.0
# What a server denies is a command or a key, by the words of Redis from 7 and of Redis 6.2.
_ABOUT_KEYS = re.compile(r"permissions to access (a key|one of the keys)")


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Events are lost or stand still, now or at the next occasion."""
    WARNING = "warning"
    """It works, and not as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong.

    Attributes:
        check: Names the kind of finding, for scripts.
        level: How bad it is.
        what: What was found.
        why: Why that matters.
        remedy: How to mend it.
    """

    check: str
    level: Level
    what: str
    why: str
    remedy: str


def findings_about(seen: Seen | Unusable, settings: Settings) -> list[Finding]:
    """Return what is wrong, the worst first and otherwise in the order of the checks; nothing if all is well."""
    if isinstance(seen, Unusable):
        return [_unusable(seen)]
    about_server = (finding for check in _OF_SERVER for finding in check(seen.server, settings))
    about_queue = (finding for check in _OF_QUEUE for finding in check(seen.queue, settings))
    about_both = _memory(seen, settings)
    return sorted((*about_server, *about_both, *about_queue), key=lambda each: each.level is not Level.ERROR)


def _error(check: str, what: str, *, why: str, remedy: str) -> Finding:
    return Finding(check=check, level=Level.ERROR, what=what, why=why, remedy=remedy)


def _warning(check: str, what: str, *, why: str, remedy: str) -> Finding:
    return Finding(check=check, level=Level.WARNING, what=what, why=why, remedy=remedy)


# --- a server that cannot be asked ---


def _unusable(seen: Unusable) -> Finding:
    if seen.code in {"WRONGPASS", "NOAUTH"}:
        return _error(
            "login",
            f"{seen.address} refuses the login: {seen.error}",
            why="No event goes in or out.",
            remedy="Put the right user and password into redis_url: redis://USER:PASSWORD@HOST:PORT/0, special"
            " characters"
            " as %XX. `ACL GETUSER NAME` on the server says whether the user is `on`.",
        )
    if seen.code:
        return _error(
            "refused",
            f"{seen.address} refuses: {seen.error}",
            why="No event goes in or out until it stops refusing.",
            remedy="LOADING: wait until it has read its data. MAXCLIENTS: raise `maxclients`, or find who leaves"
            " connections"
            " open (`CLIENT LIST`). Otherwise go by the server's word above, and its log.",
        )
    return _error(
        "unreachable",
        f"{seen.address} cannot be reached: {seen.error}",
        why="No event goes in or out; a resilient queue holds new ones locally, up to fallback.max_size.",
        remedy="See that the server runs, listens on an address that this machine can reach (`bind`, `protected-mode`)"
        " and is"
        " let through by firewalls; that redis_url has its host and port, and rediss:// where it speaks TLS.",
    )


# --- the server ---


def _version(server: Server, settings: Settings) -> Iterator[Finding]:
    if server.lacks:
        yield _error(
            "version",
            f"{server.software} {server.version} is too old: it lacks {' and '.join(server.lacks)}",
            why="What crashed workers held cannot be found again, and looking at the queue fails.",
            remedy="Upgrade to Redis 6.2, Valkey 7.2, or newer.",
        )
    if server.mode != "standalone":
        yield _error(
            "mode",
            f"{server.address} runs as {server.mode}",
            why="A queue needs one primary; it speaks neither to a cluster nor to a sentinel as to a server.",
            remedy="For sentinels write redis+sentinel://HOST:PORT/SERVICE/0. A cluster is not supported yet.",
        )


def _role(server: Server, settings: Settings) -> Iterator[Finding]:
    if not server.is_primary:
        yield _error(
            "replica",
            f"{server.address} is a replica",
            why="It takes no writes: nothing goes in, and nothing can be handed out.",
            remedy="Let redis_url name the primary, or sentinels that know it (redis+sentinel://).",
        )
    if server.refusal:
        yield _error(
            "writes",
            f"{server.address} takes no writes now: {server.refusal}",
            why="New events are refused.",
            remedy="OOM: raise `maxmemory`, or drain the queue. MISCONF: the disk is full or failing; see the server's"
            " log."
            " NOREPLICAS: bring the replicas back, or lower `min-replicas-to-write`.",
        )


def _durability(server: Server, settings: Settings) -> Iterator[Finding]:
    wanted = 1 if settings.min_replicas is None and settings.durability == "replicated" else settings.min_replicas or 0
    if settings.durability != "accepted" and server.is_primary and server.replicas < wanted:
        yield _error(
            "durability",
            f"{server.replicas} replicas are connected; durability {settings.durability} waits for {wanted}",
            why="Every enqueue ends with NotDurable.",
            remedy="Connect replicas, or lower queue.min_replicas.",
        )
    if settings.durability == "fsynced" and "WAITAOF" not in server.knows:
        yield _error(
            "durability",
            f"durability is fsynced, and {server.software} {server.version} has no WAITAOF",
            why="Every enqueue is refused.",
            remedy="Upgrade to Redis or Valkey 7.2, or choose another queue.durability.",
        )


def _eviction(server: Server, settings: Settings) -> Iterator[Finding]:
    policy = (server.info or {}).get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        victims = "the stream itself" if policy.startswith("allkeys") else "what it knows of event ids and producers"
        yield _error(
            "eviction",
            f"maxmemory-policy is {policy}",
            why=f"Short of memory, the server deletes keys, of a queue {victims}: events are lost, or go in twice.",
            remedy="Set `maxmemory-policy noeviction` in the server's configuration, and now: CONFIG SET"
            " maxmemory-policy"
            " noeviction. Give a cache a server of its own.",
        )


def _persistence(server: Server, settings: Settings) -> Iterator[Finding]:
    info = server.info or {}
    if "aof_enabled" in info and info["aof_enabled"] == "0":
        yield _no_append_only_file(server)
    elif server.config.get("appendfsync") == "no":
        yield _warning(
            "fsync",
            "appendfsync is no",
            why="A machine that loses its power loses what the kernel had not written yet, up to half a minute of"
            " events.",
            remedy="Set `appendfsync everysec`.",
        )
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield _error(
            "disk",
            "the server could not write its data to the disk the last time that it tried",
            why="What came after is lost at its next restart, and it may refuse new events.",
            remedy="See the server's log, the space on the disk that holds `dir`, and whether its user may write"
            " there.",
        )


def _no_append_only_file(server: Server) -> Finding:
    remedy = "Set `appendonly yes` and `appendfsync everysec` in its configuration, and now: CONFIG SET appendonly yes."
    saves = server.config.get("save")
    if saves == "":
        why = "Neither an append-only file nor snapshots are kept: a restart of the server loses all events."
        return _error("persistence", "the server keeps nothing on disk", why=why, remedy=remedy)
    kept = "there are only snapshots" if saves else "whether snapshots are kept this user may not see"
    why = "A crash of the server loses what came after the last snapshot, all of it if there is none."
    return _warning("persistence", f"the append-only file is off; {kept}", why=why, remedy=remedy)


def _times(server: Server, settings: Settings) -> Iterator[Finding]:
    closes_after = int(server.config.get("timeout", "0"))
    if 0 < closes_after <= settings.lease:
        yield _warning(
            "idle-timeout",
            f"the server closes connections that are idle for {closes_after} s; the lease is {settings.lease:g} s",
            why="Connections break between two uses, which costs a new one each time, and looks like an outage.",
            remedy="Set `timeout 0`; dead peers are found by tcp-keepalive. Or set it above queue.lease.",
        )
    if server.round_trip > min(settings.lease, settings.enqueue_timeout) / 10:
        yield _warning(
            "round-trip",
            f"a round trip takes {server.round_trip * 1000:.0f} ms; the lease is {settings.lease:g} s, and enqueue"
            " tries for"
            f" {settings.enqueue_timeout:g} s",
            why="A few slow answers in a row, and leases run out while handlers run, or enqueue gives up.",
            remedy="Put the workers beside the server, see `SLOWLOG GET` for what keeps it busy, or raise queue.lease"
            " and"
            " queue.enqueue_timeout.",
        )
    if settings.enqueue_timeout >= _GITHUB_PATIENCE:
        yield _warning(
            "enqueue-timeout",
            f"queue.enqueue_timeout is {settings.enqueue_timeout:g} s",
            why="GitHub hangs up after 10 s and does not send the webhook again; the answer would come too late.",
            remedy="Set queue.enqueue_timeout below 10; 5 is the default.",
        )
    if abs(server.clock_ahead) > _CLOCK_TOLERANCE:
        side = "ahead of" if server.clock_ahead > 0 else "behind"
        yield _warning(
            "clock",
            f"the server's clock is {abs(server.clock_ahead):.1f} s {side} this machine's",
            why="Ages, due times and the time stamps of logs do not fit together, and event ids may be forgotten"
            " early.",
            remedy="Let NTP (chrony, systemd-timesyncd) keep both clocks.",
        )


# --- the server's memory, and what the queue may need of it ---


def _memory(seen: Seen, settings: Settings) -> Iterator[Finding]:
    info, queue = seen.server.info or {}, seen.queue
    if "maxmemory" not in info or "used_memory" not in info:
        return
    limit, used = int(info["maxmemory"]), int(info["used_memory"])
    each = queue.event_bytes or TYPICAL_EVENT_BYTES
    held = queue.waiting + queue.in_flight + queue.delayed
    to_come = max(0, settings.max_size - held) * each
    dead_to_come = max(0, settings.dead_letter.max_size - queue.dead) * each
    wanted = used + to_come + dead_to_come
    by = "as those it holds" if queue.event_bytes else "as GitHub's webhooks are on average"
    basis = f"max_size {settings.max_size} and {settings.dead_letter.max_size} dead letters of {each} bytes, {by}"
    remedy = f"Set `maxmemory` to {_megabytes(wanted * 1.25)} or more, or lower max_size or dead_letter.max_size."
    if limit == 0:
        yield _warning(
            "memory-limit",
            f"maxmemory is not set; a full queue needs {_megabytes(wanted)} ({basis})",
            why="Short of memory, the system kills the server instead of having it refuse new events.",
            remedy=remedy,
        )
    elif used + to_come > limit:
        yield _error(
            "memory",
            f"maxmemory is {_megabytes(limit)}; a full queue needs {_megabytes(wanted)} ({basis})",
            why="The server refuses new events long before max_size is reached.",
            remedy=remedy,
        )
    elif wanted > limit:
        yield _warning(
            "memory",
            f"maxmemory is {_megabytes(limit)}; a full queue with all its dead letters needs {_megabytes(wanted)}"
            f" ({basis})",
            why="Once many dead letters are kept, the server refuses new events before max_size is reached.",
            remedy=remedy,
        )


def _megabytes(size: float) -> str:
    return f"{size / 2**20:.0f}mb"


# --- the queue ---


def _permissions(queue: OnServer, settings: Settings) -> Iterator[Finding]:
    if not queue.denied:
        return
    names = ", ".join(name.replace("|", " ").upper() for name in queue.denied)
    about_keys = all(_ABOUT_KEYS.search(word) for word in queue.denied.values())
    prefix = f"~{settings.namespace}:{{*}}*"
    yield _error(
        "permissions",
        f"this user may not give {names}"
        + (f" on keys like {QueueKeys(settings.namespace, settings.name).stream}" * about_keys),
        why="A queue needs them; what it cannot do fails with NOPERM when it is needed.",
        remedy=f"Allow {'the keys: ACL SETUSER NAME ' + prefix if about_keys else _rule(queue)};"
        " config/redis/users.acl has the"
        " whole rule.",
    )


def _rule(queue: OnServer) -> str:
    return "them: ACL SETUSER NAME " + " ".join(f"+{name}" for name in queue.denied)


def _keys(queue: OnServer, settings: Settings) -> Iterator[Finding]:
    keys = QueueKeys(settings.namespace, settings.name)
    for key, wanted in ((keys.stream, "stream"), (keys.delayed, "zset"), (keys.dead, "stream"), (keys.stats, "hash")):
        found = queue.types.get(key, "none")
        if found not in {"none", wanted}:
            yield _error(
                "key-type",
                f"the key {key} holds a {found}, where the queue has a {wanted}",
                why="The queue refuses to start: somebody else uses its key.",
                remedy=f"If nobody needs it, keep it under another name: RENAME '{key}' '{key}-before'. Or choose"
                " another"
                " queue.namespace or queue.name.",
            )
    if queue.schema and not (queue.schema.isdecimal() and int(queue.schema) <= _SCHEMA):
        yield _error(
            "schema",
            f"the queue has schema {queue.schema}; this release knows up to {_SCHEMA}",
            why="A newer release has written it; this one refuses to start.",
            remedy="Upgrade streams-queue here, too.",
        )


def _group(queue: OnServer, settings: Settings) -> Iterator[Finding]:
    others = [name for name in queue.groups if name != settings.group]
    if others:
        yield _error(
            "other-group",
            f"the stream has another group: {', '.join(others)}",
            why="Each group acknowledges by deleting: two would take events from each other. The queue refuses to"
            " start.",
            remedy="If nobody needs it: XGROUP DESTROY "
            f"'{QueueKeys(settings.namespace, settings.name).stream}' {others[0]}. Or set queue.group to it.",
        )
    elif queue.schema and settings.group not in queue.groups and queue.waiting:
        yield _warning(
            "group",
            f"the group {settings.group} is gone, and {queue.waiting} events are there",
            why="Somebody has deleted it; what was in flight runs again, once a worker has made it anew.",
            remedy="Start a worker; it makes the group at the beginning of the stream, so that nothing is passed over.",
        )


def _flow(queue: OnServer, settings: Settings) -> Iterator[Finding]:
    if queue.expired:
        many = f"{queue.expired} events" if queue.expired < 1000 else "1000 events or more"
        yield _warning(
            "stuck",
            f"{many} in flight have not been renewed for over {2 * settings.lease:g} s",
            why="Their workers are dead, and none that lives has taken them over.",
            remedy="Start a worker; it takes them over within a second. If some run, they have no free slot: see"
            " whether their"
            " handlers hang (queue.handler_timeout), or start more of them.",
        )
    if queue.paused:
        yield _warning(
            "paused",
            f"the queue is paused: {queue.paused}",
            why="Until it is resumed, that stands still, in all processes.",
            remedy="`await queue.resume()`, from any process.",
        )
    nobody = not any(consumer.idle <= max(settings.lease, 10.0) for consumer in queue.consumers)
    if queue.oldest_waiting is not None and queue.oldest_waiting > settings.lease and nobody and not queue.paused:
        yield _warning(
            "no-consumer",
            f"{queue.waiting} events wait, the oldest for {queue.oldest_waiting:.0f} s, and no consumer has been heard"
            " of",
            why="Nobody works on them.",
            remedy="Start a worker: streams-queue worker MODULE:HANDLER, with this configuration.",
        )


def _room(queue: OnServer, settings: Settings) -> Iterator[Finding]:
    held, dead, limits = queue.waiting + queue.in_flight + queue.delayed, queue.dead, settings.dead_letter
    if settings.max_size and held >= settings.max_size * _NEARLY_FULL:
        full = held >= settings.max_size
        outcome = {
            "reject": "refused",
            "block": "refused after a wait",
            "drop_oldest": "put in the place of the oldest",
        }
        yield (_error if full else _warning)(
            "full",
            f"the queue holds {held} of {settings.max_size} events",
            why=f"{'New' if full else 'Soon new'} events are {outcome[settings.overflow]}.",
            remedy="Start more workers, or raise queue.max_size and the server's maxmemory with it.",
        )
    if limits.max_size and dead >= limits.max_size * _NEARLY_FULL:
        full = dead >= limits.max_size and limits.when_full == "refuse"
        yield (_error if full else _warning)(
            "dead-letters",
            f"there are {dead} dead letters, and room for {limits.max_size}",
            why="Without room, events that cannot be processed are tried again and again."
            if limits.when_full == "refuse"
            else "Without room, the oldest dead letters are deleted.",
            remedy="Look at them (streams-queue dead list), then `dead redrive` or `dead purge`.",
        )


def _old_lists(queue: OnServer, settings: Settings) -> Iterator[Finding]:
    for key, length in queue.old_lists.items():
        yield _warning(
            "old-list",
            f"the list {key} of GitBridge's plan holds {length} events",
            why="This queue does not read it: nobody will process them.",
            remedy="Move them: streams-queue migrate --dry-run says what that would do; with --follow it is a bridge"
            " for producers that still write there.",
        )


_OF_SERVER: tuple[Callable[[Server, Settings], Iterator[Finding]], ...] = (
    _version,
    _role,
    _durability,
    _eviction,
    _persistence,
    _times,
)
_OF_QUEUE: tuple[Callable[[OnServer, Settings], Iterator[Finding]], ...] = (
    _permissions,
    _keys,
    _group,
    _flow,
    _room,
    _old_lists,
)
