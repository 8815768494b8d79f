"""The files of a spool: who may have them, what is in them, and in which order it comes out."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams_queue.errors import SpoolError
from streams_queue.messages import Receipt, ReceiptStatus
from streams_queue.redis_queue.producer import Batch, NewEvent
from streams_queue.resilient_queue.spool_directory import Arrival, Holdings, SpoolDirectory
from streams_queue.resilient_queue.spool_file import InUseError, SpoolFile
from tests.support.processes import CHECKOUT


def new(number: int, *, event_id: str | None = None, size: int = 10, delay: float = 0.0) -> NewEvent:
    """Return an event that carries its number."""
    return NewEvent(event_id or f"made-{number}", b"%d" % number + b" " * size, b"{}", delay, event_id is not None)


def held(directory: SpoolDirectory, *events: NewEvent) -> list[ReceiptStatus]:
    """Put events into a directory; return what became of them."""
    (outcome,) = directory.write([Arrival(events)])
    assert not isinstance(outcome, SpoolError)
    return [receipt.status for receipt in outcome]


def numbers(events: list[NewEvent]) -> list[int]:
    """Return the numbers that events carry."""
    return [int(event.payload) for event in events]


def drained(directory: SpoolDirectory) -> list[int]:
    """Let everything go, as if Redis took it; return the numbers in order."""
    found: list[int] = []
    while (batch := directory.next_batch()) is not None:
        found += numbers(batch.events)
        directory.settle(batch, batch.rows)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the spool is."""
    return tmp_path / "spool"


@pytest.fixture
def open_spool(path: Path) -> Iterator[object]:
    """Open the directory as another process would, `open_spool(max_size=3)`."""
    opened: list[SpoolDirectory] = []

    def make(max_size: int = 10_000, queue: str = "q") -> SpoolDirectory:
        opened.append(SpoolDirectory(path, queue, Holdings(max_size)))
        return opened[-1]

    yield make
    for directory in opened:
        directory.close()


def left(path: Path, *events: NewEvent, queue: str = "q") -> Path:
    """Leave events in a file, as a process that is killed does; return the file."""
    directory = SpoolDirectory(path, queue, Holdings(10_000))
    held(directory, *events)
    assert directory._own is not None
    file = directory._own.path
    directory._files.pop().close()
    return file


def test_nobody_else_can_read_what_is_held(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """Payloads are private: the directory, the database and its log."""
    held(open_spool(), new(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    modes = {file.suffix: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    assert modes == {".spool": 0o600, ".spool-wal": 0o600}


def test_a_commit_is_synced_and_the_file_is_ours_alone(open_spool: type[SpoolDirectory]) -> None:
    """What no killed process can show: only a machine that loses its power would."""
    directory = open_spool()
    directory.look()
    assert directory._own is not None
    told = {
        name: directory._own._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "fullfsync", "journal_mode", "locking_mode")
    }
    assert told == {"synchronous": 2, "fullfsync": 1, "journal_mode": "wal", "locking_mode": "exclusive"}


def test_what_is_on_disk_needs_no_orderly_end(path: Path) -> None:
    """A process that ends without closing anything leaves what it had written."""
    program = (
        "import os, pathlib; from tests.unit.test_spool_files import *\n"
        f"directory = SpoolDirectory(pathlib.Path({str(path)!r}), 'q', Holdings(10))\n"
        "held(directory, new(1), new(2)); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    directory = SpoolDirectory(path, "q", Holdings(10))
    directory.look()
    assert drained(directory) == [1, 2]
    directory.close()
    assert list(path.iterdir()) == []


def test_a_file_has_one_owner(path: Path) -> None:
    """Of many that reach for it at once at most one gets it, and whoever is turned away may try again."""
    for _ in range(20):
        file = left(path, new(1))
        winners: list[SpoolFile] = []
        start, tried, over = threading.Barrier(4), threading.Barrier(5), threading.Event()

        def reach(
            file: Path = file,
            winners: list[SpoolFile] = winners,
            start: threading.Barrier = start,
            tried: threading.Barrier = tried,
            over: threading.Event = over,
        ) -> None:
            start.wait()
            won = None
            with contextlib.suppress(InUseError):
                won = SpoolFile.adopt(file)
            if won is not None:
                winners.append(won)
            tried.wait()
            over.wait()
            if won is not None:
                won.close()

        threads = [threading.Thread(target=reach) for _ in range(4)]
        for thread in threads:
            thread.start()
        tried.wait()
        assert len(winners) <= 1
        if winners:
            with pytest.raises(InUseError):
                SpoolFile.adopt(file)
        over.set()
        for thread in threads:
            thread.join()
        again = SpoolFile.adopt(file)
        assert again is not None
        again.close()


def test_adopted_events_go_before_our_own_and_the_oldest_first(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """However many processes followed each other."""
    left(path, new(1))
    second = open_spool()
    second.look()
    held(second, new(2))
    for file in second._files:
        file.close()
    second._files.clear()
    third = open_spool()
    third.look(first=True)
    held(third, new(3))
    assert drained(third) == [1, 2, 3]


def test_an_adopted_file_goes_when_it_is_empty_and_our_own_when_we_close(
    path: Path, open_spool: type[SpoolDirectory]
) -> None:
    """Nothing is left behind of either."""
    left(path, new(1))
    directory = open_spool()
    directory.look()
    held(directory, new(2))
    assert drained(directory) == [1, 2]
    assert len(list(path.glob("*.spool"))) == 1
    directory.close()
    assert list(path.iterdir()) == []


def test_a_file_that_was_never_begun_is_cleared_away(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """Its process was killed between making it and writing to it."""
    path.mkdir()
    (path / "q+0123.spool").touch()
    open_spool().look()
    assert not (path / "q+0123.spool").exists()


def test_a_file_of_a_newer_release_is_left_alone(
    path: Path, open_spool: type[SpoolDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once."""
    file = left(path, new(1))
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    directory = open_spool()
    directory.look()
    directory.look()
    assert drained(directory) == []
    assert file.exists()
    assert caplog.text.count("a newer release made it") == 1


def test_files_of_other_queues_are_not_ours(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """Not even if a name begins with ours."""
    left(path, new(1), queue="n+q2")
    left(path, new(2), queue="nn+q")
    directory = open_spool(queue="n+q")
    directory.look()
    assert drained(directory) == []


def test_a_batch_is_the_same_until_its_reply_came(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """Under the same producer and sequence, whoever asks; what had no room goes again under the next one."""
    file = left(path, new(1), new(2), new(3))
    first = open_spool()
    first.look()
    batch = first.next_batch()
    assert batch is not None
    assert first.next_batch() == batch
    next(each for each in first._files if each.path == file).close()
    first._files = [each for each in first._files if each.path != file]
    second = open_spool()
    second.look()
    again = second.next_batch()
    assert again == batch
    held(second, new(4))
    second.settle(again, again.rows[:1])
    rest = second.next_batch()
    assert rest is not None
    assert (rest.producer_id, rest.sequence) == (batch.producer_id, batch.sequence + 1)
    assert numbers(rest.events) == [2, 3]
    second.settle(rest, rest.rows)
    assert drained(second) == [4]


def test_a_batch_of_unknown_fate_goes_first_as_it_is(open_spool: type[SpoolDirectory]) -> None:
    """With its own producer and sequence, before what was held already."""
    directory = open_spool()
    held(directory, new(1))
    unknown = Batch("somebody", 7, None, [new(2), new(3)], 100, maybe_written=True)
    (outcome,) = directory.write([Arrival(unknown.events, unknown)])
    assert [receipt.held for receipt in outcome] == [True, True]  # type: ignore[union-attr]
    batch = directory.next_batch()
    assert batch is not None
    assert (batch.producer_id, batch.sequence, numbers(batch.events)) == ("somebody", 7, [2, 3])
    directory.settle(batch, batch.rows)
    assert drained(directory) == [1]


def test_a_batch_that_nobody_can_tell_of_goes_again_under_a_new_name(open_spool: type[SpoolDirectory]) -> None:
    """Its events stay in line."""
    directory = open_spool()
    held(directory, new(1))
    batch = directory.next_batch()
    assert batch is not None
    directory.forget(batch)
    again = directory.next_batch()
    assert again is not None
    assert again.producer_id != batch.producer_id
    assert numbers(again.events) == [1]


def test_the_bound_covers_adopted_files_and_is_exact_within_a_group(
    path: Path, open_spool: type[SpoolDirectory]
) -> None:
    """A batch of unknown fate is taken whole or not at all."""
    left(path, new(1), new(2))
    directory = open_spool(max_size=5)
    directory.look()
    unknown = Batch("somebody", 1, None, [new(n) for n in range(4)], 100)
    outcomes = directory.write([Arrival([new(3)]), Arrival(unknown.events, unknown), Arrival([new(4), new(5), new(6)])])
    words = [[receipt.status.value for receipt in outcome] for outcome in outcomes]  # type: ignore[union-attr]
    assert words == [["accepted"], ["full"] * 4, ["accepted", "accepted", "full"]]
    assert directory.held == directory._holdings.held == 5
    assert drained(directory) == [1, 2, 3, 4, 5]
    assert held(directory, new(7)) == [ReceiptStatus.ACCEPTED]


def test_ids_are_known_in_all_files(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """Only those that callers gave."""
    left(path, new(1, event_id="one"))
    directory = open_spool()
    directory.look()
    assert held(directory, new(2, event_id="one"), new(3, event_id="two"), new(4, event_id="two")) == [
        ReceiptStatus.DUPLICATE,
        ReceiptStatus.ACCEPTED,
        ReceiptStatus.DUPLICATE,
    ]


def test_a_delay_goes_on_while_nobody_looks(
    path: Path, open_spool: type[SpoolDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it is left; one that is over is over."""
    left(path, new(1, delay=100), new(2, delay=10))
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        later = database.execute("SELECT unixepoch()").fetchone()[0] + 40
    monkeypatch.setattr("streams_queue.resilient_queue.spool_file.time.time", lambda: later)
    directory = open_spool()
    directory.look()
    batch = directory.next_batch()
    assert batch is not None
    assert 58 < batch.events[0].delay < 61
    assert batch.events[1].delay == 0


def test_batches_are_bounded_in_number_and_size(open_spool: type[SpoolDirectory]) -> None:
    """An event larger than a batch goes alone."""
    directory = open_spool()
    held(directory, *(new(n) for n in range(1200)), *(new(n, size=600_000) for n in range(3)), new(9, size=2_000_000))
    sizes = []
    while (batch := directory.next_batch()) is not None:
        sizes.append(len(batch.events))
        directory.settle(batch, batch.rows)
    assert sizes == [500, 500, 201, 1, 1, 1]


def test_one_event_that_cannot_be_written_does_not_drag_its_neighbours_along(
    open_spool: type[SpoolDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that fails is tried again one by one; nothing of the failed one is left."""
    directory = open_spool()
    directory.look()
    assert directory._own is not None
    # SQLite itself refuses to let the file grow, as it does on a full disk.
    (pages,) = directory._own._db.execute("PRAGMA page_count").fetchone()
    directory._own._db.execute(f"PRAGMA max_page_count = {pages + 20}")
    outcomes = directory.write([Arrival([new(1)]), Arrival([new(2), new(3, size=1_000_000)]), Arrival([new(4)])])
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [list, SpoolError, list]
    assert "database or disk is full (SQLITE_FULL)" in str(outcomes[1])
    assert directory.held == 2
    assert drained(directory) == [1, 4]


def test_a_file_that_turns_out_to_be_corrupt_is_set_aside(
    path: Path, open_spool: type[SpoolDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    """What is in other files goes on; so does what comes in."""
    damaged = left(path, *(new(n, size=2000) for n in range(100)))
    left(path, new(200))
    content = bytearray(damaged.read_bytes())
    content[4096 * 4 :] = os.urandom(len(content) - 4096 * 4)
    damaged.write_bytes(content)
    directory = open_spool()
    directory.look()
    held(directory, new(300))
    assert drained(directory)[-2:] == [200, 300]
    assert f"{damaged} cannot be read" in caplog.text
    assert not damaged.exists()
    assert damaged.with_name(damaged.name + ".corrupt").exists()


def test_room_is_given_back_when_everything_has_gone(path: Path, open_spool: type[SpoolDirectory]) -> None:
    """After a long outage the directory is small again."""
    directory = open_spool()
    held(directory, *(new(n, size=10_000) for n in range(1000)))
    directory.tidy()
    assert sum(file.stat().st_size for file in path.iterdir()) > 10_000_000
    drained(directory)
    directory.tidy()
    assert sum(file.stat().st_size for file in path.iterdir()) < 100_000


def test_an_orderly_end_with_events_leaves_one_file(
    path: Path, open_spool: type[SpoolDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    """Log and database are one again, and the next one says that it has adopted it."""
    directory = open_spool()
    held(directory, new(1))
    directory.close()
    (file,) = path.iterdir()
    with caplog.at_level(logging.WARNING):
        following = open_spool()
        following.look()
    assert f"Adopted {file} of a process that has ended: 1 events" in caplog.text
    assert drained(following) == [1]


def test_receipts_carry_the_ids(open_spool: type[SpoolDirectory]) -> None:
    """Given or made; an event on disk has no entry yet."""
    (outcome,) = open_spool().write([Arrival([new(1, event_id="one"), new(2)])])
    assert outcome == [Receipt(ReceiptStatus.ACCEPTED, "one"), Receipt(ReceiptStatus.ACCEPTED, "made-2")]
