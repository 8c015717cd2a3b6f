"""Prometheus metrics of a run, and how they get out: an HTTP endpoint, a push to a Pushgateway, a textfile."""

from job.metrics.counters import Metrics
from job.metrics.endpoint import Endpoint
from job.metrics.push import Push

__all__ = ["Endpoint", "Metrics", "Push"]
