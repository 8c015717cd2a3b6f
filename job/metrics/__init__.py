"""Prometheus metrics of a run, and how they get out: an HTTP endpoint, a push to a Pushgateway, a textfile; pings."""

from job.metrics.counters import Metrics
from job.metrics.endpoint import Endpoint
from job.metrics.push import Pings, Push

__all__ = ["Endpoint", "Metrics", "Pings", "Push"]
