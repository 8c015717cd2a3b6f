"""Counters in a registry of their own, and their ways out: a scraped endpoint, a push, a textfile."""

from job.metrics.counters import Metrics
from job.metrics.endpoint import Endpoint
from job.metrics.push import Push

__all__ = ["Endpoint", "Metrics", "Push"]
