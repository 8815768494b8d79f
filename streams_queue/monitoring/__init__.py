"""What Prometheus, and whoever probes a process, is told: pages over HTTP, an exporter, and rules for alerts.

`page` serves `/metrics`, `/healthz` and `/readyz` of one process, `readiness` says when a worker or a queue is ready,
`exporter` looks at whole queues, `alerts` writes the rules. See docs/decisions/0081-prometheus.md.
"""
