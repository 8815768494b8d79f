"""The checker: what the journals prove, and what they prove to be wrong. Pure; it sees nothing but the story.

Each check returns findings: one sentence each, with the names and times that show it.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos import journal as j
from tests.chaos.faults import EVERYBODY, Fault
from tests.chaos.story import CANCELLED, FAILED, FINISHED, OPEN, Call, Run, Story, names_of

# Faults that end the process: what it had in hand runs again.
ENDING = ("worker_kill", "poison", "worker_rolling_restart")
# Faults that keep a process from renewing its leases, if they last; several of them may add up.
SILENCING = (
    *("worker_stop", "network_cut", "half_open", "network_delay"),
    *("server_kill", "server_stop", "sentinel_failover", "primary_kill"),
)
# Faults that may take back what workers have settled: the replica had not heard of it yet.
FORGETTING = ("sentinel_failover", "primary_kill")
# Faults after which a consumer may learn late what it has been handed.
CONFUSING = (*SILENCING, "client_kill", "swallowed_read_reply", "swallowed_settle_reply", "memory_squeeze")
# Renewals go out every third of a lease; one without an answer is waited for a quarter, and the next one follows within
# an eighth. Silence that lasts for less than what is left of a lease then costs none.
ENOUGH_SILENCE = 1 - 1 / 3 - 1 / 4 - 1 / 8
# How long after a fault its consequences may still come: a reader looks once more when its old read has ended.
AFTERMATH = 8.0
# How long an event may lie prefetched before it is handed out, and a reply in the socket of a process that reads late.
PREFETCHED = 1.5
TAKEN_BACK = "settled while a failover was on"
UNAVAILABLE = ("server_kill", "server_stop", "client_kill", "sentinel_failover", "primary_kill")
# A squeeze of memory that is looked at, and how much of its beginning tells whether there was anything to drain.
LONG_ENOUGH, AT_FIRST = 1.0, 0.1
# What a recovery may take beyond the lease.
RECOVERY_MARGIN = 1.0
MOST_SHOWN = 20


@dataclass
class Recoveries:
    """How long the events of killed workers waited until they were handed out elsewhere, in seconds.

    Attributes:
        kills: The longest wait of an event of each kill, by fault number.
        events: All waits behind them.
        alone: Waits for a last run, which is made alone, one after the other: not part of the above.
        unmeasured: Entries whose next holder was struck before it could begin, or that had no need to run again.
        server_away: Kills that are not measured, because the server could not be reached in between.
    """

    kills: dict[int, float] = field(default_factory=dict)
    events: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    unmeasured: int = 0
    server_away: int = 0


@dataclass
class Verdict:
    """What the checker found.

    Attributes:
        figures: Counts, by name.
        most_held: The most events that were seen in the queue.
        violations: Findings, by check; a check without findings has an empty list.
        duplicates: Events that ran again, each with the fault that explains it.
        recoveries: How long the events of killed workers waited.
        kinds: Fired and hit, by kind of fault.
    """

    figures: Counter[str] = field(default_factory=Counter)
    most_held: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)
    duplicates: list[Duplicate] = field(default_factory=list)
    recoveries: Recoveries = field(default_factory=Recoveries)
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.violations.values())


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An event that ran again although its last run had not failed.

    Attributes:
        event: Which.
        worker: Who had it in hand.
        again: Who ran it next.
        at: When that was handed out.
        was: What had become of the run before by then: `running`, `finished`,
            `cancelled` and given back, `settled while a failover was on`, or `on its way` to its worker.
        fault: Number of the fault that explains it; None if none does.
        kind: Of that fault.
    """

    event: str
    worker: str
    again: str
    at: float
    was: str
    fault: int | None
    kind: str


def check(story: Story) -> Verdict:
    """Check everything."""
    verdict = Verdict()
    strikes = Strikes(story.faults)
    sent, acked = _sent_and_acked(story.calls)
    dead = {name for name, _ in story.dead}
    finished = {name for name, runs in story.runs.items() if any(run.how == FINISHED for run in runs)}
    verdict.duplicates = list(_duplicates(story, strikes))
    verdict.recoveries = _recoveries(story)
    verdict.kinds = _kinds(story)
    verdict.violations = {
        "lost": _lost(acked, finished | dead, story),
        "left in the queue": [f"{name} was still in the queue at the end" for name in story.left],
        "ghosts": [f"{name} was {what}, and nobody had enqueued it" for name, what in _ghosts(story, sent)],
        "accepted twice": list(_accepted_twice(story.calls)),
        "max_size": list(_too_many(story)),
        "order of acknowledgement": list(_disorder_of_producers(story.calls)),
        "order of delivery": list(_disorder_of_consumers(story, strikes)),
        "unexplained duplicates": [
            f"{d.event} was {d.was} at {d.worker}, which no fault had struck, when {d.again} got it at {d.at:.3f}"
            for d in verdict.duplicates
            if d.fault is None
        ],
        "too many duplicates of one fault": list(_too_many_duplicates(story, verdict.duplicates)),
        "stolen": list(_stolen(story, strikes)),
        "leases lost without a fault": list(_lease_losses(story, strikes)),
        "losses that the queue reports": [f"{who} at {at:.3f}: {what}" for who, at, what in story.reported_lost],
        "dead letters": list(_wrong_letters(story)),
        "draining without memory": list(_stalls(story)),
        "accidents": list(story.accidents),
    }
    verdict.most_held = max([story.most_held, *(entries + delayed for _, entries, delayed, _ in story.samples)])
    verdict.figures = _figures(story, verdict, sent, acked, finished)
    return verdict


# --- events


def _sent_and_acked(calls: Iterable[Call]) -> tuple[set[str], set[str]]:
    """Return the names of all events that were ever sent, and of those of which the queue said that it holds them."""
    sent: set[str] = set()
    acked: set[str] = set()
    for call in calls:
        names = names_of(call)
        sent.update(names)
        if call.words is not None:
            acked.update(name for name, word in zip(names, call.words, strict=True) if word != j.FULL)
    return sent, acked


def _lost(acked: set[str], accounted: set[str], story: Story) -> list[str]:
    lost = sorted(acked - accounted)
    left = set(story.left)
    return [f"{name} was acknowledged, and {_fate(name, story)}" for name in lost if name not in left]


def _fate(name: str, story: Story) -> str:
    runs = story.runs.get(name, [])
    return "never handed out" if not runs else f"never finished: {runs[-1]}"


def _ghosts(story: Story, sent: set[str]) -> Iterator[tuple[str, str]]:
    yield from ((name, "handed out") for name in story.runs if name not in sent)
    yield from ((name, f"a dead letter ({reason})") for name, reason in story.dead if name not in sent)


def _accepted_twice(calls: Iterable[Call]) -> Iterator[str]:
    """Find events that were added to the queue by two calls: an event id makes that impossible."""
    accepted: Counter[str] = Counter()
    for call in calls:
        for name, word in zip(names_of(call), call.words or [], strict=False):
            accepted[name] += word not in (j.DUPLICATE, j.FULL, j.HELD)
    yield from (f"{name} was accepted {times} times" for name, times in accepted.items() if times > 1)


def _too_many(story: Story) -> Iterator[str]:
    for at, entries, delayed, _ in story.samples:
        if entries + delayed > story.max_size:
            yield f"{entries} entries and {delayed} delayed at {at:.3f}, where {story.max_size} are allowed"
    if story.most_held > story.max_size:
        yield f"an enqueue reply named {story.most_held} held events, where {story.max_size} are allowed"


def _stalls(story: Story) -> Iterator[str]:
    """Find times in which the server was short of memory, and nothing was finished although it had events."""
    squeezes = [fault for fault in story.faults if fault.kind == "memory_squeeze" and fault.hit and fault.ended]
    finished = sorted(run.ended for runs in story.runs.values() for run in runs if run.how == FINISHED)
    for fault in squeezes:
        had = [entries for at, entries, _, _ in story.samples if fault.began <= at <= fault.began + AT_FIRST]
        ended = fault.ended or OPEN
        if min(had, default=0) == 0 or ended - fault.began < LONG_ENOUGH:
            continue
        if bisect.bisect_right(finished, ended) == bisect.bisect_left(finished, fault.began):
            yield f"nothing was finished from {fault.began:.3f} to {ended:.3f}, and {min(had)} events were there"


def _wrong_letters(story: Story) -> Iterator[str]:
    for name, reason in story.dead:
        if not reason:
            yield f"{name} is a dead letter without a reason"
    twice = [name for name, times in Counter(name for name, _ in story.dead).items() if times > 1]
    yield from (f"{name} is more than one dead letter" for name in twice)


# --- order


def entry_key(entry: str) -> tuple[int, int]:
    """Return what entry ids are ordered by."""
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)


def _disorder_of_producers(calls: Iterable[Call]) -> Iterator[str]:
    """Find events of one producer that were sent after others were acknowledged, and yet stand before them."""
    by_producer: defaultdict[str, list[tuple[float, int, Call, list[str]]]] = defaultdict(list)
    for call in calls:
        entries = [word for word in call.words or [] if "-" in word]
        if entries:
            by_producer[call.producer].append((call.sent, 0, call, entries))
            if entries != sorted(entries, key=entry_key):
                yield f"{call.producer}: the entries of the call at {call.sent:.3f} are not in the order of its events"
    for producer, answered in by_producer.items():
        yield from _disorder_between_calls(producer, answered)


def _disorder_between_calls(producer: str, answered: list[tuple[float, int, Call, list[str]]]) -> Iterator[str]:
    acknowledgements = sorted((call.answered, max(map(entry_key, entries))) for _, _, call, entries in answered)
    times, highest = [], []
    for at, top in acknowledgements:
        times.append(at)
        highest.append(max(top, highest[-1]) if highest else top)
    for sent, _, _, entries in answered:
        before = bisect.bisect_left(times, sent)
        if before and min(map(entry_key, entries)) <= highest[before - 1]:
            yield f"{producer}: the call at {sent:.3f} got {entries[0]}, below {highest[before - 1]} before it"


def _disorder_of_consumers(story: Story, strikes: Strikes) -> Iterator[str]:
    """Find first deliveries that a consumer got in another order than that of their entries, with no fault to blame."""
    first: defaultdict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for name, runs in story.runs.items():
        for run in runs:
            if run.deliveries == 1:
                first[run.worker].append((run.handed, run.entry, name))
    for worker, handed in first.items():
        handed.sort(key=lambda each: each[0])
        top = (0, 0)
        for at, entry, name in handed:
            key = entry_key(entry)
            if key < top and not strikes.on(worker, at - AFTERMATH, at, CONFUSING):
                yield f"{worker} got {name} ({entry}) at {at:.3f} after {top}"
            top = max(top, key)


# --- duplicates


class Strikes:
    """Finds the faults that struck a process in some time."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._by_target: defaultdict[str, list[Fault]] = defaultdict(list)
        for fault in faults:
            for target in fault.targets:
                self._by_target[target].append(fault)

    def against(self, worker: str, start: float, end: float) -> list[Fault]:
        """Return the faults that struck this process in particular between two moments."""
        return [fault for fault in self._by_target[worker] if fault.began <= end and (fault.ended or OPEN) >= start]

    def on(self, worker: str, start: float, end: float, kinds: Iterable[str]) -> list[Fault]:
        """Return the faults of some kinds that struck this process, or everybody, between two moments."""
        return [
            fault
            for fault in (*self._by_target[worker], *self._by_target[EVERYBODY])
            if fault.kind in kinds and fault.began <= end and (fault.ended or OPEN) >= start
        ]


def _duplicates(story: Story, strikes: Strikes) -> Iterator[Duplicate]:
    for name, runs in story.runs.items():
        for before, after in pairwise(runs):
            if before.how == FAILED and before.ended <= after.handed:
                continue
            fault = _explanation(before, after, strikes, story.lease)
            yield Duplicate(
                name,
                before.worker,
                after.worker,
                after.handed,
                TAKEN_BACK if _is_taken_back(before, fault) else _state(before, after.handed),
                None if fault is None else fault.number,
                "" if fault is None else fault.kind,
            )


def _is_taken_back(before: Run, fault: Fault | None) -> bool:
    """Tell whether a run was finished while a failover was on: its ack went to a server that is no primary any more."""
    if fault is None or fault.kind not in FORGETTING or before.how != FINISHED:
        return False
    return fault.began - PREFETCHED <= before.ended <= (fault.ended or OPEN)


def _state(run: Run, at: float) -> str:
    """Say what had become of a run by some moment."""
    if run.handed > at:
        return "on its way"
    return run.how if run.ended <= at else "running"


def _explanation(before: Run, after: Run, strikes: Strikes, lease: float) -> Fault | None:
    """Return the fault that made an event run again: its process ended, or could not renew for too long."""
    # A failover that forgets an event's runs also forgets their count: the later run may have the lower one.
    first, last = sorted((before.handed, after.handed))
    ending = strikes.on(before.worker, first, last, (*ENDING, *FORGETTING))
    if ending:
        return ending[-1]
    start = min(before.handed, after.handed - lease) - PREFETCHED
    silencing = strikes.on(before.worker, start, after.handed, SILENCING)
    if _silence(silencing, start, after.handed) >= ENOUGH_SILENCE * lease:
        return max(silencing, key=lambda fault: _overlap(fault, start, after.handed))
    return None


def _silence(faults: Iterable[Fault], start: float, end: float) -> float:
    """Return for how long at least one of the faults lasted."""
    spans = sorted((max(fault.began, start), min(fault.ended or OPEN, end)) for fault in faults)
    total, reached = 0.0, start
    for began, until in spans:
        total += max(0.0, until - max(began, reached))
        reached = max(reached, until)
    return total


def _overlap(fault: Fault, start: float, end: float) -> float:
    return min(fault.ended or OPEN, end) - max(fault.began, start)


def _too_many_duplicates(story: Story, duplicates: Iterable[Duplicate]) -> Iterator[str]:
    # What a failover takes back was settled, not in hand: how much that is, depends on how long it lasts.
    in_hand = (each for each in duplicates if each.fault is not None and each.was != TAKEN_BACK)
    each = Counter((each.worker, each.fault) for each in in_hand)
    for (worker, fault), count in each.items():
        allowed = story.hands.get(worker.partition(".")[0], 0)
        if count > allowed:
            yield f"{count} events of {worker} ran again for fault {fault}, where it can have held {allowed}"


def _stolen(story: Story, strikes: Strikes) -> Iterator[str]:
    """Find entries that a consumer took from another: who claims what has expired is handed it, and that is counted."""
    for at, entry, owner, thief in story.thefts:
        if not strikes.on(EVERYBODY, at - AFTERMATH, at, FORGETTING):
            yield f"{entry} was held by {owner}, and at {at:.3f} by {thief}, without being handed out again"


def _lease_losses(story: Story, strikes: Strikes) -> Iterator[str]:
    for worker, at, name in story.lease_losses:
        struck = strikes.on(worker, at - story.lease - AFTERMATH, at, (*ENDING, *SILENCING))
        if not struck and not _finished_elsewhere(story.runs.get(name, []), worker, at):
            yield f"{worker} lost its lease on {name} at {at:.3f}, and no fault had struck it"


def _finished_elsewhere(runs: Iterable[Run], worker: str, at: float) -> bool:
    """Tell whether somebody else had finished an event by then: finished work needs no lease, and ends the others'."""
    return any(run.how == FINISHED and run.worker != worker and run.ended <= at for run in runs)


# --- recovery


def _recoveries(story: Story) -> Recoveries:
    """Measure recoveries where the server could be reached all the time."""
    kills = [fault for fault in story.faults if fault.kind in ("worker_kill", "poison") and fault.held]
    starts = _starts(story, {entry for fault in kills for entry in fault.held or []})
    holdings, strikes = _holdings(story.faults), Strikes(story.faults)
    result = Recoveries()
    for kill in kills:
        waits: list[float] = []
        for entry in kill.held or []:
            again = _next_run(kill, starts[entry])
            if again is None or _is_struck(kill, again, holdings[entry], strikes):
                result.unmeasured += 1
            else:
                alone = again.deliveries >= story.max_deliveries
                (result.alone if alone else waits).append(again.handed - kill.began)
        if waits and _is_away(story.faults, kill.began, kill.began + max(waits)):
            result.server_away += 1
        elif waits:
            result.kills[kill.number] = max(waits)
            result.events += waits
    return result


def late(kills: Mapping[str, float], limit: float) -> list[str]:
    """Return the kills after which recovery took too long, if it was too long for more than one in a hundred."""
    if percentile(kills.values(), 0.99) <= limit:
        return []
    return [f"after {which} it took {wait:.2f} s" for which, wait in kills.items() if wait > limit]


def _starts(story: Story, entries: set[str]) -> defaultdict[str, list[Run]]:
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for runs in story.runs.values():
        for run in runs:
            if run.entry in entries:
                found[run.entry].append(run)
    return found


def _holdings(faults: Iterable[Fault]) -> defaultdict[str, list[Fault]]:
    """Return by entry which faults found it in the hands of the process that they struck."""
    found: defaultdict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        for entry in {*(fault.held or []), *fault.held_later}:
            found[entry].append(fault)
    return found


def _next_run(kill: Fault, runs: list[Run]) -> Run | None:
    return min((run for run in runs if run.handed > kill.began), key=lambda run: run.handed, default=None)


def _is_struck(kill: Fault, again: Run, held_at: list[Fault], strikes: Strikes) -> bool:
    """Tell whether somebody who had claimed the event meanwhile was struck before it could hand it out."""
    for other in held_at:
        looks = [other.began] if again.entry in (other.held or []) else []
        looks += [other.ended or OPEN] if again.entry in other.held_later else []
        if any(kill.began < look < again.handed for look in looks):
            return True
    return bool(strikes.against(again.worker, kill.began, again.handed))


def _is_away(faults: Iterable[Fault], start: float, end: float) -> bool:
    return any(fault.kind in UNAVAILABLE and fault.began <= end and (fault.ended or OPEN) >= start for fault in faults)


# --- figures


def _kinds(story: Story) -> dict[str, tuple[int, int]]:
    """Count what was fired and what hit, by kind."""
    seen = Hits(story)
    fired: Counter[str] = Counter(fault.kind for fault in story.faults)
    hit: Counter[str] = Counter(fault.kind for fault in story.faults if seen.has_hit(fault))
    return {kind: (count, hit[kind]) for kind, count in sorted(fired.items())}


class Hits:
    """Decides which faults hit something."""

    def __init__(self, story: Story) -> None:
        self._calls: defaultdict[str, list[Call]] = defaultdict(list)
        for call in story.calls:
            self._calls[call.producer].append(call)

    def has_hit(self, fault: Fault) -> bool:
        """Tell whether a fault hit: by what was seen when it struck, or by an open call in a producer's journal."""
        if fault.hit is not None:
            return fault.hit
        if fault.held is not None:
            return bool(fault.held)
        return any(
            call.sent <= fault.began <= call.answered for target in fault.targets for call in self._calls[target]
        )


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)] if ordered else 0.0


def _figures(story: Story, verdict: Verdict, sent: set[str], acked: set[str], finished: set[str]) -> Counter[str]:
    runs = [run for each in story.runs.values() for run in each]
    return Counter(
        {
            "sent": len(sent),
            "acknowledged": len(acked),
            "finished": len(finished),
            "unknown outcome": len(sent - acked),
            "unknown outcome, processed": len((sent - acked) & finished),
            "dead letters": len(story.dead),
            "runs": len(runs),
            "runs that failed": sum(run.how == FAILED for run in runs),
            "runs that were cancelled": sum(run.how == CANCELLED for run in runs),
            "duplicates": len(verdict.duplicates),
            "duplicates that a failover took back": sum(each.was == TAKEN_BACK for each in verdict.duplicates),
            "events finished twice": sum(
                sum(run.how == FINISHED for run in each) > 1 for each in story.runs.values() if len(each) > 1
            ),
            "looks at the queue's size": len(story.samples),
        }
    )


def worst(violations: Mapping[str, list[str]], show: Callable[[str], None]) -> None:
    """Show the first few findings of each check."""
    for check_name, findings in violations.items():
        for finding in findings[:MOST_SHOWN]:
            show(f"{check_name}: {finding}")
        if len(findings) > MOST_SHOWN:
            show(f"{check_name}: … and {len(findings) - MOST_SHOWN} more")
