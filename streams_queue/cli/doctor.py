"""`doctor`: what is wrong with a server or a queue, why it matters and how to mend it."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from streams_queue.cli import exit_codes
from streams_queue.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    SideOption,
    UrlOption,
    as_fields,
    load_one,
)
from streams_queue.cli.output import print_json, print_line
from streams_queue.doctor import Finding, Level, Seen, Unusable, findings_about, look


def doctor(
    *,
    config: ConfigOption = None,
    url: UrlOption = None,
    environment: EnvironmentOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine the server and the queue; changes nothing. Exit code 0: well, 4: warnings, 1: errors, 3: no server."""
    settings = load_one(config, url, environment, side)
    seen = asyncio.run(look(settings))
    findings = findings_about(seen, settings)
    if as_json:
        print_json(_as_json(seen, findings))
    else:
        _print(seen, findings)
    raise typer.Exit(_exit_code(seen, findings))


def _exit_code(seen: Seen | Unusable, findings: list[Finding]) -> int:
    if isinstance(seen, Unusable):
        return exit_codes.BACKEND
    levels = {finding.level for finding in findings}
    if Level.ERROR in levels:
        return exit_codes.NO
    return exit_codes.DEGRADED if levels else exit_codes.OK


def _print(seen: Seen | Unusable, findings: list[Finding]) -> None:
    if isinstance(seen, Seen):
        server = seen.server
        newer = f", has {', '.join(server.knows)}" if server.knows else ""
        print_line(
            f"{server.address}: {server.software} {server.version}, {server.round_trip * 1000:.1f} ms away{newer}"
        )
    for finding in findings:
        print_line("")
        print_line(f"{finding.level.upper()} {finding.check}: {finding.what}")
        print_line(f"  {finding.why}")
        print_line(f"  → {finding.remedy}")
    if isinstance(seen, Seen):
        if seen.hidden:
            print_line("")
            print_line(f"Could not see as this user: {'; '.join(seen.hidden)}.")
        if not findings:
            print_line("Nothing to say.")


def _as_json(seen: Seen | Unusable, findings: list[Finding]) -> dict[str, Any]:
    answer: dict[str, Any] = {"reachable": isinstance(seen, Seen), "findings": [as_fields(each) for each in findings]}
    if isinstance(seen, Seen):
        server = as_fields(seen.server)
        del server["info"], server["config"]
        answer |= {"server": server, "hidden": seen.hidden}
    return answer
