"""The reference and what it is about: nothing is missing from it, and it names nothing that is not there."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import pytest
import typer
import yaml

from streams_queue.cli.app import app
from streams_queue.config import Settings, load_config
from streams_queue.config.schema import QUEUE, Section
from streams_queue.errors import ConfigError
from streams_queue.keys import QueueKeys
from streams_queue.redis_queue.operations import _TOTALS
from tests.support.processes import CHECKOUT

DOCS = CHECKOUT / "docs"
REFERENCE = DOCS / "reference"
LUA = CHECKOUT / "streams_queue" / "lua"
HUGE = 2**62
REQUIRED = {"max_size": 10, "timeout": 1}


def page(name: str) -> str:
    """Return the text of a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return what stands under a heading of the second or third level, up to the next one that is not deeper."""
    level = r"#{2,3}" if heading.startswith("### ") else "##"
    found = re.search(rf"^{re.escape(heading)}$\n(.*?)(?=^{level} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables whose first cell begins with code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- configuration ---------------------------------------------------------------------------------------------


def settings_of(section: Section, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all keys that are no sections; a section that holds settings again, as a whole, is one key."""
    for key, read in section.reads.items():
        if isinstance(read, Section) and not read.reads.keys() & {"redis_url"}:
            yield from settings_of(read, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def field_of(path: str) -> tuple[Any, Any]:
    """Return the type and the default of a key by its path; `dataclasses.MISSING` if it has to be given."""
    kind: type = Settings
    *sections, key = path.split(".")
    for name in sections:
        hint = get_type_hints(kind)[name]
        kind = next(each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each))
    return get_type_hints(kind)[key], next(field.default for field in dataclasses.fields(kind) if field.name == key)


def choices_of(path: str) -> set[str] | None:
    """Return the words that a key may be, or None if it is no such key."""
    hint, _ = field_of(path)
    literal = next((each for each in (hint, *get_args(hint)) if get_origin(each) is Literal), None)
    return set(get_args(literal)) if literal else None


SETTINGS = list(settings_of(QUEUE))


def setting_rows() -> dict[str, list[str]]:
    """Return the documented rows by the path of their key: of the first table, and of `## NAME` for sections."""
    text = page("configuration.md")
    found = {row[0].strip("`"): row for row in rows(text.partition("\n## ")[0])}
    for name in [key for key, read in QUEUE.reads.items() if isinstance(read, Section)]:
        if f"\n## {name}\n" in text:
            found |= {f"{name}.{row[0].strip('`')}": row for row in rows(section(text, f"## {name}"))}
    return found


def loads(path: str, value: Any) -> bool:
    """Tell whether a configuration with this one key set has nothing wrong with that key."""
    queue: dict[str, Any] = {**REQUIRED, "max_lease": 10**9} if path == "lease" else dict(REQUIRED)
    inner = queue
    *sections, key = path.split(".")
    for name in sections:
        inner = inner.setdefault(name, {})
    inner[key] = value
    if path == "max_lease":
        queue["lease"] = 0.1
    try:
        load_config({"queue": queue})
    except ConfigError as error:
        return not any(problem.startswith(f"queue.{path}:") for problem in error.problems)
    return True


def test_every_setting_is_in_the_reference() -> None:
    """And no other; sections that may be null have a row of their own."""
    sections = {key for key, read in QUEUE.reads.items() if isinstance(read, Section)}
    assert set(setting_rows()) - sections == set(SETTINGS)


@pytest.mark.parametrize("path", [path for path in SETTINGS if not path.startswith("telemetry.")])
def test_the_documented_default_is_the_default(path: str) -> None:
    """As it would be written in YAML; `required` if there is none."""
    documented, (_, default) = setting_rows()[path][2].strip("`"), field_of(path)
    if default is dataclasses.MISSING:
        assert documented == "required"
    elif default is None:
        assert documented in {"null", ""}
    elif isinstance(default, str):
        assert documented == default
    elif isinstance(default, tuple):
        assert yaml.safe_load(documented) == list(default)
    else:
        assert float(documented) == default


@pytest.mark.parametrize("path", [path for path in SETTINGS if choices_of(path)])
def test_the_documented_words_are_the_words(path: str) -> None:
    """All that a key may be, and nothing else."""
    documented = set(re.findall(r"`([^`]+)`", setting_rows()[path][1]))
    assert documented == choices_of(path)


BOUNDED = [path for path, row in setting_rows().items() if re.search(r"at least \d|above \d|^\d+ to \d+$", row[1])]


@pytest.mark.parametrize("path", BOUNDED)
def test_the_documented_bounds_are_the_bounds(path: str) -> None:
    """What lies on a bound is taken, what lies beyond it is not."""
    values = setting_rows()[path][1]
    if found := re.search(r"at least (\d[\d.]*)", values):
        lowest = float(found[1]) if "." in found[1] else int(found[1])
        assert loads(path, lowest)
        assert not loads(path, lowest - 1)
        assert not loads(path, math.nextafter(lowest, -1)) or isinstance(lowest, float)
    elif found := re.search(r"above (\d+)", values):
        assert not loads(path, int(found[1]))
        assert loads(path, int(found[1]) + 0.001)
    elif found := re.match(r"(\d+) to (\d+)", values):
        lowest, highest = int(found[1]), int(found[2])
        assert loads(path, lowest)
        assert loads(path, highest)
        assert not loads(path, lowest - 1)
        assert not loads(path, highest + 1)


def test_most_settings_with_numbers_have_documented_bounds() -> None:
    """So that the test above is about something."""
    assert len(BOUNDED) >= 18


# --- the command -----------------------------------------------------------------------------------------------


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield all commands by their names, those of groups as `dead list`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands(typer.main.get_command(app)))
SHARED = ("--config", "--url", "--environment", "--json")
HEADINGS = re.findall(r"^### (.*)$", section(page("cli.md"), "## Commands"), re.MULTILINE)


def named_in(heading: str) -> list[str]:
    """Return the commands that a heading is about: `stats`, `import FILE`, `dead list | show`, `pause, resume`."""
    return re.match(r"[a-z]+(, [a-z]+)*", heading)[0].split(", ")  # type: ignore[index]


def about(command: str) -> str:
    """Return what the reference says about a command."""
    heading = next(each for each in HEADINGS if command.partition(" ")[0] in named_in(each))
    return heading + "\n" + section(page("cli.md"), f"### {heading}")


def test_every_command_has_a_heading_and_every_heading_a_command() -> None:
    """Those of a group stand under the group's."""
    documented = [name for heading in HEADINGS for name in named_in(heading)]
    assert sorted(documented) == sorted({name.partition(" ")[0] for name in COMMANDS})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_the_reference(name: str) -> None:
    """Under the command, or among those that all commands share; a command of a group has a row."""
    text = about(name) + section(page("cli.md"), "## Which queue") + "--help"
    if " " in name:
        assert f"`{name}" in text
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            assert any(re.search(rf"(?<![\w-]){option}\b", text) for option in parameter.opts), parameter.opts


def test_options_that_all_commands_share_are_in_the_reference() -> None:
    """In the section that says which queue is meant."""
    text = section(page("cli.md"), "## Which queue")
    assert [option for option in SHARED if f"`{option}" not in text] == []


@pytest.mark.parametrize("name", sorted({name.partition(" ")[0] for name in COMMANDS}))
def test_the_reference_names_no_option_that_is_not_there(name: str) -> None:
    """All that looks like an option in the first column of a table, or in the rows of a group."""
    group = [command for each, command in COMMANDS.items() if each.partition(" ")[0] == name]
    known = {
        option
        for command in group
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    documented = {option for row in rows(about(name)) for option in re.findall(r"(?<![\w-])--[a-z-]+", row[0])}
    assert documented - known == set()


# --- keys and scripts ------------------------------------------------------------------------------------------


def test_every_script_is_in_the_reference() -> None:
    """By the name of its file, and no other."""
    table = section(page("keys-and-scripts.md"), "## Scripts")
    documented = {name for row in rows(table) for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == {file.stem for file in LUA.glob("*.lua")}


def test_every_key_is_in_the_reference() -> None:
    """What follows the queue's own prefix, and no other."""
    keys = QueueKeys("gitbridge", "events")
    members = [(name, member) for name, member in vars(QueueKeys).items() if not name.startswith("_")]
    names = {getattr(keys, name) for name, member in members if isinstance(member, property)}
    names |= {member(keys, "<>") for _, member in members if inspect.isfunction(member)}
    table = rows(section(page("keys-and-scripts.md"), "## Keys"))
    documented = {re.sub(r"<.*?>", "<>", row[0].strip("`")) for row in table}
    assert {name.replace("…", "gitbridge:{events}") for name in documented} == names


def test_every_total_is_in_the_reference() -> None:
    """The totals of the stats hash, here and where metrics name them."""
    told = section(page("keys-and-scripts.md"), "## The stats hash").partition("One that is missing")[0]
    assert set(re.findall(r"`(\w+)`", told)) == set(_TOTALS)
    kinds = section(page("metrics.md"), "## Of the whole queue").partition("`streams_queue.kind`")[2]
    assert set(re.findall(r"`(\w+)`", kinds)) - {"stats"} == set(_TOTALS)


# --- pages -----------------------------------------------------------------------------------------------------


def linked(text: str, folder: Path) -> set[Path]:
    """Return the pages that a text links to."""
    return {(folder / target).resolve() for target in re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", text)}


def test_the_front_page_leads_to_every_page() -> None:
    """Of the four kinds; decisions and runs of the storm have pages of their own that list them."""
    reached = linked((DOCS / "index.md").read_text(encoding="utf-8"), DOCS)
    pages = {path for kind in ("tutorial", "how-to", "reference", "explanation") for path in (DOCS / kind).glob("*.md")}
    assert pages - reached == set()


def test_the_list_of_decisions_is_complete() -> None:
    """Each file is in it, under the number and the title that it bears."""
    text = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\d{4})\]\((\d{4}-[\w-]+\.md)\) \| (.+) \|$", text, re.MULTILINE)
    there = sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))
    assert sorted(file for _, file, _ in listed) == there
    for number, file, title in listed:
        heading = (DOCS / "decisions" / file).read_text(encoding="utf-8").splitlines()[0]
        assert (number, heading) == (file[:4], f"# {number} · {title}")


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    """By letters."""
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert words == sorted(set(words), key=str.casefold)
