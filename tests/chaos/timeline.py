"""The storm second by second, and its picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import journal as j
from tests.chaos.checker import Hits
from tests.chaos.story import FINISHED, Story

INK, QUIET = "#1b1f24", "#8b949e"
ACKNOWLEDGED, FINISHED_COLOUR, DEPTH, FAULT = "#0969da", "#1a7f37", "#8250df", "#cf222e"


@dataclass(frozen=True)
class Timeline:
    """What happened in each second since the first event was sent.

    Attributes:
        zero: The beginning, on the monotonic clock.
        acknowledged: Events of which the queue said that it holds them.
        finished: Events whose handlers were through.
        depth: The most events that the queue held; None in seconds in which the server did not answer.
    """

    zero: float
    acknowledged: list[int]
    finished: list[int]
    depth: list[int | None]


def zero_of(story: Story) -> float:
    """Return when the first event was sent."""
    return min(call.sent for call in story.calls)


def timeline(story: Story) -> Timeline:
    """Count by seconds."""
    zero = zero_of(story)
    acknowledged: Counter[int] = Counter()
    for call in story.calls:
        for word in call.words or []:
            acknowledged[int(call.answered - zero)] += word not in (j.FULL, j.DUPLICATE)
    finished = Counter(int(run.ended - zero) for runs in story.runs.values() for run in runs if run.how == FINISHED)
    depth: dict[int, int] = {}
    for at, entries, delayed, _ in story.samples:
        second = int(at - zero)
        depth[second] = max(depth.get(second, 0), entries + delayed)
    seconds = range(max([*acknowledged, *finished, *depth]) + 1)
    return Timeline(
        zero,
        [acknowledged[second] for second in seconds],
        [finished[second] for second in seconds],
        [depth.get(second) for second in seconds],
    )


def draw(story: Story, path: Path, *, title: str) -> None:
    """Draw throughput, depth and faults over time, as SVG or PNG by the name of the file."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "streams-queue", "font.size": 9, "axes.edgecolor": QUIET, "text.color": INK})
    from matplotlib import pyplot as plt

    line = timeline(story)
    kinds = sorted({fault.kind for fault in story.faults}, reverse=True)
    heights = (2, 1.3, max(1.0, 0.22 * len(kinds)))
    figure, (pace, depth, faults) = plt.subplots(
        3, 1, sharex=True, figsize=(11, 1.3 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    _draw_pace(pace, line)
    _draw_depth(depth, line, story.max_size)
    _draw_faults(faults, story, kinds, line.zero)
    for axes in (pace, depth, faults):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, len(line.finished))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def _draw_pace(axes: Any, line: Timeline) -> None:
    axes.plot(line.acknowledged, color=ACKNOWLEDGED, linewidth=0.9, label="acknowledged")
    axes.plot(line.finished, color=FINISHED_COLOUR, linewidth=0.9, label="finished")
    axes.set_ylabel("events / s")
    axes.set_ylim(0)
    axes.legend(loc="upper right", frameon=False, ncols=2)


def _draw_depth(axes: Any, line: Timeline, max_size: int) -> None:
    values = [float("nan") if value is None else value for value in line.depth]
    axes.plot(values, color=DEPTH, linewidth=0.9)
    axes.axhline(max_size, color=QUIET, linewidth=0.7, linestyle="--")
    axes.annotate("max_size", (0, max_size), xytext=(3, 2), textcoords="offset points", color=QUIET)
    axes.set_ylabel("held events")
    axes.set_ylim(0, 1.15 * max_size)


def _draw_faults(axes: Any, story: Story, kinds: list[str], zero: float) -> None:
    seen = Hits(story)
    for row, kind in enumerate(kinds):
        for hit in (True, False):
            faults = [fault for fault in story.faults if fault.kind == kind and seen.has_hit(fault) is hit]
            times = [fault.began - zero for fault in faults]
            axes.hlines([row] * len(faults), times, [(f.ended or f.began) - zero for f in faults], color=FAULT, lw=0.8)
            axes.scatter(
                times, [row] * len(times), s=9, facecolors=FAULT if hit else "white", edgecolors=FAULT, linewidths=0.7
            )
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_ylim(-0.7, len(kinds) - 0.3)
    axes.set_xlabel("seconds (filled: the fault hit something)")
