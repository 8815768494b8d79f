"""How many events a second can one worker process take, handle and acknowledge, beside other Python queues?

The handler does nothing, and 100 may run at once. The clock stops when all have run and the queue's own records on the
server count nothing that is waiting or not acknowledged.
"""

from __future__ import annotations

from benchmarks.counting import Watch
from benchmarks.model import Case, Scenario
from benchmarks.peers import measures

SCENARIO = Scenario(
    units=Watch.UNITS,
    cases=[Case(name="300 B", events=20_000, concurrency=100)],
    quick_cases=[Case(name="300 B", events=3_000, concurrency=100)],
    sides=measures.sides(measures.draining),
    targets=list(measures.targets("throughput", more=True)),
)
