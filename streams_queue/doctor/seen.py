"""What the doctor saw; None stands for what it could not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A server that nothing could be asked.

    Attributes:
        address: Where it was looked for.
        code: The server's own word for its refusal; empty if it said nothing.
        error: What went wrong, in a line without secrets.
    """

    address: str
    code: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A member of the group: how many events are pending for it, and how long it has been silent, in seconds."""

    name: str
    pending: int
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What is the same for all queues on a server.

    Attributes:
        address: Where it answered.
        software: `redis` or `valkey`.
        version: As it says.
        mode: `standalone`, `cluster` or `sentinel`.
        is_primary: Whether it takes writes by its role.
        replicas: How many are connected.
        round_trip: Seconds that a PING took, the median of some.
        clock_ahead: Seconds by which its clock is ahead of this machine's, as far as the round trip lets that be known.
        lacks: Behaviours that a queue needs and that it does not have.
        knows: Newer commands that it has.
        refusal: Why it takes no writes now; empty if it does.
        info: What INFO says, None if this user may not see that.
        config: Settings, of those that CONFIG GET showed.
    """

    address: str
    software: str = "redis"
    version: str = "?"
    mode: str = "standalone"
    is_primary: bool = True
    replicas: int = 0
    round_trip: float = 0.0
    clock_ahead: float = 0.0
    lacks: tuple[str, ...] = ()
    knows: tuple[str, ...] = ()
    refusal: str = ""
    info: Mapping[str, str] | None = None
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnServer:
    """What is on the server of one queue.

    Attributes:
        types: Of its four lasting keys and of the plan's two: the type by name, `none` for a missing one; a key that
            may not be looked at is left out.
        waiting: Not handed out.
        in_flight: Handed out and not settled.
        delayed: Not due yet.
        dead: Dead letters.
        schema: Of the layout; empty before the first use.
        paused: What an operator has paused.
        groups: The names of the stream's groups.
        consumers: The members of ours.
        expired: In flight, and not renewed for much longer than a lease.
        oldest_waiting: How long the oldest waiting event has waited, in seconds.
        event_bytes: What an event takes, by a sample; None if there is none to look at.
        denied: Commands that a queue needs and this user may not give, with the server's word for it.
        old_lists: How many events are in the lists of GitBridge's plan, by key.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    waiting: int = 0
    in_flight: int = 0
    delayed: int = 0
    dead: int = 0
    schema: str = ""
    paused: str = ""
    groups: tuple[str, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    expired: int = 0
    oldest_waiting: float | None = None
    event_bytes: int | None = None
    denied: Mapping[str, str] = field(default_factory=dict)
    old_lists: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A server that answered, and the queue on it.

    Attributes:
        hidden: What this user may not see, in words.
    """

    server: Server
    queue: OnServer
    hidden: tuple[str, ...] = ()
