"""Resilience: retries, back-off, limits, Retry-After and circuit breaker, as wrappers around one `get`."""

from job.resilience.attempt import Measured, Origins, Throttled, ThrottledAmongOthers, Validated
from job.resilience.retrying import Authorized, RetryEvent, Retrying, RetryPolicy, retry_until
from job.resilience.throttle import Throttle, wait_for_permit
from job.resilience.types import MAX_RETRY_AFTER_SECONDS, ItemRequest, Permit, Source, ThrottleEvents, ThrottleLimits

__all__ = [
    "MAX_RETRY_AFTER_SECONDS",
    "Authorized",
    "ItemRequest",
    "Measured",
    "Origins",
    "Permit",
    "RetryEvent",
    "RetryPolicy",
    "Retrying",
    "Source",
    "Throttle",
    "ThrottleEvents",
    "ThrottleLimits",
    "Throttled",
    "ThrottledAmongOthers",
    "Validated",
    "retry_until",
    "wait_for_permit",
]
