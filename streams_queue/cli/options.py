"""Which queue a command is about: the options that commands share, and what is made of them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams_queue.config import FACTORY_REQUIRES, Settings, TelemetrySettings, load_config
from streams_queue.errors import UsageError
from streams_queue.factory import QueueFactory
from streams_queue.queue import Queue

if TYPE_CHECKING:
    from streams_queue.redis_queue import RedisEventQueue

_SIDES = ("old", "new")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration file (webhook_config.yaml).")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The server; overrides the configuration's redis_url.")
]
EnvironmentOption = Annotated[
    str | None, typer.Option("--environment", metavar="NAME", help="Apply environments.NAME of the configuration.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
LogLevelOption = Annotated[str, typer.Option(help="debug, info, warning or error.")]
SideOption = Annotated[
    str | None, typer.Option("--side", metavar="old|new", help="Which queue of a rollout, if both are on servers.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def load_settings(config: Path | None, url: str | None, environment: str | None) -> Settings:
    """
    Load the configuration that the shared options ask for; with none of them, the environment's.

    Raises:
        ConfigError: It cannot be used.
    """
    environ = dict(os.environ)
    if config is not None:
        environ["STREAMS_QUEUE_CONFIG"] = str(config)
    if url is not None:
        environ["STREAMS_QUEUE_REDIS_URL"] = url
    return load_config(None, environment=environment, environ=environ, require=FACTORY_REQUIRES)


def open_queue(config: Path | None, url: str | None, environment: str | None) -> Queue:
    """
    Open the queue on the server, or both of a rollout, whatever else the configuration wraps around it.

    An asyncio queue, and the local fallback of a resilient one, live and die with their process: there is nothing in
    them for a command to see, and what it put there would be lost. A command has nothing to tell a collector, and does
    not wait for one.
    """
    settings = load_settings(config, url, environment)
    shared = _on_servers(settings)
    if settings.rollout is not None and len(shared) == len(_SIDES):
        both = dataclasses.replace(settings.rollout, old=_as_redis(shared["old"]), new=_as_redis(shared["new"]))
        return QueueFactory.create_queue(dataclasses.replace(settings, rollout=both, telemetry=_silent(settings)))
    return QueueFactory.create_queue(_as_redis(_only(shared)))


def queue_on_server(settings: Settings) -> Queue:
    """Open the queue that lives on the server, as `open_queue` does."""
    return QueueFactory.create_queue(_as_redis(settings))


def open_each(config: Path | None, url: str | None, environment: str | None) -> list[RedisEventQueue]:
    """Open the queue on the server, or each of a rollout on a server by itself."""
    from streams_queue.redis_queue import RedisEventQueue

    return [RedisEventQueue(_as_redis(each)) for each in _on_servers(load_settings(config, url, environment)).values()]


def load_one(config: Path | None, url: str | None, environment: str | None, side: str | None) -> Settings:
    """
    Load the settings of one queue on a server; of a rollout's two the one that is named, if both are on servers.

    Raises:
        ConfigError: They cannot be used.
        UsageError: There are two and none is named, or it is not one of them.
    """
    shared = _on_servers(load_settings(config, url, environment))
    if side is None and len(shared) > 1:
        raise UsageError("A rollout has two queues: choose one with --side old or --side new")
    if side is not None and side not in shared:
        raise UsageError(f"--side {side} names no queue on a server; there is {' and '.join(shared)}")
    return _only(shared) if side is None else shared[side]


def _on_servers(settings: Settings) -> dict[str, Settings]:
    """Return the settings of each queue that others see as well, by what it is in a rollout; else of the only one."""
    if settings.type != "rollout" or settings.rollout is None:
        return {"the only one": settings}
    sides = {side: getattr(settings.rollout, side) for side in _SIDES}
    shared = {side: each for side, each in sides.items() if each.type != "asyncio"}
    if not shared:
        raise UsageError("Both queues of this rollout live in their processes; no command can see them")
    return shared


def _as_redis(settings: Settings) -> Settings:
    return dataclasses.replace(settings, type="redis", telemetry=_silent(settings))


def _silent(settings: Settings) -> TelemetrySettings:
    return dataclasses.replace(settings.telemetry, enabled=False)


def _only(shared: dict[str, Settings]) -> Settings:
    (settings,) = shared.values()
    return settings


def as_fields(value: Any) -> dict[str, Any]:
    """Return a dataclass of this package as a dict of its fields."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
