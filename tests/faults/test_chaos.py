"""The checker of the chaos harness finds each kind of violation in made-up journals, and nothing in sound ones."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from streams_queue.messages import Receipt, ReceiptStatus
from tests.chaos.checker import Verdict, check, late
from tests.chaos.faults import EVERYBODY, Fault
from tests.chaos.producer import word_for
from tests.chaos.report import Part, Report, Targets, as_json, shortfalls, to_text
from tests.chaos.story import Story

PRODUCER = """
s 1.0 1 p.0 0,1 plain
a 1.1 1 1000-0,1000-1
s 1.2 2 p.0 2 plain
e 1.9 2 BackendTimeout
s 2.0 3 p.0 2 plain
a 2.1 3 D
s 2.2 4 p.0 3 later
a 2.3 4 L
"""
WORKER = """
h 1.2 p.0-0 1000-0 1
b 1.2 p.0-0 1000-0
f 1.3 p.0-0 1000-0
h 1.4 p.0-1 1000-1 1
b 1.4 p.0-1 1000-1
x 1.5 p.0-1 1000-1 FailureError
h 2.0 p.0-2 1200-0 1
b 2.0 p.0-2 1200-0
f 2.1 p.0-2 1200-0
h 2.6 p.0-1 1300-0 2
b 2.6 p.0-1 1300-0
f 2.7 p.0-1 1300-0
h 3.0 p.0-3 1400-0 1
b 3.0 p.0-3 1400-0
f 3.1 p.0-3 1400-0
"""


def told(
    producer: str = PRODUCER, worker: str = WORKER, *, others: dict[str, str] | None = None, **more: object
) -> Story:
    """Make the story of one producer and one worker, and of other processes whose journals are given."""
    story = Story(lease=2.0, max_size=100, hands={"w": 10, "v": 10}, **more)  # type: ignore[arg-type]
    for name, journal in {"p.0": producer, "w.0": worker, **(others or {})}.items():
        story.add(name, (line.split() for line in journal.strip().splitlines()))
    story.sort()
    return story


def found(story: Story) -> dict[str, int]:
    """Return how much each check has found, if anything."""
    return found_by(check(story))


def found_by(verdict: Verdict) -> dict[str, int]:
    """Return the same of a verdict."""
    return {name: len(findings) for name, findings in verdict.violations.items() if findings}


def without(journal: str, *lines: str) -> str:
    """Return a journal without the lines that begin so."""
    return "\n".join(line for line in journal.splitlines() if not line.startswith(lines))


def test_a_sound_story_has_no_violations() -> None:
    """A retry after a failure, a second call after an unknown outcome, and a delayed event are as they should be."""
    verdict = check(told())
    assert verdict.passed
    assert (verdict.figures["acknowledged"], verdict.figures["finished"], verdict.figures["duplicates"]) == (4, 4, 0)


def test_an_acknowledged_event_that_nobody_finished_is_lost() -> None:
    """Whether it was handed out or not; one that was only sent may have come to nothing."""
    assert found(told(worker=without(WORKER, "f 1.3"))) == {"lost": 1}
    assert found(told(worker=without(WORKER, "h 3.0", "b 3.0", "f 3.1"))) == {"lost": 1}
    assert found(told(without(PRODUCER, "a 2.3"), without(WORKER, "h 3.0", "b 3.0", "f 3.1"))) == {}


def test_a_dead_letter_with_its_reason_accounts_for_an_event() -> None:
    """Once, and with a reason."""
    worker = without(WORKER, "f 1.3")
    assert found(told(worker=worker, dead=[("p.0-0", "max_retries")])) == {}
    assert found(told(worker=worker, dead=[("p.0-0", "")])) == {"dead letters": 1}
    assert found(told(worker=worker, dead=[("p.0-0", "crashed")] * 2)) == {"dead letters": 1}


def test_an_event_that_is_still_in_the_queue_is_not_lost_but_wrong() -> None:
    """The queue had all the time to drain."""
    assert found(told(worker=without(WORKER, "f 1.3"), left=["p.0-0"])) == {"left in the queue": 1}


def test_what_nobody_sent_is_a_ghost() -> None:
    """As a run, and as a dead letter."""
    assert found(told(worker=WORKER + "h 4.0 p.0-9 1500-0 1\nf 4.1 p.0-9 1500-0")) == {"ghosts": 1}
    assert found(told(dead=[("p.7-1", "crashed")])) == {"ghosts": 1}


def test_an_event_that_two_calls_added_is_found() -> None:
    """An event id makes them one."""
    again = "s 3.0 5 p.0 0,1 again\na 3.1 5 1500-0,D"
    assert found(told(PRODUCER + again)) == {"accepted twice": 1}


@pytest.mark.parametrize(("entries", "delayed", "most_held"), [(90, 11, 0), (101, 0, 0), (0, 0, 101)])
def test_more_than_max_size_is_found(entries: int, delayed: int, most_held: int) -> None:
    """In a look at the queue, or in the reply to an enqueue; exactly as many are allowed."""
    assert found(told(samples=[(1.0, entries, delayed, 0)], most_held=most_held)) == {"max_size": 1}
    assert found(told(samples=[(1.0, 90, 10, 500)], most_held=100)) == {}


def test_entries_out_of_the_order_of_acknowledgement_are_found() -> None:
    """Within a call, and between a call and those that were answered before it was made; calls at once may cross."""
    assert found(told("s 1.0 1 p.0 0,1,2,3 plain\na 1.1 1 1000-1,1000-0,1200-0,1300-0")) == {
        "order of acknowledgement": 1
    }
    first = "s 1.0 1 p.0 0,1 plain\na 1.1 1 1200-0,1200-1\n"
    assert found(told(first + "s 1.2 2 p.0 2,3 plain\na 1.3 2 1100-0,1200-2")) == {"order of acknowledgement": 1}
    assert found(told(first + "s 1.05 2 p.0 2,3 plain\na 1.3 2 1100-0,1200-2")) == {}


def test_first_deliveries_out_of_order_are_found_unless_a_fault_has_delayed_them() -> None:
    """A reply that was lost comes late; a reclaimed event was never first."""
    late = WORKER.replace("p.0-3 1400-0", "p.0-3 1100-0")
    assert found(told(worker=late)) == {"order of delivery": 1}
    lost_reply = Fault(0, "swallowed_read_reply", ["w.0"], began=1.9, ended=1.95, hit=True)
    assert found(told(worker=late, faults=[lost_reply])) == {}
    assert found(told(worker=late.replace("1100-0 1", "1100-0 2"))) == {}


def test_an_entry_that_was_stolen_is_found_unless_a_failover_may_have_forgotten_a_claim() -> None:
    """A replica may not have heard of the delivery in between."""
    thefts = [(4.0, "1000-0", "host-1-a", "host-2-b")]
    assert found(told(thefts=thefts)) == {"stolen": 1}
    failover = Fault(0, "primary_kill", [EVERYBODY], began=3.0, ended=3.5, hit=True)
    assert found(told(thefts=thefts, faults=[failover])) == {}


AGAIN = {"v.0": "h 5.0 p.0-0 1000-0 2\nb 5.0 p.0-0 1000-0\nf 5.1 p.0-0 1000-0"}


def test_a_duplicate_needs_a_fault_that_explains_it() -> None:
    """One that struck the worker that had it in hand, and could cost it the lease."""
    assert found(told(others=AGAIN)) == {"unexplained duplicates": 1}
    for fault in (
        Fault(0, "worker_kill", ["v.0"], began=2.0, ended=3.0, held=["1000-0"]),  # somebody else
        Fault(0, "worker_kill", ["w.0"], began=5.5, ended=6.0, held=["1000-0"]),  # too late
        Fault(0, "worker_stop", ["w.0"], began=4.0, ended=4.55, held=["1000-0"]),  # too short
        Fault(0, "memory_squeeze", [EVERYBODY], began=2.0, ended=5.0, hit=True),  # harmless
    ):
        assert "unexplained duplicates" in found(told(others=AGAIN, faults=[fault])), fault


@pytest.mark.parametrize(
    "fault",
    [
        Fault(7, "worker_kill", ["w.0"], began=2.0, ended=3.0, held=["1000-0"]),
        Fault(7, "worker_stop", ["w.0"], began=2.0, ended=4.5, held=["1000-0"]),
        Fault(7, "network_cut", ["w.0"], began=4.0, ended=4.65, hit=True),
        Fault(7, "server_stop", [EVERYBODY], began=2.0, ended=4.0, hit=True),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_duplicate_is_listed_with_its_fault(fault: Fault) -> None:
    """Who had it, who ran it again, and why."""
    verdict = check(told(others=AGAIN, faults=[fault]))
    assert verdict.passed
    (duplicate,) = verdict.duplicates
    assert (duplicate.event, duplicate.worker, duplicate.again) == ("p.0-0", "w.0", "v.0")
    assert (duplicate.was, duplicate.fault, duplicate.kind) == ("finished", 7, fault.kind)


def test_a_stopped_process_may_begin_late_what_others_have_finished() -> None:
    """The server's count says who had it first, although the stopped one hands it out last."""
    late = {"v.0": "h 6.0 p.0-0 1000-0 1\nb 6.0 p.0-0 1000-0\nf 6.0 p.0-0 1000-0"}
    worker = WORKER.replace("h 1.2 p.0-0 1000-0 1", "h 4.9 p.0-0 1000-0 2").replace("1.3 p.0-0", "5.0 p.0-0")
    stop = Fault(3, "worker_stop", ["v.0"], began=2.0, ended=5.9, held=["1000-0"])
    verdict = check(told(worker=worker, others=late, faults=[stop]))
    assert [(each.worker, each.was, each.fault) for each in verdict.duplicates] == [("v.0", "on its way", 3)]
    assert "unexplained duplicates" in found(told(worker=worker, others=late))


def test_a_failover_may_forget_the_runs_of_an_event_and_their_count() -> None:
    """What was enqueued, failed and finished on the old primary alone is sent again, and counted from one again."""
    again = "h 4.9 p.0-0 4800-0 1\nb 4.9 p.0-0 4800-0\nf 5.0 p.0-0 4800-0"
    worker = WORKER.replace("f 1.3 p.0-0 1000-0", "x 1.3 p.0-0 1000-0 FailureError") + again
    others = {"v.0": "h 1.4 p.0-0 1000-9 2\nb 1.4 p.0-0 1000-9\nf 1.5 p.0-0 1000-9"}
    failover = Fault(4, "sentinel_failover", [EVERYBODY], began=2.5, ended=4.5, hit=True)
    verdict = check(told(worker=worker, others=others, faults=[failover]))
    assert verdict.passed, verdict.violations
    assert [each.fault for each in verdict.duplicates] == [4]
    assert "unexplained duplicates" in found(told(worker=worker, others=others))


@pytest.mark.parametrize(
    ("receipt", "delayed", "word"),
    [
        (Receipt(ReceiptStatus.ACCEPTED, "e", "1-0"), False, "1-0"),
        (Receipt(ReceiptStatus.ACCEPTED, "e"), True, "L"),
        (Receipt(ReceiptStatus.ACCEPTED, "e"), False, "H"),
        (Receipt(ReceiptStatus.DUPLICATE, "e"), False, "D"),
        (Receipt(ReceiptStatus.FULL, "e"), False, "F"),
    ],
)
def test_what_a_fallback_holds_is_no_entry_yet(receipt: Receipt, delayed: bool, word: str) -> None:
    """So it does not count as accepted twice, where Redis has the event already: that shows when it moves back."""
    assert word_for(receipt, delayed=delayed) == word


def test_more_duplicates_than_a_worker_can_hold_are_found() -> None:
    """Each may be explained, all of them are not."""
    numbers = range(11)
    producer = f"s 1.0 1 p.0 {','.join(map(str, numbers))} plain\na 1.1 1 {','.join(f'1000-{n}' for n in numbers)}"
    first = "\n".join(f"h {1.2 + n / 100} p.0-{n} 1000-{n} 1" for n in numbers)
    again = "\n".join(f"h 4.5 p.0-{n} 1000-{n} 2\nf 4.6 p.0-{n} 1000-{n}" for n in numbers)
    kill = Fault(0, "worker_kill", ["w.0"], began=2.0, ended=3.0, held=[f"1000-{n}" for n in numbers])
    assert found(told(producer, first, others={"v.0": again}, faults=[kill])) == {"too many duplicates of one fault": 1}


def test_what_a_failover_takes_back_was_settled_and_not_in_hand() -> None:
    """Acks that reached only the old primary: bounded by what was finished meanwhile, not by what fits into hands."""
    numbers = range(12)
    producer = f"s 1.0 1 p.0 {','.join(map(str, numbers))} plain\na 1.1 1 {','.join(f'1000-{n}' for n in numbers)}"
    first = "\n".join(f"h {1.2 + n / 100} p.0-{n} 1000-{n} 1\nf {2 + n / 10} p.0-{n} 1000-{n}" for n in numbers)
    again = "\n".join(f"h {5.0 + n / 100} p.0-{n} 1000-{n} 2\nf 6.0 p.0-{n} 1000-{n}" for n in numbers)

    def judged(ended: float) -> Verdict:
        failover = Fault(4, "sentinel_failover", [EVERYBODY], began=1.9, ended=ended, hit=True)
        return check(told(producer, first, others={"v.0": again}, faults=[failover]))

    assert judged(4.0).passed
    assert judged(4.0).figures["duplicates that a failover took back"] == 12
    assert found_by(judged(1.95)) == {"too many duplicates of one fault": 1}


def test_a_lease_that_is_lost_without_a_fault_is_found() -> None:
    """A renewal that steals shows here first."""
    lost = WORKER + "l 3.2 p.0-3 1400-0"
    assert found(told(worker=lost)) == {"leases lost without a fault": 1}
    assert found(told(worker=lost, faults=[Fault(0, "worker_stop", ["w.0"], began=1.0, ended=3.1, held=[])])) == {}


def test_a_lease_that_ended_because_somebody_else_had_finished_is_as_it_should_be() -> None:
    """A stopped worker may go on and finish what was claimed meanwhile: the claim ends with that."""
    claimed = (
        without(WORKER, "h 3.0", "b 3.0", "f 3.1")
        + "\nh 9.0 p.0-3 1400-0 2\nx 9.4 p.0-3 1400-0 FailureError\nl 9.5 p.0-3 1400-0"
    )
    stopped = Fault(0, "worker_stop", ["v.0"], began=3.1, ended=9.1, held=["1400-0"])
    begun = "h 3.0 p.0-3 1400-0 1\nb 3.0 p.0-3 1400-0\n"
    assert found(told(worker=claimed, others={"v.0": begun + "f 9.2 p.0-3 1400-0"}, faults=[stopped])) == {}
    late = begun + "f 9.6 p.0-3 1400-0"
    assert found(told(worker=claimed, others={"v.0": late}, faults=[stopped])) == {"leases lost without a fault": 1}


def test_draining_that_stops_for_want_of_memory_is_found() -> None:
    """If there was something to drain."""
    squeeze = Fault(0, "memory_squeeze", [EVERYBODY], began=3.2, ended=5.0, hit=True)
    assert found(told(faults=[squeeze], samples=[(3.25, 7, 0, 0)])) == {"draining without memory": 1}
    assert found(told(faults=[squeeze], samples=[(3.25, 0, 7, 0)])) == {}
    squeeze.began = 3.0
    assert found(told(faults=[squeeze], samples=[(3.05, 7, 0, 0)])) == {}


def test_what_the_queue_itself_reports_as_lost_is_found() -> None:
    """On this server nothing may be deleted behind the group's back."""
    assert found(told(worker=WORKER + "q 3.2 3 deleted")) == {"losses that the queue reports": 1}


def test_a_process_that_ends_by_itself_is_found() -> None:
    """Nothing in the storm is meant to end a process but the nemesis and poison."""
    assert found(told(accidents=["w.0 ended by itself"])) == {"accidents": 1}


# --- recovery

KILLED = Fault(0, "worker_kill", ["w.0"], began=2.0, ended=3.0, held=["1000-0"])


def recovered(wait: float, *faults: Fault, deliveries: int = 2) -> Verdict:
    """Tell of a worker that is killed at 2.0, and of another that gets its event so much later, and takes its time."""
    again = f"h {2 + wait} p.0-0 1000-0 {deliveries}\nb 9.0 p.0-0 1000-0\nf 9.0 p.0-0 1000-0"
    worker = without(WORKER, "f 1.3")
    return check(told(worker=worker, others={"v.0": again}, faults=[KILLED, *faults]))


def test_recovery_is_measured_from_the_kill_until_somebody_else_is_handed_the_event() -> None:
    """All that the killed worker held; when its new holder comes to it, is not the queue's doing."""
    assert recovered(2.5).recoveries.kills == {0: pytest.approx(2.5)}


def test_recovery_is_late_if_it_is_so_more_than_once_in_a_hundred_times() -> None:
    """A lease and a second are in time."""
    assert late({"a": 3.0, "b": 2.0}, 3.0) == []
    assert late({"a": 3.1, "b": 2.0}, 3.0) == ["after a it took 3.10 s"]
    assert late({str(number): 2.0 for number in range(99)} | {"once": 9.0}, 3.0) == []
    assert late({}, 3.0) == []


def struck(kind: str, targets: Iterable[str], held: list[str] | None = None) -> Fault:
    """Make a fault that strikes between the kill and the recovery."""
    return Fault(1, kind, list(targets), began=2.5, ended=4.0, held=held, hit=True)


@pytest.mark.parametrize(
    ("fault", "server_away", "unmeasured"),
    [
        (struck("server_kill", [EVERYBODY]), 1, 0),
        (struck("network_cut", ["v.0"]), 0, 1),
        (struck("worker_kill", ["u.0"], ["1000-0"]), 0, 1),
    ],
    ids=["server away", "next holder cut off", "next holder killed"],
)
def test_recovery_is_measured_only_where_nothing_stood_in_its_way(
    fault: Fault, server_away: int, unmeasured: int
) -> None:
    """It is said how often that was so."""
    recoveries = recovered(3.5, fault).recoveries
    assert 0 not in recoveries.kills
    assert (recoveries.server_away, recoveries.unmeasured) == (server_away, unmeasured)


def test_a_last_run_is_made_alone_and_measured_apart() -> None:
    """Suspects run one after the other."""
    recoveries = recovered(3.5, deliveries=4).recoveries
    assert (recoveries.kills, recoveries.alone) == ({}, [pytest.approx(3.5)])


# --- the report


def test_the_report_adds_arenas_up_and_says_what_was_missed() -> None:
    """All that machines read is JSON; a run that misses a target has not passed, though nothing is wrong."""
    stop = Fault(0, "worker_stop", ["w.0"], began=2.0, ended=4.5, held=["1000-0"])
    stories = {"single": told(others=AGAIN, faults=[stop]), "sentinel": told(left=["p.0-0"])}
    report = Report("17", {}, [Part(name, story, check(story)) for name, story in stories.items()], seconds=1.0)

    stored = json.loads(to_text(as_json(report)))

    assert (stored["seed"], stored["passed"], stored["figures"]["acknowledged"]) == ("17", False, 8)
    assert stored["faults_by_kind"] == {"worker_stop": {"fired": 1, "hit": 1}}
    assert stored["violations"]["left in the queue"] == ["sentinel: p.0-0 was still in the queue at the end"]
    assert stored["arenas"]["single"]["duplicates"] == [["p.0-0", "w.0", "v.0", 4.0, "finished", 0, "worker_stop"]]
    assert shortfalls(report, Targets(events=8, hits=1, kinds=1)) == []
    assert len(shortfalls(report, Targets(events=9, hits=2, kinds=2))) == 3


# --- what hit


def test_a_fault_counts_when_it_hit_something() -> None:
    """Events held by the struck worker, or a call of the struck producer that was open."""
    faults = [
        Fault(0, "worker_stop", ["w.0"], began=1.0, ended=1.1, held=[]),
        Fault(1, "worker_stop", ["w.0"], began=1.25, ended=1.3, held=["1000-0"]),
        Fault(2, "producer_stop", ["p.0"], began=1.05, ended=1.1),
        Fault(3, "producer_stop", ["p.0"], began=1.15, ended=1.16),
        Fault(4, "late_request", ["p.0"], began=1.15, ended=1.16, hit=True),
    ]
    assert check(told(faults=faults)).kinds == {"late_request": (1, 1), "producer_stop": (2, 1), "worker_stop": (2, 1)}
