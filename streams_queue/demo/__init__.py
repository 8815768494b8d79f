"""The demonstration: real load, a worker killed in the middle of it, and a count of what was lost.

Producers and workers are processes of their own and keep journals; what was lost is computed from those and not from
what the queue says about itself. The webhooks that `github_events` makes serve tests and benchmarks as well.
"""
