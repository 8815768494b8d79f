"""The benchmark suite: ours beside bare redis-py and two list queues, in the same run, on a server of its own.

`python -m benchmarks --list` names the scenarios; each of them answers one question, which is its module's docstring.
"""
