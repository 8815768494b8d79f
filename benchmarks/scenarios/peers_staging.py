"""How many events a second can one process put into the queue, beside other Python queues?

Each takes its own batch where it has one; otherwise 100 tasks enqueue at once. The clock stops when the queue's own
records on the server count all events.
"""

from __future__ import annotations

from benchmarks.counting import Watch
from benchmarks.model import Case, Scenario
from benchmarks.peers import measures

SCENARIO = Scenario(
    units=Watch.UNITS,
    cases=[Case(name="300 B", events=20_000, concurrency=100)],
    quick_cases=[Case(name="300 B", events=3_000, concurrency=100)],
    sides=measures.sides(measures.staging),
    targets=list(measures.targets("throughput", more=True)),
)
