"""The journals of a storm, read together: every call of the producers and every run of an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import journal as j
from tests.chaos.faults import Fault
from tests.chaos.parts import event_id

OPEN = float("inf")
# What became of a run.
FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"
CANCELLATIONS = ("CancelledError", "KeyboardInterrupt", "SystemExit")


@dataclass(slots=True)
class Call:
    """One call of enqueue or enqueue_many.

    Attributes:
        producer: The incarnation.
        sent: When it was about to be made.
        prefix: Of the events' names.
        numbers: Of the events.
        flag: plain, later (delayed), again (all of it has been acknowledged before).
        answered: When it returned or raised; infinity if its process died before.
        words: What the queue said about each event; None if it raised or never answered.
        error: What it raised.
    """

    producer: str
    sent: float
    prefix: str
    numbers: list[int]
    flag: str
    answered: float = OPEN
    words: list[str] | None = None
    error: str = ""


@dataclass(slots=True)
class Run:
    """One handing-out of an event.

    Attributes:
        worker: The incarnation.
        entry: The stream entry.
        deliveries: The queue's own count.
        handed: When the queue handed it out.
        started: When its handler began; None if it did not.
        ended: When its handler was through, before settling; infinity if it never was.
        how: finished, failed, cancelled; empty while it runs.
    """

    worker: str
    entry: str
    deliveries: int
    handed: float
    started: float | None = None
    ended: float = OPEN
    how: str = ""


@dataclass
class Story:
    """All that is known of a storm.

    Attributes:
        lease: Of the queue, in seconds.
        max_size: Of the queue.
        max_deliveries: How often an event runs at most; the last time alone, if consumers have died of it.
        hands: The most that a worker can hold at once: concurrency and prefetch, by place.
        calls: Of all producers, in the order of their journals.
        runs: By event, in the order in which they were handed out.
        lease_losses: Worker, time, event.
        reported_lost: What the queue itself reported as lost, by worker.
        faults: In the order in which they were fired.
        samples: Time, entries, delayed, dead letters.
        thefts: Time, entry, from whom, by whom: a pending entry that changed hands without being handed out.
        most_held: The largest size that an enqueue reply named.
        dead: Event and reason.
        left: Events that the queue still held at the end.
        accidents: Processes that ended by themselves.
        unclean: Incarnations whose journal does not end in order, although nobody killed them.
        calmed: When the last fault was mended.
    """

    lease: float
    max_size: int
    max_deliveries: int = 4
    hands: Mapping[str, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    lease_losses: list[tuple[str, float, str]] = field(default_factory=list)
    reported_lost: list[tuple[str, float, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)
    thefts: list[tuple[float, str, str, str]] = field(default_factory=list)
    most_held: int = 0
    dead: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    accidents: list[str] = field(default_factory=list)
    calmed: float = OPEN

    def sort(self) -> None:
        """Put the runs of each event in order."""
        for runs in self.runs.values():
            if len(runs) > 1:
                # A process that was stopped may hand out late what it was given first: the server's count tells.
                runs.sort(key=lambda run: (run.deliveries, run.handed))

    def add_journals(self, directory: Path) -> None:
        """Read all journals of a directory."""
        for path in sorted(directory.glob("*.journal")):
            self.add(path.stem, j.read(path))
        self.sort()

    def add(self, name: str, lines: Iterable[list[str]]) -> None:
        """Read the journal of one incarnation, a producer's or a worker's."""
        calls: dict[str, Call] = {}
        open_runs: dict[str, Run] = {}
        for verb, at, *words in lines:
            time = float(at)
            if verb == j.SENT:
                call, prefix, numbers, flag = words
                calls[call] = Call(name, time, prefix, [int(number) for number in numbers.split(",")], flag)
                self.calls.append(calls[call])
            elif verb == j.ACKED:
                calls[words[0]].answered, calls[words[0]].words = time, words[1].split(",")
            elif verb == j.ERROR:
                calls[words[0]].answered, calls[words[0]].error = time, words[1]
            elif verb == j.LEASE_LOST:
                self.lease_losses.append((name, time, words[0]))
            elif verb == j.QUEUE_LOST:
                self.reported_lost.append((name, time, " ".join(words)))
            elif verb == j.HANDED:
                run = open_runs[words[0]] = Run(name, words[1], int(words[2]), time)
                self.runs.setdefault(words[0], []).append(run)
            elif verb in (j.STARTED, j.FINISHED, j.GAVE_UP):
                _go_on(open_runs[words[0]], verb, time, words)


def _go_on(run: Run, verb: str, time: float, words: list[str]) -> None:
    if verb == j.STARTED:
        run.started = time
        return
    run.ended = time
    if verb == j.FINISHED:
        run.how = FINISHED
    else:
        run.how = CANCELLED if words[2] in CANCELLATIONS else FAILED


def names_of(call: Call) -> list[str]:
    """Return the names of the events of a call."""
    return [event_id(call.prefix, number) for number in call.numbers]
