"""Journals and the count that is made of them: what is lost must never depend on what the queue says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.demo.journal import (
    ACCEPTED,
    BEGUN,
    FINISHED,
    READY,
    Journal,
    JournalReader,
    Record,
    to_line,
)
from streams_queue.demo.ledger import Ledger

ids = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=12)
records = st.one_of(
    st.builds(Record, st.just(ACCEPTED), ids),
    st.builds(Record, st.just(FINISHED), ids),
    st.builds(Record, st.just(BEGUN), ids, st.integers(1, 99)),
    st.just(Record(READY)),
)
FEW_IDS = [f"e{n}" for n in range(5)]
few = st.sampled_from(FEW_IDS)


def ledger_of(*found: Record) -> Ledger:
    """Return a ledger with these records in it."""
    ledger = Ledger()
    ledger.add(found)
    return ledger


def test_a_journal_is_read_while_it_grows(tmp_path: Path) -> None:
    """A reader gets each record once, also when the file does not exist yet."""
    reader = JournalReader(tmp_path / "a.journal")
    assert reader.new_records() == []
    journal = Journal(tmp_path / "a.journal")
    journal.write(Record(READY), Record(ACCEPTED, "a"))
    assert reader.new_records() == [Record(READY), Record(ACCEPTED, "a")]
    journal.write(Record(BEGUN, "a", 2))
    assert reader.new_records() == [Record(BEGUN, "a", 2)]
    assert reader.new_records() == []
    journal.close()


@given(written=st.lists(records, max_size=20), data=st.data())
def test_a_torn_last_line_is_not_counted_and_nothing_else_is_missed(
    tmp_path_factory: pytest.TempPathFactory, written: list[Record], data: st.DataObject
) -> None:
    """Cut anywhere, a journal gives exactly its complete lines; the rest follows once it is there."""
    path = tmp_path_factory.mktemp("journal") / "a.journal"
    lines = [to_line(record).encode() for record in written]
    text = b"".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    path.write_bytes(text[:cut])
    reader = JournalReader(path)
    complete = next(n for n in range(len(lines), -1, -1) if len(b"".join(lines[:n])) <= cut)
    assert reader.new_records() == written[:complete]
    path.write_bytes(text)
    assert reader.new_records() == written[complete:]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_sigkill_takes_nothing_back(tmp_path: Path) -> None:
    """What was written before SIGKILL is in the file, without any flush of the process's own."""
    path = tmp_path / "a.journal"
    script = (
        "import os, sys; from pathlib import Path; from streams_queue.demo.journal import *\n"
        "j = Journal(Path(sys.argv[1])); j.write(Record(BEGUN, 'a', 1)); os.kill(os.getpid(), 9)"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": root}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert JournalReader(path).new_records() == [Record(BEGUN, "a", 1)]


def test_what_was_accepted_and_never_finished_is_lost() -> None:
    """Begun is not finished, and refused is not lost."""
    ledger = ledger_of(
        Record(ACCEPTED, "done"),
        Record(ACCEPTED, "begun"),
        Record(ACCEPTED, "forgotten"),
        Record(ACCEPTED, "buried"),
        Record(BEGUN, "begun", 1),
        Record(BEGUN, "done", 1),
        Record(FINISHED, "done"),
        Record(FINISHED, "unconfirmed"),
    )
    assert ledger.lost({"buried"}) == {"begun", "forgotten"}
    assert ledger.held == {"begun"}


def test_what_was_begun_twice_or_handed_out_twice_was_redelivered() -> None:
    """Either sign is enough: the second beginning, or the queue's own count."""
    ledger = ledger_of(
        Record(BEGUN, "once", 1),
        Record(BEGUN, "twice", 1),
        Record(BEGUN, "twice", 1),
        Record(BEGUN, "counted", 2),
        Record(FINISHED, "twice"),
        Record(FINISHED, "twice"),
    )
    assert ledger.redelivered == {"twice", "counted"}
    assert ledger.repeated == 1


@given(
    accepted=st.sets(few),
    finished=st.lists(few),
    dead=st.sets(few),
    begun=st.lists(st.tuples(few, st.integers(1, 3))),
    data=st.data(),
)
def test_the_count_does_not_depend_on_the_order_of_the_journals(
    accepted: set[str], finished: list[str], dead: set[str], begun: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Journals may be read in any order: the sets are what set algebra says."""
    made = [Record(ACCEPTED, event) for event in accepted] + [Record(FINISHED, event) for event in finished]
    made += [Record(BEGUN, event, deliveries) for event, deliveries in begun]
    ledger = ledger_of(*data.draw(st.permutations(made)))
    started = [event for event, _ in begun]
    assert ledger.lost(dead) == {event for event in FEW_IDS if event in accepted and event not in {*finished, *dead}}
    assert ledger.redelivered == {event for event, times in begun if times > 1 or started.count(event) > 1}
    assert ledger.held == {event for event in FEW_IDS if started.count(event) > finished.count(event)}
