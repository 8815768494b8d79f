"""An observer that remembers what it was told."""

from __future__ import annotations

from streams_queue.messages import Delivery
from streams_queue.observer import Observer


class Recorder(Observer):
    """Keeps every call that a fault test may ask for."""

    def __init__(self) -> None:
        self.handed: list[str] = []
        self.outcomes: list[tuple[str, str]] = []
        self.deaths: list[tuple[str, str]] = []
        self.losses: list[tuple[int, str]] = []
        self.states_lost: list[str] = []
        self.leases_lost: list[Delivery] = []

    def handed_out(self, delivery: Delivery) -> None:
        self.handed.append(delivery.event_id)

    def settled(self, delivery: Delivery, outcome: str) -> None:
        self.outcomes.append((delivery.event_id, outcome))

    def dead(self, event_id: str, reason: str) -> None:
        self.deaths.append((event_id, reason))

    def lost(self, count: int, reason: str) -> None:
        self.losses.append((count, reason))

    def state_lost(self, detail: str) -> None:
        self.states_lost.append(detail)

    def lease_lost(self, delivery: Delivery) -> None:
        self.leases_lost.append(delivery)
