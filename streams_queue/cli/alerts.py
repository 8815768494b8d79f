"""`alerts`: print the rules by which Prometheus alerts."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from streams_queue.cli.extras import needs_extra
from streams_queue.cli.options import ConfigOption, EnvironmentOption, UrlOption, load_settings

_HEAD = "# Written by `streams-queue alerts`, with the thresholds of a configuration's `metrics:` list.\n"


def alerts(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    scrape_interval: Annotated[
        str, typer.Option(metavar="DURATION", help="Of Prometheus; rates are taken over 20 of them.")
    ] = "15s",
    lasting: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="How long a condition holds before it alerts; each its own."),
    ] = None,
    only_this_queue: Annotated[
        bool, typer.Option("--only-this-queue", help="Leave other queues that Prometheus knows of alone.")
    ] = False,
) -> None:
    """Print rules for Prometheus with the configured thresholds, to be written to a file that it reads."""
    with needs_extra("The command alerts", "prometheus"):
        from streams_queue.monitoring.alerts import rules
    found = rules(
        load_settings(config, url, environment),
        scrape_interval=scrape_interval,
        lasting=lasting,
        only_this_queue=only_this_queue,
    )
    print(_HEAD + yaml.safe_dump(found, sort_keys=False, width=120), end="")
