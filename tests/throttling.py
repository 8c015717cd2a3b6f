"""Attempts at the throttle, for tests that drive its clock."""

from collections.abc import Callable
from dataclasses import dataclass

from job.resilience import Permit, Throttle, wait_for_permit


@dataclass(slots=True, eq=False)
class Attempt(Permit):
    """A permit that knows how long it was waited for, in seconds of the throttle's clock."""

    waited_seconds: float = 0.0


def acquire(
    throttle: Throttle,
    sleep: Callable[[float], None],
    item: str = "",
    *,
    is_retry: bool = False,
    fails_while_others_succeed: bool = False,
) -> Attempt:
    """Wait for the permit of an item's attempt, and return it."""
    clock = throttle._clock  # noqa: SLF001  (a clock of the test, or the default one)
    attempt = Attempt(item, is_retry=is_retry, fails_while_others_succeed=fails_while_others_succeed)
    began = clock()
    wait_for_permit(throttle, attempt, sleep)
    attempt.waited_seconds = clock() - began
    return attempt
