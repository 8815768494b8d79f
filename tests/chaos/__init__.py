"""The chaos harness: a storm of faults over producers, workers and servers, and a checker of the journals they leave.

`python -m tests.chaos --help` says how to start it, docs/explanation/chaos.md what it does and how to read its report.
"""
