"""How long does one event take from the call that enqueues it to the handler, beside other Python queues?

Nothing else is going on: a process sends one event about every 10 ms, another one waits.
"""

from __future__ import annotations

from benchmarks.model import Case, Scenario
from benchmarks.peers import measures

SCENARIO = Scenario(
    units={"latency p50": "ms", "latency p99": "ms"},
    cases=[Case(name="300 B", events=500, concurrency=100)],
    quick_cases=[Case(name="300 B", events=150, concurrency=100)],
    sides=measures.sides(measures.idle_consumer, measures.idle_producer),
    targets=[
        *measures.targets("latency p50", more=False),
        *measures.targets("latency p99", more=False),
    ],
)
