"""Observers: every call reaches each of them, and none of them can hurt the queue."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from streams_queue.errors import BackendTimeout
from streams_queue.messages import Delivery
from streams_queue.observer import Observer, Observers

DELIVERY = Delivery(payload={}, event_id="a", entry_id="1-1", deliveries=1, headers={"traceparent": "00-1"})
CALLS: dict[str, tuple[Any, ...]] = {
    "accepted": (2,),
    "rejected": (3,),
    "handed_out": (DELIVERY,),
    "settled": (DELIVERY, "acked"),
    "settled_together": (1, "acked", [DELIVERY]),
    "dead": ("a", "max_retries"),
    "lost": (4, "deleted"),
    "state_lost": ("gone",),
    "lease_lost": (DELIVERY,),
    "reclaimed": (6,),
    "operation": ("enqueue", 0.001, None),
    "handling": (DELIVERY,),
    "handled": (DELIVERY, 0.5, "processed", None),
    "handled_together": ([0.5], "processed"),
    "fallback_on": ("no answer",),
    "fallback_off": (5,),
}


class Listener(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        if name in CALLS:
            return lambda *args: self.heard.append((name, *args))
        return super().__getattribute__(name)


class Broken(Observer):
    def __getattribute__(self, name: str) -> Any:
        if name in CALLS:
            raise RuntimeError(f"no {name} today")
        return super().__getattribute__(name)


def test_these_are_all_calls_of_the_protocol() -> None:
    """The cases below miss none."""
    assert {name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if name[0] != "_"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_every_call_reaches_each_observer_in_order(name: str) -> None:
    """With its arguments as they are; who hears of one settlement hears of it alone and together with others."""
    first, second = Listener(), Listener()
    getattr(Observers([first, second]), name)(*CALLS[name])
    assert first.heard == second.heard
    if name.startswith("settled"):
        assert first.heard == [("settled", DELIVERY, "acked"), ("settled_together", 1, "acked", [DELIVERY])]
    else:
        assert first.heard == [(name, *CALLS[name])]


@pytest.mark.parametrize("name", CALLS)
def test_one_that_raises_is_logged_and_never_felt(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The one behind it is told all the same, and the log names the call and the error."""
    listener = Listener()
    getattr(Observers([Broken(), listener]), name)(*CALLS[name])
    assert name in [call for call, *_ in listener.heard]
    (record,) = (record for record in caplog.records if f"failed in {name};" in record.getMessage())
    assert f"failed in {name}" in record.getMessage()
    assert record.exc_info
    assert f"no {name} today" in str(record.exc_info[1])


@pytest.mark.parametrize("name", CALLS)
def test_nobody_needs_to_listen(name: str) -> None:
    """Without observers, and with one that overrides nothing, every call does nothing."""

    class Indifferent(Observer):
        pass

    assert getattr(Observers(), name)(*CALLS[name]) is None
    assert getattr(Indifferent(), name)(*CALLS[name]) is None


def test_an_observer_is_known_by_its_methods() -> None:
    """No base class is needed."""
    assert isinstance(Observers(), Observer)
    assert not isinstance(object(), Observer)


# --- what is not listened to costs nothing ---


def test_a_call_that_nobody_overrides_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An observer of one thing costs nothing where the others happen."""
    made: list[str] = []
    monkeypatch.setattr(Observer, "handed_out", lambda self, delivery: made.append("handed_out"))

    class Counter(Observer):
        def accepted(self, count: int) -> None:
            made.append("accepted")

    observers = Observers([Counter()])
    observers.handed_out(DELIVERY)
    observers.accepted(1)

    assert made == ["accepted"]
    assert not any((observers.watch_handlers, observers.watch_handed_out, observers.watch_settled))


@pytest.mark.parametrize("call", ["handling", "handled", "handled_together"])
def test_handlers_are_watched_for_whoever_listens_to_any_of_it(call: str) -> None:
    """The worker asks once, when it is made."""
    watcher = type("Watcher", (Observer,), {call: lambda self, *args: None})
    assert Observers([watcher()]).watch_handlers


def test_a_round_trip_is_told_with_its_time_or_its_failure() -> None:
    """One that waits has no time to tell; what fails for other reasons is no failure of the server."""
    listener, broken = Listener(), BackendTimeout("no reply")
    observers = Observers([listener])

    with observers.timing("enqueue"):
        pass
    with pytest.raises(BackendTimeout), observers.timing("read", waits=True):
        raise broken
    with pytest.raises(ValueError, match="ours"), observers.timing("nack"):
        raise ValueError("ours")

    (_, name, seconds, error), waited = listener.heard
    assert (name, error) == ("enqueue", None)
    assert 0 <= seconds < 10
    assert waited == ("operation", "read", None, broken)


def test_a_reply_that_is_handed_on_is_told_before() -> None:
    """With the error that it is."""
    listener, handed_on = Listener(), list[Any]()
    broken = BackendTimeout("no reply")
    for reply in ("fine", broken):
        Observers([listener]).telling("enqueue", handed_on.append)(reply)
    assert handed_on == ["fine", broken]
    assert [(name, error) for _, name, _, error in listener.heard] == [("enqueue", None), ("enqueue", broken)]


def test_without_a_listener_nothing_is_timed() -> None:
    """All round trips share one object that does nothing, and a reply goes straight where it is handed on."""
    assert Observers().timing("enqueue") is Observers().timing("ack")
    assert Observers().telling("enqueue", print) is print
