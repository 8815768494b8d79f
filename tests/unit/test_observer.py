"""Observers: every call reaches each of them, and none of them can hurt the queue."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from streams_queue.messages import Delivery
from streams_queue.observer import Observer, Observers

DELIVERY = Delivery(payload={}, event_id="a", entry_id="1-1", deliveries=1)
CALLS: dict[str, tuple[Any, ...]] = {
    "accepted": (2,),
    "rejected": (3,),
    "handed_out": (DELIVERY,),
    "settled": (DELIVERY, "acked"),
    "dead": ("a", "max_retries"),
    "lost": (4, "deleted"),
    "state_lost": ("gone",),
    "lease_lost": (DELIVERY,),
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
    """With its arguments as they are."""
    first, second = Listener(), Listener()
    getattr(Observers([first, second]), name)(*CALLS[name])
    assert first.heard == second.heard == [(name, *CALLS[name])]


@pytest.mark.parametrize("name", CALLS)
def test_one_that_raises_is_logged_and_never_felt(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The one behind it is told all the same, and the log names the call and the error."""
    listener = Listener()
    getattr(Observers([Broken(), listener]), name)(*CALLS[name])
    assert listener.heard == [(name, *CALLS[name])]
    (record,) = caplog.records
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
