"""May a request to the origin start now: its pace, its pauses, and whether it is there at all."""

from job.resilience.throttle import Throttle
from job.resilience.types import Permit, ThrottleEvents, ThrottleLimits

__all__ = ["Permit", "Throttle", "ThrottleEvents", "ThrottleLimits"]
