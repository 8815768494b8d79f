"""Plots of what JSON files hold, as SVG: the same files give the same bytes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from benchmarks.document import Document
from benchmarks.report import short

# Okabe and Ito's colours, which nobody confuses, and a marker each, for where there are no colours.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_OURS, _OTHERS = "#0072b2", "#8c8c8c"
OURS = "streams_queue"

_STYLE: Any = {
    "svg.hashsalt": "streams-queue",  # names of parts that do not change from run to run
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "font.family": "sans-serif",
    "font.size": 11,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}

Rows = Sequence[Mapping[str, Any]]


def draw(documents: Iterable[Document], directory: Path) -> list[Path]:
    """
    Draw what there is data for.

    Args:
        documents: JSON files as `document.read` gives them; where two have the same figure, the later one counts.
        directory: Where the files go; it is made if need be.

    Returns:
        The files that were written, none if there was nothing to draw.
    """
    found = _together(documents)
    rows, spread = found["rows"], found["distributions"]
    # Older files do not say how many events waited.
    backlog = [row for row in rows if row["scenario"] == "backlog" and "backlog" in row]
    latencies = [each for each in spread if (each["scenario"], each["name"]) == ("idle_latency", "latency")]
    others = [each for each in spread if each["scenario"] == "peers_idle_latency"]
    peers = [row for row in rows if row["scenario"].startswith("peers_")]
    figures: dict[str, Figure] = {}
    with mpl.rc_context(_STYLE):
        if backlog:
            figures["throughput-by-backlog"] = throughput_by_backlog(backlog)
        if latencies:
            figures["idle-latency"] = latency_distribution(latencies)
        if others:
            figures["peers-idle-latency"] = latency_distribution(others)
        if peers:
            figures["peers"] = beside_peers(peers, found["failures"])
        directory.mkdir(parents=True, exist_ok=True)
        return [_save(figure, directory / f"{name}.svg") for name, figure in figures.items()]


def _together(documents: Iterable[Document]) -> dict[str, list[Any]]:
    found: dict[str, dict[str, Any]] = {"rows": {}, "distributions": {}, "failures": {}}
    for document in documents:
        for name, known in found.items():
            for each in document[name]:
                known[str([each.get(key) for key in ("scenario", "case", "side", "metric", "name")])] = each
    return {name: list(known.values()) for name, known in found.items()}


def _save(figure: Figure, path: Path) -> Path:
    title = figure.get_suptitle()
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None, "Title": title})
    return path


def throughput_by_backlog(rows: Rows) -> Figure:
    """Draw how many events a second are handled while so many wait: a line a side, bars from minimum to maximum."""
    figure, axes = _figure("Throughput while events wait")
    for number, (side, points) in enumerate(_by_side(rows).items()):
        backlogs = sorted(points)
        medians = [statistics.median(points[backlog]) for backlog in backlogs]
        bars = _bars(medians, [points[backlog] for backlog in backlogs])
        axes.errorbar(backlogs, medians, yerr=bars, label=side, capsize=4, **_look(number))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events that wait")
    axes.set_ylabel("throughput (events/s)")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend()
    return figure


def _by_side(rows: Rows) -> dict[str, dict[int, list[float]]]:
    """Sort runs by side and backlog; what stands behind the comma in a side's name tells its backlog only."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        found.setdefault(row["side"].split(",")[0], {}).setdefault(row["backlog"], []).extend(row["values"])
    return found


def latency_distribution(distributions: Rows) -> Figure:
    """Draw which share of events was there by when: the median of the runs, and a band from the least to the most."""
    figure, axes = _figure("From enqueue to the handler, one event at a time")
    for number, each in enumerate(distributions):
        by_quantile = list(zip(*each["runs"], strict=True))
        look = _look(number)
        axes.plot([statistics.median(runs) for runs in by_quantile], each["quantiles"], label=each["side"], **look)
        least, most = [min(runs) for runs in by_quantile], [max(runs) for runs in by_quantile]
        axes.fill_betweenx(each["quantiles"], least, most, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"latency ({distributions[0]['unit']}, logarithmic)")
    axes.set_ylabel("events that were there by then (%)")
    axes.legend(loc="lower right")
    return figure


def beside_peers(rows: Rows, failures: Rows) -> Figure:
    """Draw ours beside other queues: three panels, bars for medians, lines from the least to the most."""
    panels = {
        ("peers_staging", "throughput"): "staging (events/s)",
        ("peers_draining", "throughput"): "draining (events/s)",
        ("peers_idle_latency", "latency p50"): "idle latency, p50 (ms)",
    }
    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle("Beside other queues")
    for number, ((scenario, metric), title) in enumerate(panels.items(), start=1):
        of_panel = [row for row in rows if (row["scenario"], row["metric"]) == (scenario, metric)]
        missing = [each["side"] for each in failures if each["scenario"] == scenario]
        _panel(figure.add_subplot(1, 3, number), title, of_panel, missing)
    return figure


def _panel(axes: Axes, label: str, rows: Rows, missing: Sequence[str]) -> None:
    names = [row["side"] for row in rows] + [f"{side} (not measured)" for side in missing]
    medians = [float(row["median"]) for row in rows]
    colours = [_OURS if row["side"] == OURS else _OTHERS for row in rows]
    bars = _bars(medians, [row["values"] for row in rows])
    axes.barh(range(len(rows)), medians, xerr=bars, color=colours, ecolor="#222222", capsize=3)
    for place, row in enumerate(rows):
        written = f" {short(row['median'])}"
        axes.annotate(written, (max(row["values"]), place), (3, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xlabel(label)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    figure.suptitle(title)
    return figure, figure.add_subplot()


def _look(number: int) -> dict[str, Any]:
    place = number % len(_COLOURS)
    return {"color": _COLOURS[place], "marker": _MARKERS[place], "markersize": 5, "linewidth": 1.5}


def _bars(medians: Sequence[float], values: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return how far minimum and maximum are from the medians."""
    below = [median - min(runs) for median, runs in zip(medians, values, strict=True)]
    return below, [max(runs) - median for median, runs in zip(medians, values, strict=True)]
