"""The nemesis: several lanes of faults at the same time, each drawing kinds, victims and moments from the seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos import journal as j
from tests.chaos.faults import KINDS, Storm, ended
from tests.chaos.single import SingleServer
from tests.chaos.watched import WatchedServers

POLL = 0.03


@dataclass(frozen=True)
class Lane:
    """Faults that come one after the other; those of different lanes overlap.

    Attributes:
        pause: Mean seconds between the end of one and the next.
        weights: How often each kind comes.
    """

    pause: float
    weights: Mapping[str, float]


PROCESSES = {
    "workers": Lane(1.2, {"worker_kill": 5, "worker_stop": 3, "worker_rolling_restart": 2}),
    "producers": Lane(2.5, {"producer_kill": 4, "producer_stop": 2, "producer_rolling_restart": 1}),
}
SINGLE = {
    **PROCESSES,
    "network": Lane(0.7, {"network_cut": 2, "half_open": 2, "network_delay": 2}),
    "replies": Lane(
        0.6,
        {"swallowed_enqueue_reply": 3, "swallowed_read_reply": 2, "swallowed_settle_reply": 3, "late_request": 2},
    ),
    "connections": Lane(9.0, {"client_kill": 1}),
    "server": Lane(9.0, {"server_kill": 3, "server_stop": 1, "memory_squeeze": 2}),
}
WATCHED = {
    **PROCESSES,
    "connections": Lane(9.0, {"client_kill": 1}),
    "failover": Lane(4.0, {"sentinel_failover": 1, "primary_kill": 1}),
}
LANES = {SingleServer.name: SINGLE, WatchedServers.name: WATCHED}


def lanes_for(arena: str, kinds: Mapping[str, float] | None) -> dict[str, Lane]:
    """Return the usual lanes of an arena, or those that are left with only some kinds, weighted as given."""
    lanes = LANES[arena]
    if kinds is None:
        return lanes
    left = {
        name: Lane(lane.pause, {kind: kinds[kind] for kind in lane.weights if kinds.get(kind)})
        for name, lane in lanes.items()
    }
    return {name: lane for name, lane in left.items() if lane.weights}


async def rage(storm: Storm, seconds: float, seed: str, lanes: Mapping[str, Lane]) -> None:
    """Let all lanes strike for so long, and return when the last fault is mended."""
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        for name, lane in lanes.items():
            tasks.create_task(_strike_on(storm, lane, random.Random(f"{seed}:{name}"), until))


async def _strike_on(storm: Storm, lane: Lane, draw: random.Random, until: float) -> None:
    while True:
        left = until - time.monotonic()
        pause = draw.uniform(0.4, 1.6) * lane.pause
        await asyncio.sleep(max(0.0, min(pause, left)))
        if pause >= left:
            return
        (kind,) = draw.choices(list(lane.weights), list(lane.weights.values()))
        await KINDS[kind](storm, random.Random(draw.random()))


async def supervise(storm: Storm) -> None:
    """Replace processes that ended by themselves; one that a poisonous event killed was struck by a fault."""
    while True:
        for slot in storm.arena.slots.values():
            if slot.wanted and not slot.busy and not slot.running:
                slot.busy = True
                try:
                    pid, code = slot.pid, slot.reap()
                    died = [float(words[1]) for words in j.read(slot.journal) if words[0] == j.DYING]
                    if died:
                        fault = storm.record("poison", slot.current, began=died[-1])
                        fault.held = await storm.arena.held_by(pid)
                        fault.hit = True
                        ended(fault)
                    else:
                        storm.accidents.append(f"{slot.current} ended by itself with {code}: {slot.log}")
                    slot.start()
                    await slot.until_ready()
                finally:
                    slot.busy = False
        await asyncio.sleep(POLL)
