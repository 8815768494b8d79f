"""Exported events: what is written comes back byte for byte, what is not ours is refused, and a crash loses no line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.codec import Meta, encode_meta
from streams_queue.draining.errors import ElsewhereError, ExportError
from streams_queue.draining.events import DEAD_FIELDS, Event, State, delayed, frame, taken, unframe
from streams_queue.draining.file import ExportFile
from streams_queue.draining.lines import Header, Line, Trailer, event_line, header_line, read_line, trailer_line
from streams_queue.draining.progress import Progress
from streams_queue.errors import MessageError

QUEUE = "gitbridge:{events}"
anything = st.binary(max_size=30)
flat_fields = st.lists(anything, min_size=2, max_size=12).filter(lambda flat: len(flat) % 2 == 0)
usual_fields = st.tuples(anything, anything, anything).map(lambda v: [b"id", v[0], b"payload", v[1], b"meta", v[2]])
numbers = st.integers(0, 10**14).map(lambda number: b"%d" % number)
deaths = st.tuples(anything, anything, numbers | anything, numbers, numbers).map(
    lambda values: [part for pair in zip(DEAD_FIELDS, values, strict=True) for part in pair]
)
ids = st.from_regex(r"[0-9]{1,14}-[0-9]{1,4}", fullmatch=True)


def event(number: int) -> Event:
    """Return a waiting event that can be told from others."""
    return Event(State.WAITING, [b"id", b"%d" % number, b"payload", b"{}", b"meta", b'{"v":1}'], f"{number}-0")


# --- lines ---


@given(fields=flat_fields | usual_fields, entry_id=ids)
def test_a_waiting_event_comes_back_as_it_was(fields: list[bytes], entry_id: str) -> None:
    """Whatever its fields are, text or not."""
    line = read_line(event_line(7, Event(State.WAITING, fields, entry_id)))
    assert line == Line(7, Event(State.WAITING, fields, entry_id))


@given(fields=flat_fields | usual_fields, due_ms=st.integers(0, 10**14) | st.just(math.inf))
def test_a_delayed_event_comes_back_as_it_was(fields: list[bytes], due_ms: float) -> None:
    """To the millisecond, and also one that is never due."""
    line = read_line(event_line(7, delayed(frame(b"p", fields), due_ms)))
    assert line == Line(7, Event(State.DELAYED, fields, due_ms=due_ms))


@given(member=anything.filter(lambda member: unframe(member) is None))
def test_a_member_that_no_release_wrote_comes_back_as_it_was(member: bytes) -> None:
    """It is kept whole."""
    assert read_line(event_line(1, delayed(member, 5))) == Line(1, Event(State.DELAYED, (), member=member, due_ms=5))


@given(fields=flat_fields | usual_fields, death=deaths | st.just([]), dead_id=ids)
def test_a_dead_letter_comes_back_as_it_was(fields: list[bytes], death: list[bytes], dead_id: str) -> None:
    """With the reason, the counts and the times that it has, also where somebody else wrote them."""
    assert read_line(event_line(1, Event(State.DEAD, fields + death, dead_id))) == Line(
        1, Event(State.DEAD, fields + death, dead_id)
    )


def test_a_line_is_for_readers_too() -> None:
    """Payload, ids, deliveries, headers and times stand there under their names."""
    meta = encode_meta(Meta(deliveries=2, headers={"a": "b"}))
    fields = [b"id", b"E1", b"payload", '{"t":"é"}'.encode(), b"meta", meta]
    assert json.loads(event_line(3, Event(State.WAITING, fields, "1500-7"))) == {
        "n": 3,
        "state": "waiting",
        "entry_id": "1500-7",
        "enqueued_at": 1.5,
        "event_id": "E1",
        "deliveries": 2,
        "headers": {"a": "b"},
        "meta": meta.decode(),
        "payload": '{"t":"é"}',
    }


def test_a_line_may_be_written_by_hand() -> None:
    """Meta is made from deliveries and headers then."""
    text = b'{"n":1,"state":"waiting","event_id":"a","payload":"{}","deliveries":2,"headers":{"x":"y"}}'
    line = read_line(text)
    assert isinstance(line, Line)
    assert line.event.fields == [b"id", b"a", b"payload", b"{}", b"meta", b'{"v":1,"d":2,"h":{"x":"y"}}']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"{broken", "not a JSON object"),
        (b"\xff{}", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"{}", "n must be"),
        (b'{"n":0}', "n must be"),
        (b'{"n":true}', "n must be"),
        (b'{"n":1,"state":"eaten"}', "state must be"),
        (b'{"n":1,"state":["waiting"]}', "state must be"),
        (b'{"n":1,"state":"waiting","payload":"{}"}', "event_id is missing"),
        (b'{"n":1,"state":"waiting","event_id":"a"}', "payload is missing"),
        (b'{"n":1,"state":"waiting","event_id":"a","payload":{"secret":1}}', "payload must be a string"),
        (b'{"n":1,"state":"waiting","event_id":"a","payload":{"base64":"?"}}', "payload is not base64"),
        (b'{"n":1,"state":"waiting","event_id":"a","payload":"\\ud800"}', "not a JSON object"),
        (b'{"n":1,"state":"waiting","event_id":"a","payload":"{}","entry_id":"now"}', "entry_id must be"),
        (b'{"n":1,"state":"waiting","event_id":"a","payload":"{}","deliveries":-1}', "deliveries must be"),
        (b'{"n":1,"state":"waiting","event_id":"a","payload":"{}","headers":[1]}', "headers"),
        (b'{"n":1,"state":"delayed","event_id":"a","payload":"{}","due_at":"soon"}', "due_at must be"),
        (b'{"n":1,"state":"delayed","event_id":"a","payload":"{}","due_at":-1}', "due_at must be"),
        (b'{"n":1,"state":"waiting","fields":["a"]}', "fields must be"),
        (b'{"streams_queue_events":2}', "another version"),
        (b'{"streams_queue_events":1,"export_id":"../x","queue":"q"}', "no export_id"),
        (b'{"end":true,"waiting":1}', "delayed must be"),
    ],
)
def test_what_is_no_such_line_is_refused(text: bytes, said: str) -> None:
    """The error names what is wrong, and holds nothing of the payload."""
    with pytest.raises(MessageError, match=said) as raised:
        read_line(text)
    assert "secret" not in str(raised.value)


def test_header_and_trailer_come_back() -> None:
    """As they were."""
    counts = {"waiting": 3, "delayed": 1, "dead": 0}
    assert read_line(header_line(Header("abc", QUEUE))) == Header("abc", QUEUE)
    assert read_line(trailer_line(counts)) == Trailer(counts)
    assert Trailer(counts).events == 4


@pytest.mark.parametrize(
    ("meta", "count", "written"),
    [
        (b'{"v":1}', 1, b'{"v":1}'),
        (b'{"v":1}', 3, b'{"v":1,"d":2}'),
        (b'{"v":1,"d":4,"x":[]}', 2, b'{"v":1,"d":5,"x":[]}'),
        (b'{"v":9}', 3, b'{"v":9}'),
        (b"broken", 3, b"broken"),
    ],
)
def test_the_run_of_a_crashed_worker_counts_and_the_drain_does_not(meta: bytes, count: int, written: bytes) -> None:
    """As with an event that is given back."""
    assert taken("1-0", count, [b"id", b"a", b"payload", b"{}", b"meta", meta]).fields[5] == written


# --- which ones are in ---


@given(st.lists(st.lists(st.integers(1, 40), max_size=8), max_size=8))
def test_progress_knows_exactly_what_was_added(pages: list[list[int]]) -> None:
    """In any order, through its text."""
    progress, added = Progress(), set()
    for page in pages:
        progress = Progress.read(str(progress.adding(page)))
        added |= set(page)
    assert {number for number in range(50) if number and progress.has(number)} == added


def test_progress_of_a_whole_file_is_one_number() -> None:
    """However long it is."""
    assert str(Progress().adding(range(1, 1000)).adding(range(1000, 2001))) == "2000"


def test_progress_does_not_grow_without_bound() -> None:
    """A file of which every other line is broken is to be mended first."""
    with pytest.raises(ExportError, match="mend the file"):
        Progress().adding(range(2, 30_000, 2))
    with pytest.raises(ExportError, match="cannot be read"):
        Progress.read("5 x")


# --- the file ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "events.jsonl"


def numbers_in(path: Path) -> list[int]:
    """Return which events a file has."""
    lines = [read_line(text) for text in path.read_bytes().splitlines(keepends=True)]
    return [line.event.added_ms for line in lines if isinstance(line, Line)]


def test_a_file_begins_with_a_header_and_ends_with_a_trailer(path: Path) -> None:
    """The trailer counts by state."""
    file = ExportFile(path, QUEUE)
    file.append([event(1), event(2)])
    file.finish()
    file.close()
    first, *_, last = path.read_bytes().splitlines()
    assert (read_line(first), read_line(last)) == (Header(file.export_id, QUEUE), Trailer(file.counts))
    assert file.counts == {"waiting": 2, "delayed": 0, "dead": 0}
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_is_gone_on_with(path: Path) -> None:
    """A line that was cut off is taken away; those that are taken back do not leave their numbers to others."""
    file = ExportFile(path, QUEUE)
    file.append([event(1), event(2), event(3)])
    file.close()
    with path.open("ab") as broken:
        broken.write(b'{"n":4,"state":"wai')

    again = ExportFile(path, QUEUE)
    assert (again.export_id, again.events, again.is_complete) == (file.export_id, 3, False)
    again.keep(2)
    again.append([event(4)])
    again.finish()
    again.close()

    assert numbers_in(path) == [1, 2, 4]
    lines = [json.loads(text) for text in path.read_bytes().splitlines()]
    assert lines[3]["n"] > 4
    assert lines[-1]["events"] == 3


def test_a_complete_file_is_gone_on_with(path: Path) -> None:
    """Its trailer gives way."""
    for number in (1, 2):
        file = ExportFile(path, QUEUE)
        assert file.is_complete == (number == 2)
        file.keep(file.events)
        file.append([event(number)])
        file.finish()
        file.close()
    assert numbers_in(path) == [1, 2]
    assert path.read_bytes().count(b'"end"') == 1


@pytest.mark.parametrize("size", [0, 1, 20, 60])
def test_a_header_that_was_cut_off_is_written_anew(size: int, path: Path) -> None:
    """There was no event yet."""
    path.write_bytes(header_line(Header("0123456789abcdef", QUEUE))[:size])
    file = ExportFile(path, QUEUE)
    file.append([event(1)])
    file.close()
    assert numbers_in(path) == [1]


def test_other_files_are_left_alone(path: Path) -> None:
    """Neither a foreign file is written to, nor one of another queue, nor one that somebody else writes."""
    path.write_text("my thesis")
    with pytest.raises(ExportError, match="not empty"):
        ExportFile(path, QUEUE)
    assert path.read_text() == "my thesis"

    path.unlink()
    file = ExportFile(path, QUEUE)
    with pytest.raises(ElsewhereError, match="another drain"):
        ExportFile(path, QUEUE)
    file.close()
    with pytest.raises(ExportError, match="of the queue"):
        ExportFile(path, "other:{events}")


def test_a_broken_line_in_the_middle_is_not_written_over(path: Path) -> None:
    """Somebody edited the file: nothing is guessed."""
    file = ExportFile(path, QUEUE)
    file.append([event(1)])
    file.close()
    with path.open("ab") as broken:
        broken.write(b"???\n")
    with pytest.raises(ExportError, match="line 3: not a JSON object"):
        ExportFile(path, QUEUE)
