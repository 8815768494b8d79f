"""Which queue a command is about: the options that commands share, and what is made of them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from streams_queue.config import FACTORY_REQUIRES, Settings, load_config
from streams_queue.factory import QueueFactory
from streams_queue.queue import Queue

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
    Open the queue on the server, whatever else the configuration wraps around it.

    An asyncio queue, and the local fallback of a resilient one, live and die with their process: there is nothing in
    them for a command to see, and what it put there would be lost. A command has nothing to tell a collector, and does
    not wait for one.
    """
    return queue_on_server(load_settings(config, url, environment))


def queue_on_server(settings: Settings) -> Queue:
    """Open the queue that lives on the server, as `open_queue` does."""
    silent = dataclasses.replace(settings.telemetry, enabled=False)
    return QueueFactory.create_queue(dataclasses.replace(settings, type="redis", telemetry=silent))


def as_fields(value: Any) -> dict[str, Any]:
    """Return a dataclass of this package as a dict of its fields."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
