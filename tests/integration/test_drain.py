"""`drain` and `import` on a real server: what is taken, what is left, and that everything comes back as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from streams_queue import RedisEventQueue
from streams_queue.draining import Stock, ToFile
from streams_queue.draining.drain import Moved
from streams_queue.draining.events import Event
from tests.conftest import StartServer
from tests.support.commanded import CommandedQueue
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration

PAYLOADS: list[dict[str, Any]] = [
    {},
    {"text": 'é\u2028\u0000😀\\"\n', "列": ["", {}, []]},
    {"int": 10**60, "negative": -(2**63), "float": 0.1, "tiny": 5e-324, "large": 1.7976931348623157e308, "zero": -0.0},
    {"nothing": None, "yes": True, "empty": [], "nested": {"a": {"b": [{}]}}},
    {"big": "x" * 1_000_000},
]


MakeStored = Callable[..., CommandedQueue]


@pytest.fixture
def make_stored(redis_url: str, tmp_path: Path) -> MakeStored:
    """Make queues on the shared server."""
    return lambda **queue: CommandedQueue(redis_url, tmp_path, **queue)


@pytest.fixture
def stored(make_stored: MakeStored) -> CommandedQueue:
    """A queue with short times."""
    return make_stored(lease=0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file for events."""
    return tmp_path / "events.jsonl"


def filled(stored: CommandedQueue) -> CommandedQueue:
    """Put events of every state into a queue, also such as nobody of ours writes."""
    stored.put(*PAYLOADS, headers={"traceparent": "00-é"})
    stored.put({"n": 1}, {"n": 2}, event_ids=["E1", "ü/2"])
    stored.raw.xadd(stored.keys.stream, {"id": "x", "payload": b"\xff\x00", "meta": '{"v":1,"d":2}'})
    stored.raw.xadd(stored.keys.stream, {"foreign": "yes", "payload": "not ours"})
    stored.put({"later": 2}, delay=3600, event_ids=["D2"])
    stored.put({"later": 1}, delay=1800)
    return stored


# --- into a file and back ---


@pytest.mark.parametrize("compression", [{"type": "none"}, {"type": "zstd", "min_bytes": 64}], ids=["plain", "zstd"])
def test_everything_comes_back_as_it_was(compression: dict[str, Any], make_stored: MakeStored, path: Path) -> None:
    """Fields byte for byte, in order; entry ids and so the times, due times, dead letters whole."""
    stored = make_stored(compression=compression)
    stored.bury({"bad": 1}, {"bad": 2})
    before = (filled(stored).waiting(), stored.delayed(), stored.dead())

    report = stored.json("drain", "--to", "jsonl", str(path), "--dead")
    assert report["drained"] == {"waiting": 9, "delayed": 2, "dead": 2}
    assert report["left"] == {"waiting": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    assert (report["adds_up"], report["empty"]) == (True, True)
    assert (stored.waiting(), stored.delayed(), stored.dead()) == ([], [], [])
    assert not stored.raw.exists(f"{stored.keys.stream}:drains")
    assert stored.raw.xinfo_consumers(stored.keys.stream, stored.keys.group) == []

    other = make_stored()
    done = other.json("import", str(path))
    assert done == {"waiting": 9, "delayed": 2, "dead": 2, "already": 0, "bad": 0, "not_accepted": 0}
    assert (other.waiting(), other.delayed(), other.dead()) == before


def test_on_the_same_queue_the_entries_get_new_ids(stored: CommandedQueue, path: Path) -> None:
    """A stream never goes back; everything else comes back as it was, in order."""
    before = filled(stored).waiting()
    stored.json("drain", "--to", "jsonl", str(path))
    stored.json("import", str(path))
    assert [fields for _, fields in stored.waiting()] == [fields for _, fields in before]
    assert [delivery.payload for delivery in stored.on_queue(lambda queue: queue.receive(5))] == PAYLOADS


def test_a_file_goes_in_once(stored: CommandedQueue, path: Path) -> None:
    """Also when its events have been processed meanwhile."""
    stored.put(*({"n": n} for n in range(700)))
    stored.json("drain", "--to", "jsonl", str(path))
    assert stored.json("import", str(path))["waiting"] == 700

    async def work(queue: RedisEventQueue) -> None:
        await queue.ack(*await queue.receive(300))

    stored.on_queue(work)
    left = stored.raw.xlen(stored.keys.stream)
    again = stored.json("import", str(path))
    assert (again["waiting"], again["already"]) == (0, 700)
    assert stored.raw.xlen(stored.keys.stream) == left < 700


def test_a_file_can_be_gone_on_with_after_its_import(stored: CommandedQueue, path: Path) -> None:
    """What is drained into it then is new, what was in it is not."""
    stored.put({"n": 1}, {"n": 2})
    stored.json("drain", "--to", "jsonl", str(path))
    stored.json("import", str(path))
    stored.put({"n": 3})
    assert stored.json("drain", "--to", "jsonl", str(path))["drained"]["waiting"] == 3
    done = stored.json("import", str(path))
    assert (done["waiting"], done["already"]) == (3, 2)
    assert [json.loads(fields[b"payload"])["n"] for _, fields in stored.waiting()] == [1, 2, 3]


def test_bad_lines_are_named_and_can_be_mended(stored: CommandedQueue, path: Path) -> None:
    """The others go in; when the line is mended it alone does, and once."""
    stored.put(*({"n": n} for n in range(5)))
    stored.json("drain", "--to", "jsonl", str(path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"n":3,"state":\n', *lines[4:]]))

    done = stored.run("import", str(path))
    assert (done.exit_code, done.stdout) == (1, "4 waiting, 0 delayed, 0 dead, 0 already, 1 bad, 0 not accepted\n")
    assert done.stderr == "streams-queue: line 4: not a JSON object\n"

    path.write_bytes(b"".join(lines))
    assert stored.json("import", str(path)) | {"already": 4} == stored.json("import", str(path)) | {
        "already": 4,
        "waiting": 1,
    }
    assert sorted(json.loads(fields[b"payload"])["n"] for _, fields in stored.waiting()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda lines: lines[:-1], "ends without its trailer"),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], "ends without its trailer"),
        (lambda lines: [*lines[:2], *lines[3:]], "has 4 lines of events, and its trailer says 5"),
        (lambda lines: lines[1:], "line 1: not the header"),
        (lambda lines: lines * 2, "line 8: a second header"),
        (lambda lines: [], "line 1: not the header"),
    ],
    ids=["no-trailer", "cut-trailer", "line-missing", "no-header", "two-files", "empty"],
)
def test_a_file_that_is_not_whole_is_noticed(
    cut: Callable[[list[bytes]], list[bytes]], said: str, stored: CommandedQueue, path: Path
) -> None:
    """Before anything is put in."""
    stored.put(*({"n": n} for n in range(5)))
    stored.json("drain", "--to", "jsonl", str(path))
    path.write_bytes(b"".join(cut(path.read_bytes().splitlines(keepends=True))))

    done = stored.run("import", str(path))
    assert done.exit_code == 2
    assert said in done.stderr
    assert stored.waiting() == []


def test_an_incomplete_file_goes_in_where_that_is_wanted(stored: CommandedQueue, path: Path) -> None:
    """What is there."""
    stored.put(*({"n": n} for n in range(5)))
    stored.json("drain", "--to", "jsonl", str(path))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert stored.json("import", str(path), "--incomplete")["waiting"] == 3


def test_a_full_queue_takes_what_it_has_room_for(make_stored: MakeStored, path: Path) -> None:
    """The rest is said not to be in, and goes in later; nothing is dropped for it."""
    stored = make_stored(lease=0.5)
    stored.put(*({"n": n} for n in range(10)))
    stored.json("drain", "--to", "jsonl", str(path))
    small = make_stored(max_size=4, overflow="drop_oldest", timeout=1)

    done = small.run("import", str(path), "--wait", "0.2")
    assert (done.exit_code, done.stdout) == (1, "4 waiting, 0 delayed, 0 dead, 0 already, 0 bad, 6 not accepted\n")
    assert "the queue is full: 6 events are not in" in done.stderr
    assert [json.loads(fields[b"payload"])["n"] for _, fields in small.waiting()] == [0, 1, 2, 3]

    threading.Timer(0.3, small.raw.xtrim, (small.keys.stream,), {"maxlen": 0}).start()
    assert small.json("import", str(path), "--wait", "0.6", exit_code=1)["waiting"] == 4


def test_full_dead_letters_take_what_they_have_room_for(make_stored: MakeStored, path: Path) -> None:
    """Also where the oldest would have to go for a new one: an import drops nothing."""
    stored = make_stored(lease=0.5)
    stored.bury(*({"n": n} for n in range(3)))
    stored.json("drain", "--to", "jsonl", str(path), "--dead")
    small = make_stored(dead_letter={"max_size": 2, "when_full": "drop"})
    done = small.run("import", str(path), "--wait", "0")
    assert done.exit_code == 1
    assert "the dead letters are full: 1 events are not in" in done.stderr
    assert len(small.dead()) == 2


def test_a_second_import_at_the_same_time_is_noticed(
    stored: CommandedQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two ends with an error; each event is in once."""
    stored.put(*({"n": n} for n in range(700)))
    stored.json("drain", "--to", "jsonl", str(path))
    imported, others = Stock.imported, [lambda: stored.json("import", str(path))]

    async def imported_and_overtaken(self: Stock, export: str) -> str:
        known = await imported(self, export)
        if others:
            await asyncio.to_thread(others.pop())
        return known

    monkeypatch.setattr(Stock, "imported", imported_and_overtaken)
    done = stored.run("import", str(path))
    assert (done.exit_code, "another import of the same file" in done.stderr) == (1, True)
    assert len(stored.waiting()) == 700


def test_a_drain_beside_another_one_adds_up(
    stored: CommandedQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other one took is settled, as far as this one is concerned."""
    stored.put(*({"n": n} for n in range(700)))
    append, others = ToFile.take_over, [lambda: stored.json("drain", "--to", "list", stored.list, "--wait", "0")]

    async def overtaken(self: ToFile, page: Sequence[Event]) -> Moved:
        moved = await append(self, page)
        if others:
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(others.pop())
        return moved

    monkeypatch.setattr(ToFile, "take_over", overtaken)
    report = stored.json("drain", "--to", "jsonl", str(path))
    assert (report["drained"]["waiting"], report["settled"], report["adds_up"]) == (500, 200, True)
    assert stored.raw.llen(stored.list) == 200


def test_a_paused_intake_does_not_mind_an_import(stored: CommandedQueue, path: Path) -> None:
    """It refuses new events; these are not."""
    stored.put({"n": 1})
    assert stored.json("drain", "--to", "jsonl", str(path), "--pause")["paused"] == "intake"
    assert stored.on_queue(lambda queue: queue.enqueue({"n": 2})) is False
    assert stored.json("import", str(path))["waiting"] == 1


def test_a_foreign_file_is_not_written_to(stored: CommandedQueue, path: Path) -> None:
    """Exit code 2, and nothing has happened."""
    stored.put({"n": 1})
    path.write_text("my thesis\n")
    assert stored.run("drain", "--to", "jsonl", str(path)).exit_code == 2
    assert path.read_text() == "my thesis\n"
    assert len(stored.waiting()) == 1


def test_a_full_disk_takes_nothing_from_the_queue(stored: CommandedQueue) -> None:
    """The error names the file."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    stored.put({"n": 1})
    done = stored.run("drain", "--to", "jsonl", "/dev/full")
    assert done.exit_code == 1
    assert "/dev/full cannot be written: No space left on device" in done.stderr
    assert len(stored.waiting()) == 1


# --- onto a list ---


def test_the_plans_consumer_gets_the_oldest_first(stored: CommandedQueue) -> None:
    """Waiting events in order, then delayed ones by due time, then dead letters; payloads byte for byte."""
    stored.bury({"bad": 1})
    stored.put(*PAYLOADS)
    written = [fields[b"payload"] for _, fields in stored.waiting()]
    stored.put({"later": 2}, delay=3600)
    stored.put({"later": 1}, delay=1800)

    report = stored.json("drain", "--to", "list", stored.list, "--dead")
    assert report["drained"] == {"waiting": 5, "delayed": 2, "dead": 1}
    assert report["adds_up"]
    taken = []
    while (
        payload := stored.raw.brpoplpush(stored.list, f"{stored.list}:processing", timeout=1)
        if stored.raw.llen(stored.list)
        else None
    ):
        taken.append(payload)
    assert taken == [*written, b'{"later":1}', b'{"later":2}', b'{"bad":1}']
    assert [json.loads(payload) for payload in taken[:5]] == PAYLOADS
    assert not stored.raw.exists(f"{stored.keys.stream}:drains")


def test_a_list_comes_back_in_order_and_byte_for_byte(stored: CommandedQueue) -> None:
    """Stream, list, stream: as far as a list can hold an event, which is its payload."""
    stored.put(*PAYLOADS, *({"n": number} for number in range(1200)))
    written = [fields[b"payload"] for _, fields in stored.waiting()]
    assert stored.json("drain", "--to", "list", stored.list)["adds_up"]
    assert stored.waiting() == []

    report = stored.json("migrate", "--list", stored.list, "--processing-list", f"{stored.list}:processing")

    assert report["adds_up"]
    assert [fields[b"payload"] for _, fields in stored.waiting()] == written
    assert not stored.raw.exists(stored.list)


def test_compressed_payloads_are_expanded_for_a_list(make_stored: MakeStored) -> None:
    """The plan's consumer reads JSON; it gets the bytes that a queue without compression would have stored."""
    packed, plain = make_stored(compression={"type": "zstd", "min_bytes": 64}), make_stored()
    packed.put(*PAYLOADS)
    packed.put(PAYLOADS[4], delay=60)
    plain.put(*PAYLOADS)
    packed.json("drain", "--to", "list", packed.list)
    expected = [fields[b"payload"] for _, fields in plain.waiting()]
    assert packed.payloads() == [*expected, expected[4]]


def test_what_cannot_be_read_is_not_put_on_a_list(stored: CommandedQueue) -> None:
    """A waiting event becomes a dead letter, as with a worker; what is delayed or dead already stays."""
    stored.put({"n": 1})
    stored.raw.xadd(stored.keys.stream, {"id": "x", "payload": b"\xff", "meta": '{"v":1}'})
    stored.put({"n": 2})
    stored.raw.zadd(stored.keys.delayed, {b"not ours": 9e15})

    report = stored.json("drain", "--to", "list", stored.list, "--dead", "--wait", "0", exit_code=1)
    assert report["left"] == {"waiting": 0, "in_flight": 0, "delayed": 1, "dead": 1}
    assert report["adds_up"]
    assert stored.payloads() == [b'{"n":1}', b'{"n":2}']
    assert stored.dead()[0][1][b"reason"] == b"undecodable"


def test_an_event_of_a_newer_release_is_left_to_one(stored: CommandedQueue) -> None:
    """Put back for a while, and said to be left."""
    stored.raw.xadd(stored.keys.stream, {"id": "x", "payload": b"{}", "meta": '{"v":99}'})
    stored.put({"n": 2})
    report = stored.json("drain", "--to", "list", stored.list, "--wait", "0", exit_code=1)
    assert (report["left"]["delayed"], report["adds_up"]) == (1, True)
    assert stored.payloads() == [b'{"n":2}']


def test_a_key_that_is_no_list_is_refused(stored: CommandedQueue) -> None:
    """Nothing is taken; the event is handed out again."""
    stored.put({"n": 1})
    stored.raw.set(stored.list, "a string")
    done = stored.run("drain", "--to", "list", stored.list)
    assert done.exit_code == 3
    assert "holds a string, not a list" in done.stderr
    assert stored.run("drain", "--to", "list", stored.keys.dead).exit_code == 2
    stored.raw.delete(stored.list)
    assert stored.json("drain", "--to", "list", stored.list)["drained"]["waiting"] == 1


def test_a_full_server_can_be_drained_onto_a_list(start_server: StartServer, tmp_path: Path) -> None:
    """Over maxmemory, where new events are refused: what is added to the list leaves the stream."""
    server = start_server()
    stored = CommandedQueue(server.url, tmp_path, lease=0.5)
    stored.put(*({"n": n, "text": "x" * 1000} for n in range(1200)))
    stored.raw.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.ResponseError):
        stored.raw.set("a", "b")
    report = stored.json("drain", "--to", "list", stored.list)
    assert (report["drained"]["waiting"], report["adds_up"], stored.raw.llen(stored.list)) == (1200, True, 1200)


# --- what others hold ---


class Holder:
    """A worker in another thread, with its own event loop, that holds events until it is told to settle them."""

    def __init__(self, stored: CommandedQueue, count: int) -> None:
        self.held = threading.Event()
        self.go = threading.Event()
        self._thread = threading.Thread(target=lambda: stored.on_queue(lambda queue: self._hold(queue, count)))
        self._thread.start()
        assert self.held.wait(10)

    async def _hold(self, queue: RedisEventQueue, count: int) -> None:
        deliveries = []
        while len(deliveries) < count:
            deliveries += await queue.receive(count - len(deliveries), timeout=5)
        self.held.set()
        await asyncio.to_thread(self.go.wait, 20)
        await queue.ack(*deliveries[: count // 2])
        await queue.release(*deliveries[count // 2 :])

    def end(self) -> None:
        """Let it settle half and give half back."""
        self.go.set()
        self._thread.join(10)


@pytest.fixture
def hold(stored: CommandedQueue) -> Iterator[Callable[[int], Holder]]:
    """Let a worker hold events."""
    holders: list[Holder] = []

    def make(count: int) -> Holder:
        holders.append(Holder(stored, count))
        return holders[-1]

    yield make
    for holder in holders:
        holder.end()


def test_what_a_worker_holds_is_waited_for(stored: CommandedQueue, path: Path, hold: Callable[[int], Holder]) -> None:
    """What it settles is settled, what it gives back is taken, with the deliveries that it had."""
    stored.put(*({"n": n} for n in range(6)))
    holder = hold(4)
    threading.Timer(0.5, holder.go.set).start()
    report = stored.json("drain", "--to", "jsonl", str(path), "--wait", "10")
    assert (report["drained"]["waiting"], report["settled"], report["left"]["in_flight"]) == (4, 2, 0)
    assert report["adds_up"]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:-1]]
    assert [(json.loads(line["payload"])["n"], line["deliveries"]) for line in lines] == [
        (4, 0),
        (5, 0),
        (2, 0),
        (3, 0),
    ]


def test_what_a_worker_does_not_give_back_is_said_to_be_left(
    stored: CommandedQueue, path: Path, hold: Callable[[int], Holder]
) -> None:
    """After the time to wait; a second run takes what has come back since, into the same file."""
    stored.put(*({"n": n} for n in range(6)))
    holder = hold(4)
    done = stored.run("drain", "--to", "jsonl", str(path), "--wait", "0.3")
    assert done.exit_code == 1
    assert "4 events are still with workers" in done.stderr
    holder.end()
    report = stored.json("drain", "--to", "jsonl", str(path), "--wait", "10")
    assert (report["drained"]["waiting"], report["empty"]) == (2, True)
    assert json.loads(path.read_bytes().splitlines()[-1])["events"] == 4


def test_what_a_dead_worker_held_is_taken(stored: CommandedQueue, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its lease is over, as by any worker; the run that it did not finish counts."""
    stored.put({"n": 1}, {"n": 2})
    group, stream = stored.keys.group, stored.keys.stream
    stored.raw.xreadgroup(group, "dead-worker", {stream: ">"}, count=1)
    report = stored.json("drain", "--to", "jsonl", str(path), "--wait", "10")
    assert (report["drained"]["waiting"], report["left"]["in_flight"], report["adds_up"]) == (2, 0, True)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:-1]]
    assert [(json.loads(line["payload"])["n"], line["deliveries"]) for line in lines] == [(2, 0), (1, 1)]


def test_producers_may_go_on(stored: CommandedQueue, path: Path) -> None:
    """The drain ends and says that it did not come to an end; nothing is lost, nothing is there twice."""
    accepted: list[int] = []
    stop = threading.Event()

    async def produce(queue: RedisEventQueue) -> None:
        while not stop.is_set():
            number = len(accepted)
            assert await queue.enqueue({"n": number})
            accepted.append(number)

    thread = threading.Thread(target=lambda: stored.on_queue(produce))
    thread.start()
    try:
        wait_until_sync(lambda: len(accepted) > 100)
        begun = time.monotonic()
        first = stored.run("drain", "--to", "jsonl", str(path), "--wait", "0.3", "--json")
        assert time.monotonic() - begun < 10
    finally:
        stop.set()
        thread.join(10)
    report = json.loads(first.stdout)
    assert report["adds_up"]
    assert first.exit_code == (0 if report["empty"] else 1)
    assert stored.json("drain", "--to", "jsonl", str(path))["empty"]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:-1]]
    assert [json.loads(line["payload"])["n"] for line in lines] == accepted


def test_a_pause_stays_and_adds_to_what_is_paused(stored: CommandedQueue, path: Path) -> None:
    """Intake, delivery, or both."""
    stored.put({"n": 1})
    stored.on_queue(lambda queue: queue.pause(intake=False, delivery=True))
    assert stored.json("drain", "--to", "jsonl", str(path), "--pause")["paused"] == "intake,delivery"
    stored.on_queue(lambda queue: queue.resume())
    assert stored.json("drain", "--to", "jsonl", str(path), "--pause-delivery")["paused"] == "delivery"


def test_a_dry_run_changes_nothing(stored: CommandedQueue, path: Path) -> None:
    """Not even where there is no queue yet."""
    assert stored.json("drain", "--to", "jsonl", str(path), "--dry-run") == {
        "would_drain": {"waiting": 0, "in_flight": 0, "delayed": 0}
    }
    assert stored.names() == set()
    filled(stored)
    before = (stored.waiting(), stored.delayed())
    assert stored.json("drain", "--to", "list", stored.list, "--dry-run", "--dead", "--pause")["would_drain"] == {
        "waiting": 9,
        "in_flight": 0,
        "delayed": 2,
        "dead": 0,
    }
    assert (stored.waiting(), stored.delayed(), path.exists()) == (*before, False)


# --- through a handler ---

HANDLER = """
import json, pathlib
from streams_queue import Reject, RetryLater

async def handle(event):
    with pathlib.Path("journal").open("a") as journal:
        journal.write(json.dumps(event) + "\\n")
    if event.get("bad"):
        raise Reject("no")
    if event.get("later"):
        raise RetryLater(600)
"""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be in a folder with a module of a handler, and return the module's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"handlers_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(HANDLER)
    return name


def journal() -> list[dict[str, Any]]:
    """Return what the handler was given."""
    return [json.loads(line) for line in Path("journal").read_text().splitlines()]


def test_a_handler_works_everything_off(stored: CommandedQueue, in_folder: str) -> None:
    """What waits, and what is delayed at once and in its order; then the command ends by itself."""
    stored.put(*({"n": n} for n in range(50)))
    stored.put({"n": 51}, delay=7200)
    stored.put({"n": 50}, delay=3600)
    done = stored.json("drain", "--to", "asyncio-handler", f"{in_folder}:handle", "--concurrency", "1")
    assert (done["processed"], done["empty"]) == (52, True)
    assert [event["n"] for event in journal()] == list(range(52))


def test_what_a_handler_does_not_want_is_left(stored: CommandedQueue, in_folder: str) -> None:
    """Dead letters, and what it postponed: exit code 1. With --dead the dead letters get another run."""
    stored.put({"n": 1}, {"n": 2, "bad": True}, {"n": 3, "later": True})
    arguments = ("drain", "--to", "asyncio-handler", f"{in_folder}:handle", "--wait", "0.5")
    done = stored.json(*arguments, exit_code=1)
    assert (done["processed"], done["died"], done["empty"]) == (1, 1, False)
    assert done["left"] == {"waiting": 0, "in_flight": 0, "delayed": 1, "dead": 1}
    done = stored.json(*arguments, "--dead", exit_code=1)
    assert (done["rejected"], done["died"], done["left"]["dead"]) == (1, 1, 1)


def test_more_dead_letters_than_the_queue_has_room_for_all_get_another_run(
    make_stored: MakeStored, in_folder: str
) -> None:
    """Each once: those that die of it again are not given a third one."""
    stored = make_stored(lease=0.5, max_size=10)
    arguments = ("drain", "--to", "asyncio-handler", f"{in_folder}:handle", "--wait", "0.5")
    for begin in (0, 10, 20):
        stored.put(*({"n": begin + n, "bad": True} for n in range(10)))
        assert stored.json(*arguments, exit_code=1)["died"] == 10
    done = stored.json(*arguments, "--dead", exit_code=1)
    assert (done["rejected"], done["died"], done["left"]["dead"]) == (30, 30, 30)
    assert sorted(event["n"] for event in journal()) == sorted([*range(30)] * 2)


def test_producers_may_go_on_while_a_handler_works(stored: CommandedQueue, in_folder: str) -> None:
    """The command ends all the same; whatever was accepted was handled, or is left."""
    accepted: list[int] = []
    stop = threading.Event()

    async def produce(queue: RedisEventQueue) -> None:
        while not stop.is_set():
            if await queue.enqueue({"n": len(accepted)}):
                accepted.append(len(accepted))

    thread = threading.Thread(target=lambda: stored.on_queue(produce))
    thread.start()
    arguments = ("drain", "--to", "asyncio-handler", f"{in_folder}:handle", "--wait", "0.5")
    try:
        wait_until_sync(lambda: len(accepted) > 100)
        assert stored.run(*arguments).exit_code in {0, 1}
    finally:
        stop.set()
        thread.join(10)
    assert stored.json(*arguments)["empty"]
    assert sorted(event["n"] for event in journal()) == accepted


def test_a_handler_gets_nothing_while_delivery_is_paused(stored: CommandedQueue, in_folder: str) -> None:
    """That is said at once."""
    stored.on_queue(lambda queue: queue.pause())
    done = stored.run("drain", "--to", "asyncio-handler", f"{in_folder}:handle")
    assert (done.exit_code, "Handing out is paused" in done.stderr) == (2, True)
    assert stored.run("drain", "--to", "asyncio-handler", f"{in_folder}:handle", "--pause-delivery").exit_code == 2
    assert stored.run("drain", "--to", "asyncio-handler").exit_code == 2
    assert stored.run("drain", "--to", "jsonl").exit_code == 2


def test_a_server_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    """Exit code 3, for each way."""
    away = CommandedQueue("redis://127.0.0.1:1/0", tmp_path, enqueue_timeout=0.3)
    assert away.run("drain", "--to", "list").exit_code == 3
    assert away.run("drain", "--to", "jsonl", str(tmp_path / "f"), "--dry-run").exit_code == 3
