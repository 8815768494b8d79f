"""From what is known of a queue to a screen of a given size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streams_queue.cli.output import printable
from streams_queue.cli.top.sampling import ConsumerRow, DeadRow, InFlightRow, Sample
from streams_queue.cli.top.view import View

_WIDE = 100
_BARS = "▁▂▃▄▅▆▇█"
_NEARLY_FULL = 0.8
# Lines that are there at every size: title, state, figures, bar, rates, history, and a blank line between blocks.
_FIXED_LINES = 8
_TITLES = 2
_GAP = 2


def draw(view: View, width: int, height: int, now: float) -> RenderableType:
    """Return the screen.

    Args:
        view: What is known.
        width: Columns.
        height: Lines.
        now: By the monotonic clock.
    """
    sample = view.last
    parts: list[RenderableType] = [_title(view, width), _state(view, now)]
    if sample is not None:
        parts += [*_figures(view, sample, width), Text()]
        parts += _lists(view, sample, width, max(0, height - _FIXED_LINES))
    return Group(*parts)


def _title(view: View, width: int) -> Text:
    left, right = f"streams-queue top  {printable(view.name)} on {view.address}", "q quits"
    room = max(1, width - len(right) - 1)
    return Text(f"{_cut(left, room):<{room}} {right}", style="reverse", no_wrap=True)


def _state(view: View, now: float) -> Text:
    if view.trouble:
        seconds = f"{now - view.trouble_since:.0f} s"
        shown = "; what follows was seen before" if view.samples else ""
        return _line(f"✗ no answer for {seconds}{shown}: {view.trouble}", "bold red")
    sample = view.last
    if sample is None:
        return _line("connecting …", "dim")
    seen = datetime.fromtimestamp(sample.at, UTC).strftime("%H:%M:%SZ")
    if sample.refusal:
        return _line(f"● {seen}  takes no writes: {sample.refusal}", "bold red")
    if sample.paused:
        return _line(f"● {seen}  paused: {sample.paused}", "bold yellow")
    return _line(f"● {seen}", "green")


def _figures(view: View, sample: Sample, width: int) -> Iterable[Text]:
    share = sample.held / view.max_size if view.max_size else 1.0
    style = "bold red" if share >= 1 else "bold yellow" if share >= _NEARLY_FULL else ""
    dead = "bold red" if sample.dead >= view.dead_max_size else "yellow" if sample.dead else ""
    yield Text.assemble(
        *_figure("waiting", sample.waiting),
        *_figure("in flight", sample.in_flight),
        *_figure("delayed", sample.delayed),
        *_figure("dead", sample.dead, dead),
        no_wrap=True,
    )
    label = f" {sample.held:,} of {view.max_size:,}, {share:.0%}"
    room = max(0, min(60, width - len(label) - 2))
    filled = min(room, round(share * room))
    yield Text.assemble(("█" * filled, style or "green"), ("░" * (room - filled), "dim"), (label, style), no_wrap=True)
    rates = view.rates()
    yield Text.assemble(
        *_figure("in/s", rates["enqueued"]),
        *_figure("done/s", rates["acked"]),
        *_figure("retried/s", rates["retried"]),
        *_figure("dead/s", rates["dead"]),
        no_wrap=True,
    )
    ages = f"oldest waiting {_seconds(sample.oldest_waiting)}, in flight {_seconds(sample.oldest_in_flight)}  "
    yield Text.assemble((ages, "dim"), (_history(view.depths(max(0, width - len(ages)))), "cyan"), no_wrap=True)


def _figure(name: str, value: float | None, style: str = "") -> Iterable[tuple[str, str]]:
    shown = "–" if value is None else f"{value:,.1f}" if name.endswith("/s") else f"{value:,}"
    return ((f"{name} ", "dim"), (f"{shown:<8}", style or "bold"))


def _history(depths: Sequence[int]) -> str:
    most = max(depths, default=0)
    return "".join(_BARS[depth * (len(_BARS) - 1) // most] if most else _BARS[0] for depth in depths)


def _lists(view: View, sample: Sample, width: int, room: int) -> list[RenderableType]:
    """Return the three lists, side by side where there is width for it, each cut to its share of the lines."""
    if width >= _WIDE:
        side = (width - _GAP) // 2
        # Of what is left, dead letters get the lower part.
        above = max(1, (room - 2 * _TITLES) * 3 // 5)
        below = max(0, room - 2 * _TITLES - above)
        both = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        both.add_row(
            _consumers(sample.consumers, view.lease, side, above), _flights(sample.flights, view.lease, side, above)
        )
        return [both, Text(), _letters(sample.letters, sample.dead, width, below)]
    share = max(0, room - 3 * _TITLES - 1) // 3
    return [
        _consumers(sample.consumers, view.lease, width, share),
        Text(),
        _flights(sample.flights, view.lease, width, share),
        Text(),
        _letters(sample.letters, sample.dead, width, share),
    ]


def _consumers(rows: Sequence[ConsumerRow], lease: float, width: int, most: int) -> Table:
    table = _table(f"Consumers: {len(rows)}", width, ("name", 1), ("in flight", 0), ("silent", 0))
    for row in rows[:most]:
        table.add_row(*_cells(row.name, row.pending, _seconds(row.idle)), style=_late(row.idle, lease))
    return table


def _flights(rows: Sequence[InFlightRow], lease: float, width: int, most: int) -> Table:
    table = _table("In flight, oldest first", width, ("entry", 0), ("consumer", 1), ("renewed", 0), ("times", 0))
    for row in rows[:most]:
        cells = _cells(row.entry_id, row.consumer, _seconds(row.idle), row.deliveries)
        table.add_row(*cells, style=_late(row.idle, lease))
    return table


def _letters(rows: Sequence[DeadRow], dead: int, width: int, most: int) -> Table:
    table = _table(
        f"Dead letters: {dead:,}, oldest first", width, ("event", 1), ("died", 0), ("reason", 0), ("error", 2)
    )
    for row in rows[:most]:
        died = datetime.fromtimestamp(row.died_at, UTC).strftime("%m-%d %H:%M")
        table.add_row(*_cells(row.event_id, died, row.reason, row.error))
    return table


def _table(title: str, width: int, *columns: tuple[str, int]) -> Table:
    """Return an empty table; columns with a ratio share what the others leave."""
    table = Table(
        title=title, title_style="bold", title_justify="left", box=None, width=width, pad_edge=False, header_style="dim"
    )
    for name, ratio in columns:
        table.add_column(name, ratio=ratio or None, no_wrap=True, overflow="ellipsis")
    return table


def _cells(*values: object) -> Iterable[Text]:
    """Return cells that are taken literally: what comes out of a queue was written by strangers."""
    return (Text(printable(str(value)), no_wrap=True, overflow="ellipsis") for value in values)


def _late(idle: float, lease: float) -> str:
    return "red" if idle > lease else ""


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.0f} h"


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
